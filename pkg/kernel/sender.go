package kernel

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// Sender returns the address from which the kernel would ask for a on the device
// with this index, if a packet of this host's own were waiting for it: the sender of
// an ARP request, 0.0.0.0 where the host has no address, or the source of a
// Neighbor Solicitation. It may be another one a moment later. The error wraps
// neigh.ErrGone where the kernel would not ask: it has no such device, no way to a by
// it, or no address for a Neighbor Solicitation.
func (t *Table) Sender(a netip.Addr, device int) (netip.Addr, error) {
	return t.NewSender(a, device).Addr()
}

// settingsAge is for how long a Sender takes arp_announce and the like to be what they
// were.
const settingsAge = 30 * time.Second

// Sender is Table.Sender for one address that is asked for again and again. Mostly it
// reads the route alone. It is for one goroutine.
type Sender struct {
	table  *Table
	addr   netip.Addr
	device int

	last netip.Addr // the sender, where it is the source of the route and an address of the device; or none
	at   time.Time  // when that was found
}

// NewSender returns a Sender of a on the device with this index.
func (t *Table) NewSender(a netip.Addr, device int) *Sender {
	return &Sender{table: t, addr: a.WithZone(""), device: device}
}

// Addr returns what Table.Sender does. What was the sender before, and is still the
// source of packets by the route, is the sender: the kernel gives them no address that
// the host has lost (fib_sync_down_addr in net/ipv4/fib_semantics.c, rt6_remove_prefsrc
// in net/ipv6/route.c).
func (s *Sender) Addr() (netip.Addr, error) {
	sender, err := s.find()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("finding the address to ask for %s from: %w", s.addr, err)
	}
	return sender, nil
}

func (s *Sender) find() (netip.Addr, error) {
	r, err := s.table.way(s.addr, s.device)
	if err != nil {
		return netip.Addr{}, noRoute(err)
	}
	now := time.Now()
	if s.last.IsValid() && r.Source == s.last && now.Sub(s.at) < settingsAge {
		return s.last, nil
	}
	sender, own, err := s.by(&r)
	s.last, s.at = netip.Addr{}, now
	if own && sender == r.Source {
		s.last = sender
	}
	return sender, err
}

// by returns the sender for packets on their way by a route, and whether it is an
// address of the device.
func (s *Sender) by(r *Route) (sender netip.Addr, own bool, err error) {
	var all []ownAddress
	err = s.table.addresses(familyOf(s.addr), s.device, func(o ownAddress) { all = append(all, o) })
	if err := tolerate(err); err != nil {
		return netip.Addr{}, false, fmt.Errorf("listing the addresses of device %d: %w", s.device, err)
	}
	if s.addr.Is4() {
		sender, err = s.arp(r.Source, all)
	} else if sender = ndSender(r.Source, all); !sender.IsValid() {
		err = fmt.Errorf("device %d has no address that has passed duplicate address detection: %w", s.device, neigh.ErrGone)
	}
	return sender, has(all, sender), err
}

// arp reads what else the sender of an ARP request depends on.
func (s *Sender) arp(source netip.Addr, own []ownAddress) (netip.Addr, error) {
	conf, err := s.table.settings(s.device)
	if err != nil {
		return netip.Addr{}, err
	}
	if conf.arpAnnounce != 2 && source.IsValid() && !has(own, source) {
		if r, err := s.table.way(source, 0); err != nil || !r.Local {
			source = netip.Addr{}
		}
	}
	if sender := arpSender(s.addr, source, conf.arpAnnounce, conf.routeLocalnet, own); sender.IsValid() {
		return sender, nil
	}
	own = own[:0]
	err = s.table.addresses(unix.AF_INET, 0, func(o ownAddress) { own = append(own, o) })
	if err := tolerate(err); err != nil {
		return netip.Addr{}, fmt.Errorf("listing addresses: %w", err)
	}
	slices.SortStableFunc(own, func(a, b ownAddress) int { return cmp.Compare(a.index, b.index) })
	return anySender(own), nil
}

func has(own []ownAddress, a netip.Addr) bool {
	return slices.ContainsFunc(own, func(o ownAddress) bool { return o.Addr() == a })
}

// What follows is pure: the sender of a solicitation, as the kernel picks it for a
// packet that waits to be sent.

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
