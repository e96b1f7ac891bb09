package kernel

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// The sender of a solicitation, as the kernel picks it for a packet that waits to
// be sent. These functions are pure; Table.Sender reads what they are given.

// arpSender returns the sender of an ARP request for target: arp_solicit in
// net/ipv4/arp.c. source is where the packet comes from, the zero value if that is
// no local address; announce is arp_announce, and own the addresses of the device,
// in the kernel's order. The zero value says that neither yields a sender, which is
// anySender's then. With localnet (route_localnet) addresses of scope host count.
func arpSender(target, source netip.Addr, announce int, localnet bool, own []ownAddress) netip.Addr {
	switch announce {
	case 1:
		if source.IsValid() && sameSubnet(target, source, own) {
			return source
		}
	case 2:
	default: // 0, and any other value
		if source.IsValid() {
			return source
		}
	}
	// inet_select_addr with the device and RT_SCOPE_LINK.
	var first netip.Addr
	for _, a := range own {
		scope := a.scope
		if localnet {
			scope = min(scope, unix.RT_SCOPE_LINK)
		}
		if a.secondary() || scope > unix.RT_SCOPE_LINK {
			continue
		}
		if a.subnet.Contains(target) {
			return a.Addr()
		}
		if !first.IsValid() {
			first = a.Addr()
		}
	}
	return first
}

// sameSubnet reports whether one of the device's networks has both addresses in
// it: inet_addr_onlink in net/ipv4/devinet.c.
func sameSubnet(a, b netip.Addr, own []ownAddress) bool {
	for _, o := range own {
		if o.subnet.Contains(a) && o.subnet.Contains(b) {
			return true
		}
	}
	return false
}

// anySender returns the sender of an ARP request on a device that has none of its
// own: the first address of any device that is known beyond its link, loopback
// before all, or 0.0.0.0 (inet_select_addr, the part about other devices). all are
// the addresses of all devices by index. That is the kernel's order as long as no
// device has come from another namespace with a low index. VRFs are not told apart.
func anySender(all []ownAddress) netip.Addr {
	for _, a := range all {
		if !a.secondary() && a.scope < unix.RT_SCOPE_LINK {
			return a.Addr()
		}
	}
	return netip.IPv4Unspecified()
}

// ndSender returns the sender of a Neighbor Solicitation: where the packet comes
// from, if that is an address of the device, and else a link-local address of the
// device (ndisc_solicit, ndisc_send_ns in net/ipv6/ndisc.c). An address that
// duplicate address detection is not done with is neither. The zero value says that
// the kernel sends no solicitation.
func ndSender(source netip.Addr, own []ownAddress) netip.Addr {
	var lladdr netip.Addr // the last one in the list: __ipv6_get_lladdr goes backwards
	for _, a := range own {
		if a.flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_OPTIMISTIC) != 0 {
			continue
		}
		if a.Addr() == source {
			return source
		}
		if a.Addr().IsLinkLocalUnicast() {
			lladdr = a.Addr()
		}
	}
	return lladdr
}
