package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// Topology reads the devices, their addresses, and the next hops of all routes
// in all tables.
//
// A dump that was interrupted by a change is taken as it is. On a node that
// speaks BGP routes change all the time, and what is missing does no harm: an
// entry on an unknown device is kept, and a next hop that is not known as one
// is renewed like any other entry.
func (t *Table) Topology() (neigh.Topology, error) {
	links, err := t.handle.LinkList()
	if tolerate(err) != nil {
		return neigh.Topology{}, fmt.Errorf("listing devices: %w", err)
	}
	addrs, err := t.handle.AddrList(nil, netlink.FAMILY_ALL)
	if tolerate(err) != nil {
		return neigh.Topology{}, fmt.Errorf("listing addresses: %w", err)
	}
	topo := neigh.Topology{
		Links:    make(map[int]neigh.Link, len(links)),
		NextHops: make(map[neigh.Key]bool),
	}
	for _, l := range links {
		topo.Links[l.Attrs().Index] = linkOf(l.Attrs())
	}
	for _, a := range addrs {
		if onLinkSubnet(a.IPNet) {
			markUplink(topo.Links, a.LinkIndex)
		}
	}
	// RT_FILTER_TABLE with table 0 lists every table, VRFs and policy routing
	// included.
	err = t.handle.RouteListFilteredIter(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC},
		netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
			isDefault := defaultRoute(r.Dst)
			addNextHop(&topo, r.LinkIndex, r.Gw, r.Via, isDefault)
			for _, p := range r.MultiPath {
				addNextHop(&topo, p.LinkIndex, p.Gw, p.Via, isDefault)
			}
			return true
		})
	if tolerate(err) != nil {
		return neigh.Topology{}, fmt.Errorf("listing routes: %w", err)
	}
	return topo, nil
}

// linkOf leaves Uplink to whoever knows addresses and routes.
func linkOf(a *netlink.LinkAttrs) neigh.Link {
	return neigh.Link{
		Index:        a.Index,
		Name:         a.Name,
		Loopback:     a.RawFlags&unix.IFF_LOOPBACK != 0,
		NoARP:        a.RawFlags&unix.IFF_NOARP != 0,
		PointToPoint: a.RawFlags&unix.IFF_POINTOPOINT != 0,
	}
}

func tolerate(err error) error {
	if errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil
	}
	return err
}

// onLinkSubnet reports whether n is a global unicast address with a subnet
// around it. Host addresses (/32, /128) are left out: the ptp CNI plugin gives
// one to every pod device, and a real uplink that has only such an address has
// a next hop behind it.
func onLinkSubnet(n *net.IPNet) bool {
	ones, bits := n.Mask.Size()
	return ones < bits && n.IP.IsGlobalUnicast()
}

func defaultRoute(dst *net.IPNet) bool {
	if dst == nil {
		return true
	}
	ones, _ := dst.Mask.Size()
	return ones == 0
}

func markUplink(links map[int]neigh.Link, index int) {
	if l, ok := links[index]; ok && !l.Loopback && !l.NoARP {
		l.Uplink = true
		links[index] = l
	}
}

func addNextHop(topo *neigh.Topology, index int, gw net.IP, via netlink.Destination, isDefault bool) {
	if v, ok := via.(*netlink.Via); ok { // RFC 5549: an IPv4 route by way of an IPv6 neighbour
		gw = v.Addr
	}
	addr, ok := netip.AddrFromSlice(gw)
	if !ok || addr.IsUnspecified() {
		return
	}
	k := neigh.Key{Addr: addr.Unmap(), Index: index}
	topo.NextHops[k] = topo.NextHops[k] || isDefault
	markUplink(topo.Links, index)
}
