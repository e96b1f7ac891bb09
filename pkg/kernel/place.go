package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// Place returns where the kernel would send the packets of a socket that is bound
// to the device with the given index (SO_BINDTODEVICE), which may be a VRF, or of
// any other socket where that is 0. Rules for an outgoing device, and the tables
// of VRFs, count (l3mdev_fib_rule_match); and where no route is by that device,
// the kernel takes an IPv4 address to be on its link (ip_route_output_key_hash).
// The error wraps neigh.ErrGone where there is no route.
func (t *Table) Place(a netip.Addr, device int) (neigh.Place, error) {
	a = a.Unmap().WithZone("")
	p, err := t.place(a, device)
	if err != nil {
		return neigh.Place{}, fmt.Errorf("placing %s: %w", a, err)
	}
	return p, nil
}

func (t *Table) place(a netip.Addr, device int) (neigh.Place, error) {
	switch {
	case !a.IsValid():
		return neigh.Place{}, errors.New("no address")
	case a.Is6() && a.IsLinkLocalUnicast():
		return neigh.Place{}, errors.New("a link-local address says nothing without a device") // every one has some
	}
	r, err := t.boundWay(a, device)
	if r, err = sourced(a, r, err); err != nil {
		return neigh.Place{}, noRoute(err)
	}
	link, err := t.link(r.Index)
	if err != nil {
		return neigh.Place{}, err
	}
	p := neigh.Place{Link: link, Gateway: r.Gateway, Local: r.Local}
	if p.Local {
		err = t.carrier(a, device, &p)
	}
	return p, err
}

// noRoute adds neigh.ErrGone to what the kernel says where it has no route, or
// one of type unreachable, prohibit or blackhole (fib_props in
// net/ipv4/fib_semantics.c).
func noRoute(err error) error {
	for _, errno := range [...]unix.Errno{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES, unix.EINVAL} {
		if errors.Is(err, errno) {
			return fmt.Errorf("%w (%w)", neigh.ErrGone, err)
		}
	}
	return err
}

// carrier finds out which device carries a local address. The route does not
// say: for IPv4 it always names the loopback device.
func (t *Table) carrier(a netip.Addr, device int, p *neigh.Place) error {
	var own ownAddresses
	err := t.addresses(familyOf(a), 0, func(o ownAddress) {
		if o.Addr() == a || onLinkSubnet(o.Prefix) {
			own = append(own, o)
		}
	})
	interrupted := errors.Is(err, neigh.ErrInterrupted)
	if err != nil && !interrupted {
		return fmt.Errorf("listing addresses: %w", err)
	}
	p.Here = a.IsLoopback() // all of 127.0.0.0/8, which lo has one address of
	for _, i := range own.find(a, device) {
		d, err := t.device(own[i].index)
		if err != nil {
			return err
		}
		if p.Link, err = t.linkTo(d); err != nil {
			return err
		}
		if !d.NoARP {
			p.Here, p.Own = true, own.known(i, d.lower)
			return nil
		}
	}
	if interrupted && !p.Here { // it may be what is missing
		return fmt.Errorf("listing addresses: %w", err)
	}
	return nil
}

// addresses is conn.addresses, after any other dump.
func (t *Table) addresses(family uint8, device int, each func(ownAddress)) error {
	t.dumping.Lock()
	defer t.dumping.Unlock()
	return t.dumps.addresses(family, device, each)
}

// ownAddresses are this host's, in the order in which the kernel lists them.
type ownAddresses []ownAddress

// find returns where an address is in the list, first on the given device.
func (l ownAddresses) find(a netip.Addr, device int) (found []int) {
	for i, o := range l {
		switch {
		case o.Addr() != a:
		case o.index == device:
			found = slices.Insert(found, 0, i)
		default:
			found = append(found, i)
		}
	}
	return found
}

// known reports whether an address is one that the host is known by: neigh.Place.Own.
// lower is the index of the device that the address's own one is stacked on, or 0.
func (l ownAddresses) known(i, lower int) bool { return l.first(i) && !l.subnetOn(lower, l[i].Addr()) }

// first reports whether an address is the first of its subnet on its device. For
// IPv4 the kernel says so. For IPv6 it does not: addresses that were added by hand, or
// by a program, are compared by the time at which they were added. One that routers
// advertise does not move between hosts, so it counts as the first. One that is
// deprecated for good does not: the host does not speak from it.
func (l ownAddresses) first(i int) bool {
	own := l[i]
	if !onLinkSubnet(own.Prefix) || own.Addr().Is4() && own.secondary() {
		return false
	}
	if own.Addr().Is4() || own.flags&unix.IFA_F_PERMANENT == 0 {
		return true
	}
	if own.flags&unix.IFA_F_DEPRECATED != 0 {
		return false
	}
	for j, o := range l {
		// The kernel lists the newest first (ipv6_link_dev_addr).
		older := o.created < own.created || o.created == own.created && j > i
		if older && o.index == own.index && o.flags&unix.IFA_F_PERMANENT != 0 && onLinkSubnet(o.Prefix) && o.Contains(own.Addr()) {
			return false
		}
	}
	return true
}

// subnetOn reports whether a device has an address, other than this one, with a
// subnet that includes it.
func (l ownAddresses) subnetOn(device int, a netip.Addr) bool {
	return device != 0 && slices.ContainsFunc(l, func(o ownAddress) bool {
		return o.index == device && o.Addr() != a && onLinkSubnet(o.Prefix) && o.Contains(a)
	})
}

// Route is the kernel's way to an address.
type Route struct {
	Index   int        // of the device
	Source  netip.Addr // the address packets leave from
	Gateway netip.Addr // not valid where the address is on link
	Local   bool       // the address is this host's own
}

// Route returns the kernel's way to an address, by the device with the given
// index, or by whatever device it likes where that is 0. The error wraps
// neigh.ErrGone where there is no such device, or the way has no source address or
// is by another device, and an errno such as ENETUNREACH where there is no way.
func (t *Table) Route(a netip.Addr, index int) (Route, error) {
	r, err := t.way(a, index)
	return sourced(a, r, err)
}

// sourced names the address in the error of a way to it, and refuses one without a
// source address.
func sourced(a netip.Addr, r Route, err error) (Route, error) {
	if err == nil && !r.Source.IsValid() {
		err = fmt.Errorf("it has no source address: %w", neigh.ErrGone)
	}
	if err != nil {
		return Route{}, fmt.Errorf("finding the route to %s: %w", a, err)
	}
	return r, nil
}

// way is Route for callers that do not need a source address.
func (t *Table) way(a netip.Addr, index int) (Route, error) {
	r, err := t.boundWay(a, index)
	if err == nil && index != 0 && r.Index != index {
		err = fmt.Errorf("it is by device %d: %w", r.Index, neigh.ErrGone)
	}
	return r, err
}

// boundWay is the way of a socket that is bound to a device. Where that is a VRF,
// it is by another one, which is in the VRF.
func (t *Table) boundWay(a netip.Addr, device int) (r Route, err error) {
	err = t.one(unix.RTM_NEWROUTE, func(b []byte, seq uint32) []byte {
		return appendRouteRequest(b, a, device, seq)
	}, func(body []byte) (err error) {
		r, err = decodeWay(body)
		return err
	})
	return r, err
}

// appendRouteRequest appends a request for the way to an address, by the device with
// this index where that is not 0.
func appendRouteRequest(b []byte, a netip.Addr, index int, seq uint32) []byte {
	start := len(b)
	b = appendHeader(b, unix.RTM_GETROUTE, 0, seq)
	b = append(b, familyOf(a), uint8(a.BitLen()), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0) //nolint:gosec // struct rtmsg; 32 or 128
	b = appendAddrAttr(b, unix.RTA_DST, a)
	if index != 0 {
		var oif [4]byte
		binary.NativeEndian.PutUint32(oif[:], uint32(index)) //nolint:gosec // an int32 by origin
		b = appendAttr(b, unix.RTA_OIF, oif[:])
	}
	return endMessage(b, start)
}

// decodeWay reads the body of the RTM_NEWROUTE message that answers a request for
// the way to one address.
func decodeWay(b []byte) (Route, error) {
	if len(b) < unix.SizeofRtMsg {
		return Route{}, fmt.Errorf("rtmsg of %d bytes: %w", len(b), neigh.ErrMalformed)
	}
	family, attrs := b[0], b[unix.SizeofRtMsg:]
	hop, _, err := decodeHop(attrs, family)
	if err != nil {
		return Route{}, err
	}
	source, err := findAttr(attrs, unix.RTA_PREFSRC)
	if err != nil {
		return Route{}, err
	}
	return Route{Index: hop.Index, Source: addrOf(family, source), Gateway: hop.Addr, Local: b[7] == unix.RTN_LOCAL}, nil
}
