package kernel

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// errLinkLocal: every device has a network of these addresses.
var errLinkLocal = errors.New("a link-local address says nothing without a device")

// Place returns where the kernel would send packets for an address. The error
// wraps neigh.ErrGone where there is no route.
func (t *Table) Place(a netip.Addr) (neigh.Place, error) {
	a = a.Unmap().WithZone("")
	p, err := t.place(a)
	if err != nil {
		return neigh.Place{}, fmt.Errorf("placing %s: %w", a, err)
	}
	return p, nil
}

func (t *Table) place(a netip.Addr) (neigh.Place, error) {
	if a.Is6() && a.IsLinkLocalUnicast() {
		return neigh.Place{}, errLinkLocal
	}
	r, err := t.Route(a, 0)
	if err != nil {
		return neigh.Place{}, noRoute(err)
	}
	link, err := t.link(r.Index)
	if err != nil {
		return neigh.Place{}, err
	}
	p := neigh.Place{Link: link, Source: r.Source, Gateway: r.Gateway, Local: r.Local}
	if p.Local {
		return p, t.carrier(a, &p)
	}
	return p, nil
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
func (t *Table) carrier(a netip.Addr, p *neigh.Place) error {
	family := netlink.FAMILY_V6
	if a.Is4() {
		family = netlink.FAMILY_V4
	}
	addrs, err := t.handle.AddrList(nil, family)
	interrupted := errors.Is(err, netlink.ErrDumpInterrupted)
	if err != nil && !interrupted {
		return fmt.Errorf("listing addresses: %w", err)
	}
	p.Here = a.IsLoopback() // all of 127.0.0.0/8, which lo has one address of
	for _, addr := range addrs {
		if ip, ok := netip.AddrFromSlice(addr.IP); !ok || ip.Unmap() != a {
			continue
		}
		link, err := t.link(addr.LinkIndex)
		if err != nil {
			return err
		}
		p.Link = link
		if !link.NoARP {
			p.Here = true
			ones, _ := addr.Mask.Size()
			p.Own = onLinkSubnet(netip.PrefixFrom(a, ones)) && addr.Flags&unix.IFA_F_SECONDARY == 0
			return nil
		}
	}
	if interrupted && !p.Here { // it may be what is missing
		return fmt.Errorf("listing addresses: %w (%w)", neigh.ErrInterrupted, err)
	}
	return nil
}

func (t *Table) link(index int) (neigh.Link, error) {
	l, err := t.handle.LinkByIndex(index)
	var gone netlink.LinkNotFoundError
	switch {
	case errors.As(err, &gone):
		return neigh.Link{}, fmt.Errorf("device %d: %w", index, neigh.ErrGone)
	case err != nil:
		return neigh.Link{}, fmt.Errorf("reading device %d: %w", index, err)
	}
	a := l.Attrs()
	return linkOf(a.Index, a.Name, a.RawFlags), nil
}
