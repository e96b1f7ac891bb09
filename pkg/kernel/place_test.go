package kernel

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

func TestPlace(t *testing.T) {
	l := lab.Start(t)
	h := l.Host("a")
	sw := l.Switch()
	eth0 := neigh.Link{Name: "eth0", Index: h.Plug(sw, "eth0", "", "10.0.0.1/24", "2001:db8::1/64").Index}
	// What kube-proxy makes is a dummy device, which is NOARP by birth. Here it
	// is made one: there are kernels without dummy devices.
	ipvs := neigh.Link{Name: "kube-ipvs0", Index: h.Plug(sw, "kube-ipvs0", "").Index, NoARP: true}
	lo := neigh.Link{Name: "lo", Index: 1, Loopback: true}
	for _, args := range []string{
		"link set dev kube-ipvs0 arp off",
		"addr add 10.96.0.1/32 dev kube-ipvs0",
		"addr add 2001:db8:96::1/128 dev kube-ipvs0 nodad",
		"addr add 10.97.0.1/32 dev lo",
		"addr add 2001:db8:97::1/128 dev lo nodad",
		"addr add 10.98.0.1/32 dev kube-ipvs0", // a service of type LoadBalancer,
		"addr add 10.98.0.1/32 dev eth0",       // which kube-vip holds as well
		"addr add 10.0.0.100/24 dev eth0",      // as keepalived does it
		"addr add 10.5.0.1 peer 10.5.0.2/24 dev eth0",
		"addr add 2001:db8::100/128 dev eth0 nodad preferred_lft 0", // or it would become the source
		"route add local 10.99.0.0/24 dev lo",                       // any address of it is local
		"route add 10.1.0.0/16 via 10.0.0.254",
		"route add 10.7.0.0/16 via inet6 2001:db8::fd dev eth0", // RFC 5549
		"route add 10.2.0.0/16 dev eth0 src 10.98.0.1",
		"route add 2001:db8:1::/64 via 2001:db8::fe",
		"route add unreachable 10.66.0.1/32",
		"route add prohibit 10.66.0.2/32",
		"route add blackhole 10.66.0.3/32",
		"route add unreachable 2001:db8:66::1/128",
		"route add prohibit 2001:db8:66::2/128",
		"route add blackhole 2001:db8:66::3/128",
	} {
		h.IP(args)
	}
	table := open(t, h)

	addr := netip.MustParseAddr
	via := func(gateway string) neigh.Place {
		return neigh.Place{Link: eth0, Gateway: addr(gateway)}
	}
	here := func(link neigh.Link, own bool) neigh.Place {
		return neigh.Place{Link: link, Local: true, Here: true, Own: own}
	}
	elsewhere := func(link neigh.Link) neigh.Place {
		return neigh.Place{Link: link, Local: true}
	}
	for _, tt := range []struct {
		name, addr string
		want       neigh.Place
	}{
		{"on link", "10.0.0.2", neigh.Place{Link: eth0}},
		{"on link, mapped", "::ffff:10.0.0.2", neigh.Place{Link: eth0}},
		{"on link, IPv6", "2001:db8::2", neigh.Place{Link: eth0}},
		{"on link, by a route with a source", "10.2.0.1", neigh.Place{Link: eth0}},
		{"behind a gateway", "10.1.2.3", via("10.0.0.254")},
		{"behind an IPv6 gateway", "10.7.2.3", via("2001:db8::fd")},
		{"behind a gateway, IPv6", "2001:db8:1::2", via("2001:db8::fe")},
		{"the host's own", "10.0.0.1", here(eth0, true)},
		{"the host's own, IPv6", "2001:db8::1", here(eth0, true)},
		{"second in the subnet", "10.0.0.100", here(eth0, false)},
		{"with a peer, in its subnet", "10.5.0.1", here(eth0, true)},
		{"without a subnet, IPv6", "2001:db8::100", here(eth0, false)},
		{"on lo", "10.97.0.1", here(lo, false)},
		{"on lo, IPv6", "2001:db8:97::1", here(lo, false)},
		{"localhost", "127.0.0.1", here(lo, false)},
		{"localhost, IPv6", "::1", here(lo, false)},
		{"in the network of lo", "127.0.0.9", here(lo, false)},
		{"on a NOARP device", "10.96.0.1", elsewhere(ipvs)},
		{"on a NOARP device, IPv6", "2001:db8:96::1", elsewhere(ipvs)},
		{"on a NOARP device and another", "10.98.0.1", here(eth0, false)},
		{"local by a route", "10.99.0.7", elsewhere(lo)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := table.Place(addr(tt.addr), 0)
			got.Link.LLAddr = neigh.LLAddr{} // a random one
			if err != nil || got != tt.want {
				t.Errorf("got  %+v, %v\nwant %+v", got, err, tt.want)
			}
		})
	}

	for _, a := range []string{"10.3.0.1", "2001:db8:2::1", "10.66.0.1", "10.66.0.2", "10.66.0.3",
		"2001:db8:66::1", "2001:db8:66::2", "2001:db8:66::3"} {
		if got, err := table.Place(addr(a), 0); !errors.Is(err, neigh.ErrGone) || got != (neigh.Place{}) {
			t.Errorf("%s: %+v, %v; want ErrGone", a, got, err)
		}
	}
	for _, a := range []netip.Addr{{}, addr("fe80::1"), addr("fe80::1%eth0")} {
		if got, err := table.Place(a, 0); err == nil || errors.Is(err, neigh.ErrGone) || got != (neigh.Place{}) {
			t.Errorf("%s: %+v, %v; want another error than ErrGone", a, got, err)
		}
	}
}

// What a host is known by stays; what moves from host to host comes to it in
// several ways.
func TestPlaceOwn(t *testing.T) {
	l := lab.Start(t)
	h := l.Host("a")
	sw := l.Switch()
	h.Plug(sw, "eth0", "", "10.0.0.1/24", "2001:db8::1/64")
	h.Plug(sw, "eth1", "", "10.0.0.7/24", "10.1.0.1/24") // a second device in the same network
	for _, args := range []string{
		"addr add 10.0.0.100/24 dev eth0",
		"addr add 10.0.0.101/32 dev eth0",
		"addr add 2001:db8::100/64 dev eth0 nodad",
		"addr add 2001:db8::101/128 dev eth0 nodad",
		"addr add 2001:db8:5::100/64 dev eth0 nodad preferred_lft 0",
		"addr add 2001:db8::200/64 dev eth0 nodad valid_lft 1000 preferred_lft 1000",
		"link add vrrp.25 link eth0 type macvlan mode private",
		"link set vrrp.25 up",
		"addr add 10.0.0.110/24 dev vrrp.25",
		"addr add 10.0.0.130/25 dev vrrp.25",
		"addr add 10.2.0.1/24 dev vrrp.25",
		"addr add 2001:db8::110/64 dev vrrp.25 nodad",
		// As when the network is set up anew under a keepalived that runs on.
		"addr del 10.1.0.1/24 dev eth1",
		"link add vrrp.26 link eth1 type macvlan mode private",
		"link set vrrp.26 up",
		"addr add 10.1.0.100/24 dev vrrp.26",
		"addr add 10.1.0.1/24 dev eth1",
	} {
		h.IP(args)
	}
	table := open(t, h)
	known := map[netip.Addr]bool{}
	own, err := table.Own()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range own.Addrs {
		known[o.Addr] = true
	}
	for a, want := range map[string]bool{
		"10.0.0.1":          true,
		"10.0.0.7":          true,
		"10.0.0.100":        false, // second on its device
		"10.0.0.101":        false, // without a subnet
		"2001:db8::1":       true,
		"2001:db8::100":     false, // second on its device, which IPv6 does not mark
		"2001:db8::101":     false,
		"2001:db8:5::100":   false, // deprecated
		"2001:db8::200":     true,  // as routers advertise them
		"10.0.0.110":        false, // first on a device that is stacked on another in that network
		"10.0.0.130":        false, // with another mask
		"2001:db8::110":     false,
		"10.2.0.1":          true, // stacked, but in a network of its own
		"10.1.0.1":          true,
		"10.1.0.100":        false,
		"::ffff:10.0.0.1":   true,
		"::ffff:10.1.0.100": false,
	} {
		p, err := table.Place(netip.MustParseAddr(a), 0)
		if err != nil || !p.Here || !p.Local || p.Own != want {
			t.Errorf("%s: %+v, %v; want it here, own: %v", a, p, err, want)
		}
		if got := known[netip.MustParseAddr(a).Unmap()]; got != want {
			t.Errorf("%s: Own has it: %v, want %v", a, got, want)
		}
	}
}

// A socket that is bound to a device has ways of its own.
func TestPlaceOfBoundSocket(t *testing.T) {
	l := lab.Start(t)
	h := l.Host("a")
	sw := l.Switch()
	eth0 := h.Plug(sw, "eth0", "", "10.0.0.1/24", "2001:db8::1/64").Index
	eth1 := h.Plug(sw, "eth1", "", "10.1.0.1/24", "2001:db8:1::1/64").Index
	for _, args := range []string{
		"route add default via 10.0.0.254",
		"route add default via 2001:db8::fe",
		"rule add oif eth1 table 100",
		"-6 rule add oif eth1 table 100",
		"route add 10.9.0.0/24 dev eth1 table 100",
		"route add default via 10.1.0.254 table 100",
		"route add 2001:db8:9::/64 dev eth1 table 100",
		"addr add 10.9.0.100/32 dev eth0",
		"addr add 10.9.0.101/32 dev eth0",
		"addr add 10.9.0.101/32 dev eth1",
	} {
		h.IP(args)
	}
	table := open(t, h)
	for _, tt := range []struct {
		addr    string
		device  int
		link    int
		gateway string
		here    bool
	}{
		{"10.9.0.5", 0, eth0, "10.0.0.254", false},
		{"10.9.0.5", eth0, eth0, "10.0.0.254", false},
		{"10.9.0.5", eth1, eth1, "", false},
		{"10.8.0.5", eth1, eth1, "10.1.0.254", false},
		{"2001:db8:9::5", 0, eth0, "2001:db8::fe", false},
		{"2001:db8:9::5", eth1, eth1, "", false},
		{"10.9.0.100", 0, eth0, "", true},
		{"10.9.0.100", eth0, eth0, "", true},
		{"10.9.0.100", eth1, eth1, "", false}, // asks there, for all that the host has it elsewhere
		{"10.9.0.101", eth0, eth0, "", true},
		{"10.9.0.101", eth1, eth1, "", true},
	} {
		p, err := table.Place(netip.MustParseAddr(tt.addr), tt.device)
		gateway := ""
		if p.Gateway.IsValid() {
			gateway = p.Gateway.String()
		}
		if err != nil || p.Link.Index != tt.link || gateway != tt.gateway || p.Here != tt.here {
			t.Errorf("%s by device %d: %+v, %v; want device %d, gateway %q, here: %v", tt.addr, tt.device, p, err, tt.link, tt.gateway, tt.here)
		}
	}
	if _, err := table.Place(netip.MustParseAddr("10.9.0.5"), 9999); !errors.Is(err, neigh.ErrGone) {
		t.Errorf("no such device: %v, want ErrGone", err)
	}
}

// A way through a VRF is by one of the devices in it, and the kernel says so
// where a VRF was asked for.
func TestRouteThroughVRF(t *testing.T) {
	const vrf, slave = 3, 7
	table := func() *Table {
		answer := netlinkMessage(unix.RTM_NEWROUTE, 0, 1, wayBody) // by device 7
		c := &conn{port: 4242, buf: make([]byte, bufferSize)}
		c.sysSend = func(int, []byte, int) error { return nil }
		c.sysRead = func(_ int, p []byte) (int, error) { return copy(p, answer), nil }
		return &Table{conn: c}
	}
	a := netip.MustParseAddr("10.9.0.5")
	if r, err := table().boundWay(a, vrf); err != nil || r.Index != slave {
		t.Errorf("as a socket in the VRF: %+v, %v; want it by device %d", r, err, slave)
	}
	if r, err := table().Route(a, vrf); !errors.Is(err, neigh.ErrGone) {
		t.Errorf("by exactly that device: %+v, %v; want ErrGone", r, err)
	}
}

func TestNoRoute(t *testing.T) {
	for _, tt := range []struct {
		err  error
		gone bool
	}{{unix.ENETUNREACH, true}, {unix.EHOSTUNREACH, true}, {unix.ENOBUFS, false}, {unix.EPERM, false}} {
		if err := noRoute(tt.err); !errors.Is(err, tt.err) || errors.Is(err, neigh.ErrGone) != tt.gone {
			t.Errorf("%v became %v, want ErrGone: %v", tt.err, err, tt.gone)
		}
	}
}

func BenchmarkPlace(b *testing.B) {
	h, _ := host(b)
	table := open(b, h)
	for name, a := range map[string]string{"on link": "10.0.0.2", "here": "10.0.0.1"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := table.Place(netip.MustParseAddr(a), 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
