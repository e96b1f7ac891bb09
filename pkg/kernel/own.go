package kernel

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// Own returns what this host is known by: the addresses that Place calls Own, on
// devices that take part in address resolution. Unlike Topology it does not accept a
// list that a change has interrupted: without one address, another may look like the
// first of its subnet. It tries three times; then the error wraps neigh.ErrInterrupted.
func (t *Table) Own() (own neigh.Own, err error) {
	for range dumpTries {
		if own, err = t.own(); !errors.Is(err, neigh.ErrInterrupted) {
			break
		}
	}
	if err != nil {
		return neigh.Own{}, fmt.Errorf("listing this host's own addresses: %w", err)
	}
	return own, nil
}

func (t *Table) own() (neigh.Own, error) {
	t.dumping.Lock()
	defer t.dumping.Unlock()
	devices := make(map[int]device)
	if err := t.dumps.listDevices(0, devices); err != nil {
		return neigh.Own{}, err
	}
	var all ownAddresses
	if err := t.dumps.addresses(unix.AF_UNSPEC, 0, func(o ownAddress) {
		if onLinkSubnet(o.Prefix) {
			all = append(all, o)
		}
	}); err != nil {
		return neigh.Own{}, err
	}
	var own neigh.Own
	for _, d := range devices {
		if d.LLAddr.Len() > 0 && !d.Loopback {
			own.LLAddrs = append(own.LLAddrs, d.LLAddr)
		}
	}
	links := links(devices)
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
