package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// Own returns what this host is known by: the addresses that Place calls Own, on
// devices that take part in address resolution. Unlike Topology it takes no list for
// whole that a change has interrupted: one address less may make another the first of
// its subnet. It tries three times; the error wraps neigh.ErrInterrupted then.
func (t *Table) Own() (own neigh.Own, err error) {
	for range deviceTries {
		if own, err = t.own(); !errors.Is(err, neigh.ErrInterrupted) {
			break
		}
	}
	if err != nil {
		return neigh.Own{}, fmt.Errorf("listing this host's own addresses: %w", err)
	}
	return own, nil
}

// carrying is a device with what its own addresses need to be announced.
type carrying struct {
	device
	forwards bool
}

func (t *Table) own() (neigh.Own, error) {
	t.dumping.Lock()
	defer t.dumping.Unlock()
	var own neigh.Own
	devices, links := make(map[int]carrying), make(map[int]neigh.Link)
	var s stack
	if err := t.dumps.list(unix.RTM_GETLINK, linkRequest(0, 0), func(b []byte) error {
		d, lladdr, err := decodeCarrying(b)
		if err != nil {
			return err
		}
		devices[d.Index], links[d.Index] = d, d.Link
		s.add(&d.device)
		if lladdr.Len() > 0 && !d.Loopback {
			own.LLAddrs = append(own.LLAddrs, lladdr)
		}
		return nil
	}); err != nil {
		return neigh.Own{}, err
	}
	s.mark(links)
	var all ownAddresses
	if err := t.dumps.addresses(unix.AF_UNSPEC, func(o ownAddress) {
		if onLinkSubnet(o.Prefix) {
			all = append(all, o)
		}
	}); err != nil {
		return neigh.Own{}, err
	}
	for i, o := range all {
		d, ok := devices[o.index]
		if !ok || d.NoARP || !all.known(i, d.lower) {
			continue
		}
		six := o.Addr().Is6()
		own.Addrs = append(own.Addrs, neigh.OwnAddr{
			Addr: o.Addr(), Link: links[o.index], Router: six && d.forwards,
			Tentative: six && o.flags&unix.IFA_F_TENTATIVE != 0,
			Duplicate: six && o.flags&unix.IFA_F_DADFAILED != 0,
		})
	}
	return own, nil
}

// decodeCarrying reads the body of an RTM_NEWLINK message.
func decodeCarrying(b []byte) (d carrying, lladdr neigh.LLAddr, err error) {
	if d.device, err = decodeLink(b); err != nil {
		return carrying{}, neigh.LLAddr{}, err
	}
	attrs := b[unix.SizeofIfInfomsg:]
	v, err := findAttr(attrs, unix.IFLA_ADDRESS)
	if err != nil {
		return carrying{}, neigh.LLAddr{}, err
	}
	if !lladdr.Set(v) {
		return carrying{}, neigh.LLAddr{}, fmt.Errorf("address of %s, of %d bytes: %w", d.Name, len(v), neigh.ErrMalformed)
	}
	if attrs, err = findAttr(attrs, unix.IFLA_AF_SPEC, unix.AF_INET6, inet6Conf); err != nil {
		return carrying{}, neigh.LLAddr{}, err
	}
	if i := 4 * forwarding6; len(attrs) >= i+4 {
		d.forwards = binary.NativeEndian.Uint32(attrs[i:]) != 0
	}
	return d, lladdr, nil
}

// How a device is set up for IPv6 (net.ipv6.conf): IFLA_INET6_CONF, and the place of
// forwarding in it (DEVCONF_FORWARDING in include/uapi/linux/ipv6.h).
const (
	inet6Conf   = 2
	forwarding6 = 0
)
