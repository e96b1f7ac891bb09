package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// Topology reads the devices, their addresses and base_reachable_time, and the next
// hops of all routes in all tables.
//
// A dump that was interrupted by a change is taken as it is, except that the devices
// are read again. On a node that speaks BGP routes change all the time, and what is
// missing does no harm: an entry on an unknown device is kept, and a next hop that is
// not known as one is renewed like any other entry. Where base_reachable_time cannot
// be read the default is used: few change it.
func (t *Table) Topology() (neigh.Topology, error) {
	t.dumping.Lock()
	defer t.dumping.Unlock()
	devices, err := t.dumps.devices(0)
	if err != nil {
		return neigh.Topology{}, fmt.Errorf("listing devices: %w", err)
	}
	topo := neigh.Topology{Links: links(devices), NextHops: make(map[neigh.Key]bool)}
	_ = t.dumps.list(unix.RTM_GETNEIGHTBL, make([]byte, ndtmsgLen), func(b []byte) error {
		p, err := decodeParms(b)
		if l, ok := topo.Links[p.index]; ok {
			l.BaseReachable[p.family] = p.baseReachable
			topo.Links[p.index] = l
		}
		return err
	})
	err = t.dumps.addresses(unix.AF_UNSPEC, 0, func(own ownAddress) {
		if onLinkSubnet(own.Prefix) {
			markUplink(topo.Links, own.index)
		}
	})
	if tolerate(err) != nil {
		return neigh.Topology{}, fmt.Errorf("listing addresses: %w", err)
	}
	// Table 0 stands for every table, those of VRFs and policy routing included.
	err = t.dumps.list(unix.RTM_GETROUTE, make([]byte, unix.SizeofRtMsg), func(b []byte) error {
		return decodeRoute(b, func(hop neigh.Key, isDefault bool) {
			if hop.Addr.IsUnspecified() {
				return
			}
			topo.NextHops[hop] = topo.NextHops[hop] || isDefault
			markUplink(topo.Links, hop.Index)
		})
	})
	if tolerate(err) != nil {
		return neigh.Topology{}, fmt.Errorf("listing routes: %w", err)
	}
	return topo, nil
}

// list asks for all there is of something (RTM_GET*), and calls each with the body
// of every message about it.
func (c *conn) list(get uint16, body []byte, each func(body []byte) error) error {
	return c.dump(func(b []byte, seq uint32) []byte {
		return appendMessage(b, get, unix.NLM_F_DUMP, seq, body)
	}, func(m message) error {
		if m.typ != get-2 { // RTM_NEW*
			return nil
		}
		return each(m.body)
	})
}

// addresses lists this host's own addresses of one family, or of all, in the
// kernel's order on each device; where device is not 0, those on that one. Then, where
// the kernel can (strict checking, Linux 5.0), it asks for those alone: a node may have
// thousands on another device.
func (c *conn) addresses(family uint8, device int, each func(ownAddress)) error {
	if device != 0 && unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1) == nil {
		defer func() { _ = unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 0) }()
	}
	request := make([]byte, unix.SizeofIfAddrmsg)
	request[0] = family
	binary.NativeEndian.PutUint32(request[4:], uint32(device)) //nolint:gosec // an int32 by origin
	return c.list(unix.RTM_GETADDR, request, func(b []byte) error {
		own, err := decodeAddress(b)
		if err == nil && (device == 0 || own.index == device) {
			each(own)
		}
		return err
	})
}

// tolerate returns nil for the error of a list that was interrupted, unless it was
// refused (EBUSY) and nothing has been read.
func tolerate(err error) error {
	if errors.Is(err, neigh.ErrInterrupted) && !errors.Is(err, unix.EBUSY) {
		return nil
	}
	return err
}

// onLinkSubnet reports whether p is a global unicast address with a subnet
// around it. Host addresses (/32, /128) are left out: the ptp CNI plugin gives
// one to every pod device, and a real uplink that has only such an address has
// a next hop behind it.
func onLinkSubnet(p netip.Prefix) bool {
	return p.IsValid() && !p.IsSingleIP() && p.Addr().IsGlobalUnicast()
}

func markUplink(links map[int]neigh.Link, index int) {
	if l, ok := links[index]; ok && !l.Loopback && !l.NoARP {
		l.Uplink = true
		links[index] = l
	}
}

// ownAddress is one of this host's own, with the length of its network's prefix.
type ownAddress struct {
	netip.Prefix              // not valid for another family than IPv4 and IPv6
	subnet       netip.Prefix // of the peer, where there is one
	index        int          // of the device
	flags        uint8        // the lower eight of IFA_F_*
	scope        uint8        // RT_SCOPE_*
	created      uint32       // when, since the start of the machine, in 10 ms
}

// secondary says that the address is not the first of its subnet on the device.
// The flag means that for IPv4 alone.
func (a *ownAddress) secondary() bool { return a.flags&unix.IFA_F_SECONDARY != 0 }

// decodeAddress reads the body of an RTM_NEWADDR message.
func decodeAddress(b []byte) (ownAddress, error) {
	if len(b) < unix.SizeofIfAddrmsg {
		return ownAddress{}, fmt.Errorf("ifaddrmsg of %d bytes: %w", len(b), neigh.ErrMalformed)
	}
	family, bits := b[0], int(b[1])
	a := ownAddress{index: index(b[4:]), flags: b[2], scope: b[3]}
	var own, peer netip.Addr
	if err := eachAttr(b[unix.SizeofIfAddrmsg:], func(typ uint16, v []byte) error {
		// With a peer, IFA_ADDRESS is the peer's; IPv6 has no IFA_LOCAL without one.
		if typ == unix.IFA_LOCAL || typ == unix.IFA_ADDRESS && !own.IsValid() {
			if own = addrOf(family, v); !own.IsValid() && isIP(family) {
				return fmt.Errorf("address of %d bytes in family %d: %w", len(v), family, neigh.ErrMalformed)
			}
		}
		if typ == unix.IFA_ADDRESS {
			peer = addrOf(family, v)
		}
		if typ == unix.IFA_CACHEINFO && len(v) >= 12 { // struct ifa_cacheinfo
			a.created = binary.NativeEndian.Uint32(v[8:])
		}
		return nil
	}); err != nil {
		return ownAddress{}, err
	}
	if !peer.IsValid() {
		peer = own
	}
	a.Prefix, a.subnet = netip.PrefixFrom(own, bits), netip.PrefixFrom(peer, bits)
	return a, nil
}

// decodeRoute reads the body of an RTM_NEWROUTE message, and calls visit for each
// of its next hops.
func decodeRoute(b []byte, visit func(hop neigh.Key, isDefault bool)) error {
	if len(b) < unix.SizeofRtMsg {
		return fmt.Errorf("rtmsg of %d bytes: %w", len(b), neigh.ErrMalformed)
	}
	family, isDefault := b[0], isIP(b[0]) && b[1] == 0
	hop, hops, err := decodeHop(b[unix.SizeofRtMsg:], family)
	if err != nil {
		return err
	}
	if hop.Addr.IsValid() {
		visit(hop, isDefault)
	}
	for len(hops) >= unix.SizeofRtNexthop { // RTA_MULTIPATH
		n := int(binary.NativeEndian.Uint16(hops))
		if n < unix.SizeofRtNexthop || n > len(hops) {
			return fmt.Errorf("next hop of %d bytes where %d are left: %w", n, len(hops), neigh.ErrMalformed)
		}
		hop, _, err := decodeHop(hops[unix.SizeofRtNexthop:n], family)
		if err != nil {
			return err
		}
		if hop.Index = index(hops[4:]); hop.Addr.IsValid() {
			visit(hop, isDefault)
		}
		hops = hops[min(align(n), len(hops)):]
	}
	return nil
}

// decodeHop reads the attributes of a route, or of one of its next hops. The
// address is not valid where they name no gateway; others are the next hops behind
// RTA_MULTIPATH.
func decodeHop(b []byte, family uint8) (hop neigh.Key, others []byte, err error) {
	err = eachAttr(b, func(typ uint16, v []byte) error {
		wrong := false
		switch typ {
		case unix.RTA_OIF:
			if wrong = len(v) < 4; !wrong {
				hop.Index = index(v)
			}
		case unix.RTA_GATEWAY:
			hop.Addr = addrOf(family, v)
			wrong = !hop.Addr.IsValid() && isIP(family)
		case unix.RTA_VIA: // struct rtvia. RFC 5549: an IPv4 route by way of an IPv6 neighbour
			if wrong = len(v) < 2; !wrong {
				via := binary.NativeEndian.Uint16(v)
				hop.Addr = addrOf(uint8(min(via, 0xff)), v[2:])
				wrong = !hop.Addr.IsValid() && via <= 0xff && isIP(uint8(via))
			}
		case unix.RTA_MULTIPATH:
			others = v
		}
		if wrong {
			return fmt.Errorf("attribute %d of a route in family %d, of %d bytes: %w", typ, family, len(v), neigh.ErrMalformed)
		}
		return nil
	})
	return hop, others, err
}

func index(b []byte) int { return int(int32(binary.NativeEndian.Uint32(b))) } //nolint:gosec // signed in the kernel

func isIP(family uint8) bool { return family == unix.AF_INET || family == unix.AF_INET6 }

// addrOf returns the address, or the zero value for one of another length or
// family.
func addrOf(family uint8, b []byte) netip.Addr {
	switch {
	case family == unix.AF_INET && len(b) == 4:
		return netip.AddrFrom4([4]byte(b))
	case family == unix.AF_INET6 && len(b) == 16:
		return netip.AddrFrom16([16]byte(b))
	}
	return netip.Addr{}
}
