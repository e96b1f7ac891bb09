package kernel

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// The library's lists are the reference.
func TestTopologyAgreesWithTheLibrary(t *testing.T) {
	t.Parallel()
	l := lab.Start(t)
	h, sw := l.Host("a"), l.Switch()
	h.Plug(sw, "eth0", "", "10.0.0.1/24", "2001:db8::1/64")
	h.Plug(sw, "eth1", "", "169.254.7.1/16")
	h.Plug(sw, "eth2", "")
	h.Plug(sw, "gke0", "", "10.4.0.1/32", "2001:db8:4::1/128")
	for i := range 40 { // more than one part of an answer
		h.IP(fmt.Sprintf("link add pod%d type veth peer name peer%d", i, i))
	}
	for _, args := range []string{
		"link set dev eth1 arp off",
		"addr add 10.5.0.1 peer 10.5.0.2/24 dev eth2",
		"addr add 10.6.0.1/24 dev lo",
		"route add default via 10.0.0.254",
		"route add default via 10.0.0.253 metric 9",
		"route add default via 2001:db8::fe dev eth0",
		"route add 10.9.0.0/16 nexthop via 10.0.0.252 nexthop via 10.0.0.251",
		"route add 2001:db8:9::/48 nexthop via 2001:db8::fc dev eth0 nexthop via 2001:db8::fb dev eth0",
		"route add 10.8.0.0/16 via 10.0.0.250 table 77",
		"route add 10.7.0.0/16 via inet6 fe80::7 dev eth2",
		"route add 10.70.0.0/16 nexthop via inet6 fe80::8 dev eth2 nexthop via 10.0.0.249",
		"route add unreachable 10.66.0.0/16",
	} {
		h.IP(args)
	}
	h.Sysctl("net/ipv4/neigh/eth1/base_reachable_time_ms", "200000")
	h.Sysctl("net/ipv6/neigh/eth2/base_reachable_time_ms", "1800000")
	for i := range 300 {
		h.IP(fmt.Sprintf("route add 10.10.%d.%d/32 via 10.0.0.%d", i/200, i%200, 2+i%200))
	}
	table := open(t, h)
	var want neigh.Topology
	if err := h.Do(func() (err error) {
		want, err = libraryTopology()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	got, err := table.Topology()
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(got.Links, want.Links) || len(got.Links) < 84 {
		t.Errorf("devices: %v, the library says %v", got.Links, want.Links)
	}
	if !maps.Equal(got.NextHops, want.NextHops) || len(got.NextHops) < 200 {
		t.Errorf("next hops: %v, the library says %v", got.NextHops, want.NextHops)
	}
	for _, name := range []string{"eth0", "eth2"} {
		uplink := false
		for _, l := range got.Links {
			uplink = uplink || l.Name == name && l.Uplink
		}
		if !uplink {
			t.Errorf("%s is no uplink", name)
		}
	}
}

// libraryTopology is Topology by the library's calls.
func libraryTopology() (topo neigh.Topology, err error) {
	topo = neigh.Topology{Links: make(map[int]neigh.Link), NextHops: make(map[neigh.Key]bool)}
	links, err := netlink.LinkList()
	if err != nil {
		return topo, err
	}
	for _, l := range links {
		a := l.Attrs()
		l := linkOf(a.Index, a.Name, a.RawFlags)
		l.LLAddr.Set(a.HardwareAddr)
		for i, version := range []string{"ipv4", "ipv6"} {
			ms, err := os.ReadFile("/proc/sys/net/" + version + "/neigh/" + a.Name + "/base_reachable_time_ms")
			if err != nil {
				return topo, err
			}
			if l.BaseReachable[i], err = time.ParseDuration(strings.TrimSpace(string(ms)) + "ms"); err != nil {
				return topo, err
			}
		}
		topo.Links[a.Index] = l
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return topo, err
	}
	for _, a := range addrs {
		if ones, bits := a.Mask.Size(); ones < bits && a.IP.IsGlobalUnicast() {
			markUplink(topo.Links, a.LinkIndex)
		}
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return topo, err
	}
	for _, r := range routes {
		add := func(index int, gw net.IP, via netlink.Destination) {
			if v, ok := via.(*netlink.Via); ok {
				gw = v.Addr
			}
			if addr, ok := netip.AddrFromSlice(gw); ok {
				k := neigh.Key{Addr: addr.Unmap(), Index: index}
				ones := 0
				if r.Dst != nil {
					ones, _ = r.Dst.Mask.Size()
				}
				topo.NextHops[k] = topo.NextHops[k] || ones == 0
				markUplink(topo.Links, index)
			}
		}
		add(r.LinkIndex, r.Gw, r.Via)
		for _, p := range r.MultiPath {
			add(p.LinkIndex, p.Gw, p.Via)
		}
	}
	return topo, nil
}

// Messages of the three kinds, whole.
var (
	linkBody    = slices.Concat(u32s(0, 7, unix.IFF_UP|unix.IFF_NOARP, 0), appendAttr(nil, unix.IFLA_IFNAME, []byte("eth0\x00")))
	addressBody = slices.Concat([]byte{unix.AF_INET, 24, unix.IFA_F_SECONDARY, unix.RT_SCOPE_LINK}, u32s(7),
		appendAttr(nil, unix.IFA_ADDRESS, []byte{10, 5, 0, 2}), appendAttr(nil, unix.IFA_LOCAL, []byte{10, 5, 0, 1}))
	routeBody = slices.Concat([]byte{unix.AF_INET, 0, 0, 0, 254, 0, 0, 1, 0, 0, 0, 0},
		appendAttr(nil, unix.RTA_OIF, u32s(7)), appendAttr(nil, unix.RTA_GATEWAY, []byte{10, 0, 0, 254}))
	wayBody       = slices.Concat(routeBody, appendAttr(nil, unix.RTA_PREFSRC, []byte{10, 0, 0, 1}))
	multipathBody = slices.Concat([]byte{unix.AF_INET, 16, 0, 0, 254, 0, 0, 1, 0, 0, 0, 0}, appendAttr(nil, unix.RTA_MULTIPATH, slices.Concat(
		[]byte{16, 0, 0, 0}, u32s(7), appendAttr(nil, unix.RTA_GATEWAY, []byte{10, 0, 0, 253}),
		[]byte{30, 0, 0, 0}, u32s(8), appendAttr(nil, unix.RTA_VIA, slices.Concat([]byte{unix.AF_INET6, 0}, netip.MustParseAddr("fe80::7").AsSlice())))))
)

func hopsOf(b []byte) (map[neigh.Key]bool, error) {
	hops := make(map[neigh.Key]bool)
	err := decodeRoute(b, func(k neigh.Key, isDefault bool) { hops[k] = isDefault })
	return hops, err
}

func TestDecodeTopology(t *testing.T) {
	if d, err := decodeLink(linkBody); err != nil || d != (device{Link: neigh.Link{Index: 7, Name: "eth0", NoARP: true}}) {
		t.Errorf("device: %+v, %v", d, err)
	}
	since := slices.Concat(addressBody, appendAttr(nil, unix.IFA_CACHEINFO, u32s(1, 2, 3, 4)))
	if a, err := decodeAddress(since); err != nil || a.created != 3 {
		t.Errorf("address: %+v, %v; want it created at 3", a, err)
	}
	if a, err := decodeAddress(addressBody); err != nil || a != (ownAddress{
		Prefix: netip.MustParsePrefix("10.5.0.1/24"), subnet: netip.MustParsePrefix("10.5.0.2/24"),
		index: 7, flags: unix.IFA_F_SECONDARY, scope: unix.RT_SCOPE_LINK,
	}) {
		t.Errorf("address: %+v, %v", a, err)
	}
	if r, err := decodeWay(wayBody); err != nil || r != (Route{Index: 7, Gateway: netip.MustParseAddr("10.0.0.254"), Source: netip.MustParseAddr("10.0.0.1")}) {
		t.Errorf("way: %+v, %v", r, err)
	}
	if hops, err := hopsOf(routeBody); err != nil || !maps.Equal(hops, map[neigh.Key]bool{key("10.0.0.254", 7): true}) {
		t.Errorf("route: %v, %v", hops, err)
	}
	if hops, err := hopsOf(multipathBody); err != nil || !maps.Equal(hops, map[neigh.Key]bool{key("10.0.0.253", 7): false, key("fe80::7", 8): false}) {
		t.Errorf("route of several: %v, %v", hops, err)
	}
	// A label is no address, and the whole of their range no default route.
	mpls := slices.Concat([]byte{unix.AF_MPLS, 0, 0, 0, 254, 0, 0, 1, 0, 0, 0, 0},
		appendAttr(nil, unix.RTA_OIF, u32s(7)), appendAttr(nil, unix.RTA_VIA, []byte{unix.AF_INET, 0, 10, 0, 0, 9}))
	if hops, err := hopsOf(mpls); err != nil || !maps.Equal(hops, map[neigh.Key]bool{key("10.0.0.9", 7): false}) {
		t.Errorf("MPLS: %v, %v", hops, err)
	}
	for _, tt := range []struct {
		says string
		err  error
	}{
		{"ifinfomsg of 15 bytes: malformed netlink message", second(decodeLink(linkBody[:15]))},
		{"device 7 without a name: malformed netlink message", second(decodeLink(linkBody[:16]))},
		{"attribute of 9 bytes where 8 are left: malformed netlink message", second(decodeLink(linkBody[:24]))},
		{"ifaddrmsg of 7 bytes: malformed netlink message", second(decodeAddress(addressBody[:7]))},
		{"attribute of 8 bytes where 7 are left: malformed netlink message", second(decodeAddress(addressBody[:15]))},
		{"address of 3 bytes in family 2: malformed netlink message", second(decodeAddress(append(addressBody[:8:8], appendAttr(nil, unix.IFA_LOCAL, []byte{1, 2, 3})...)))},
		{"rtmsg of 11 bytes: malformed netlink message", second(hopsOf(routeBody[:11]))},
		{"rtmsg of 11 bytes: malformed netlink message", second(decodeWay(wayBody[:11]))},
		{"attribute of 8 bytes where 7 are left: malformed netlink message", second(decodeWay(wayBody[:35]))},
		{"attribute of 8 bytes where 7 are left: malformed netlink message", second(hopsOf(routeBody[:27]))},
		{"attribute 5 of a route in family 2, of 3 bytes: malformed netlink message", second(hopsOf(append(routeBody[:12:12], appendAttr(nil, unix.RTA_GATEWAY, []byte{1, 2, 3})...)))},
		{"attribute 4 of a route in family 2, of 2 bytes: malformed netlink message", second(hopsOf(append(routeBody[:12:12], appendAttr(nil, unix.RTA_OIF, []byte{1, 2})...)))},
		{"attribute 18 of a route in family 2, of 5 bytes: malformed netlink message", second(hopsOf(append(routeBody[:12:12], appendAttr(nil, unix.RTA_VIA, []byte{unix.AF_INET6, 0, 1, 2, 3})...)))},
		{"next hop of 99 bytes where 8 are left: malformed netlink message", second(hopsOf(append(routeBody[:12:12], appendAttr(nil, unix.RTA_MULTIPATH, []byte{99, 0, 0, 0, 7, 0, 0, 0})...)))},
		{"attribute of 99 bytes where 4 are left: malformed netlink message", second(hopsOf(append(routeBody[:12:12], appendAttr(nil, unix.RTA_MULTIPATH, []byte{12, 0, 0, 0, 7, 0, 0, 0, 99, 0, 5, 0})...)))},
	} {
		if !errors.Is(tt.err, neigh.ErrMalformed) || tt.err.Error() != tt.says {
			t.Errorf("%v, want %s", tt.err, tt.says)
		}
	}
}

func second[A any](_ A, err error) error { return err }

// A list that was interrupted will do; one that was refused will not.
func TestTopologyInterrupted(t *testing.T) {
	answers := func(said ...[]byte) *Table {
		c := &conn{port: 4242, buf: make([]byte, bufferSize)}
		c.sysSend = func(int, []byte, int) error { return nil }
		c.sysRead = func(_ int, p []byte) (int, error) {
			b := said[0]
			said = said[1:]
			return copy(p, b), nil
		}
		return &Table{dumps: c}
	}
	done := func(seq uint32) []byte {
		return netlinkMessage(unix.NLMSG_DONE, unix.NLM_F_MULTI|unix.NLM_F_DUMP_INTR, seq, u32s(0))
	}
	padding := make([]byte, align(len(linkBody))-len(linkBody))
	table := answers(append(netlinkMessage(unix.RTM_NEWLINK, unix.NLM_F_MULTI, 1, linkBody, padding), done(1)...), done(2), done(3), done(4), done(5), done(6))
	if topo, err := table.Topology(); err != nil || topo.Links[7].Name != "eth0" {
		t.Errorf("%+v, %v", topo, err)
	}
	// The port that makes a bridge one that answers for others is found when the
	// devices are read again.
	bridge := slices.Concat(u32s(0, 7, 0, 0), appendAttr(nil, unix.IFLA_IFNAME, []byte("br0\x00")))
	whole := func(seq uint32) []byte { return netlinkMessage(unix.NLMSG_DONE, unix.NLM_F_MULTI, seq, u32s(0)) }
	table = answers(
		append(netlinkMessage(unix.RTM_NEWLINK, unix.NLM_F_MULTI, 1, bridge), done(1)...),
		slices.Concat(netlinkMessage(unix.RTM_NEWLINK, unix.NLM_F_MULTI, 2, bridge), netlinkMessage(unix.RTM_NEWLINK, unix.NLM_F_MULTI, 2, portBody), whole(2)),
		whole(3), whole(4), whole(5))
	if topo, err := table.Topology(); err != nil || !topo.Links[7].Suppresses {
		t.Errorf("%+v, %v", topo, err)
	}
	busy := netlinkMessage(unix.NLMSG_ERROR, 0, 1, u32s(^uint32(unix.EBUSY)+1))
	if _, err := answers(busy).Topology(); !errors.Is(err, neigh.ErrInterrupted) {
		t.Errorf("refused: %v, want ErrInterrupted", err)
	}
}

func FuzzDecodeTopology(f *testing.F) {
	seed(f, linkBody, portBody, vlanBody, parmsBody, addressBody, routeBody, wayBody, multipathBody)
	f.Add(append(routeBody[:12:12], appendAttr(nil, unix.RTA_GATEWAY, []byte{1, 2, 3})...))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := decodeLink(b)
		if err == nil && l.Name == "" || err != nil && !errors.Is(err, neigh.ErrMalformed) {
			t.Errorf("device %+v, %v", l, err)
		}
		p, err := decodeParms(b)
		if err != nil && (p != parms{} || !errors.Is(err, neigh.ErrMalformed)) || p.family < 0 || p.family > 1 || p.baseReachable < 0 || 2*p.baseReachable < 0 {
			t.Errorf("parameters %+v, %v", p, err)
		}
		if r, err := decodeWay(b); err != nil && (r != Route{} || !errors.Is(err, neigh.ErrMalformed)) {
			t.Errorf("way: %+v, %v", r, err)
		}
		if _, err := decodeAddress(b); err != nil && !errors.Is(err, neigh.ErrMalformed) {
			t.Errorf("address: %v", err)
		}
		n := 0
		err = decodeRoute(b, func(k neigh.Key, _ bool) {
			if n++; !k.Addr.IsValid() {
				t.Errorf("next hop without an address: %+v", k)
			}
		})
		if err != nil && !errors.Is(err, neigh.ErrMalformed) || n > len(b)/unix.SizeofRtNexthop {
			t.Errorf("%d next hops in %d bytes, %v", n, len(b), err)
		}
	})
}

// What the list of devices costs on a node with many pods.
func BenchmarkTopology(b *testing.B) {
	l := lab.Start(b)
	h := l.Host("a")
	for i := range 200 {
		h.IP(fmt.Sprintf("link add pod%d type veth peer name peer%d", i, i))
	}
	table := open(b, h)
	b.Run("agent", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := table.Topology(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("library", func(b *testing.B) {
		b.ReportAllocs()
		if err := h.Do(func() error {
			for b.Loop() {
				if _, err := libraryTopology(); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			b.Fatal(err)
		}
	})
}
