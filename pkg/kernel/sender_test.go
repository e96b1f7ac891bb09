package kernel

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/solicit"
)

const (
	target4, target6 = "10.0.0.2", "2001:db8::2"
	lladdr6          = "fe80::ff:fe00:1" // which eth0 makes of its link-layer address
)

// layout is a way to give addresses to a node, and who asks for a target then.
type layout struct {
	name   string
	ip     []string // commands
	sysctl []string // paths below net/ipv4/conf and values
	target string
	want   []string // by arp_announce, or the one for Neighbor Discovery
}

var layouts = []layout{
	{"one address", []string{"addr add 10.0.0.1/24 dev eth0"}, nil, target4, []string{"10.0.0.1", "10.0.0.1", "10.0.0.1"}},
	{"the route has a secondary address", []string{"addr add 10.0.0.1/24 dev eth0", "addr add 10.0.0.9/24 dev eth0",
		"route replace 10.0.0.0/24 dev eth0 src 10.0.0.9"}, nil, target4, []string{"10.0.0.9", "10.0.0.9", "10.0.0.1"}},
	{"the route has an address of another subnet", []string{"addr add 10.5.0.1/24 dev eth0", "addr add 10.0.0.1/24 dev eth0",
		"route replace 10.0.0.0/24 dev eth0 src 10.5.0.1"}, nil, target4, []string{"10.5.0.1", "10.0.0.1", "10.0.0.1"}},
	{"the route has an address of lo", []string{"addr add 10.0.0.1/24 dev eth0", "addr add 10.99.0.5/32 dev lo",
		"route replace 10.0.0.0/24 dev eth0 src 10.99.0.5"}, nil, target4, []string{"10.99.0.5", "10.0.0.1", "10.0.0.1"}},
	{"the route has an address that is local by a route", []string{"addr add 10.0.0.1/24 dev eth0", "route add local 10.98.0.0/24 dev lo",
		"route replace 10.0.0.0/24 dev eth0 src 10.98.0.7"}, nil, target4, []string{"10.98.0.7", "10.0.0.1", "10.0.0.1"}},
	{"another value of arp_announce", []string{"addr add 10.5.0.1/24 dev eth0", "addr add 10.0.0.1/24 dev eth0",
		"route replace 10.0.0.0/24 dev eth0 src 10.5.0.1"}, []string{"eth0/arp_announce=3"}, target4, []string{"10.5.0.1", "10.5.0.1", "10.5.0.1"}},
	{"arp_announce of another device", []string{"addr add 10.5.0.1/24 dev eth0", "addr add 10.0.0.1/24 dev eth0",
		"route replace 10.0.0.0/24 dev eth0 src 10.5.0.1"}, []string{"lo/arp_announce=2"}, target4, []string{"10.5.0.1", "10.0.0.1", "10.0.0.1"}},
	{"several subnets, none of the target", []string{"addr add 10.5.0.1/24 dev eth0", "addr add 10.6.0.1/24 dev eth0",
		"route add 10.0.0.0/24 dev eth0 src 10.6.0.1"}, nil, target4, []string{"10.6.0.1", "10.5.0.1", "10.5.0.1"}},
	{"host address, route on link", []string{"addr add 10.7.0.1/32 dev eth0", "route add 10.0.0.0/24 dev eth0"}, nil, target4, []string{"10.7.0.1", "10.7.0.1", "10.7.0.1"}},
	{"host address, gateway on link", []string{"addr add 10.7.0.1/32 dev eth0", "route add default via 10.0.0.2 dev eth0 onlink"}, nil, target4, []string{"10.7.0.1", "10.7.0.1", "10.7.0.1"}},
	{"a peer's subnet", []string{"addr add 10.7.0.1/24 dev eth0", "addr add 10.6.0.1 peer 10.0.0.254/24 dev eth0",
		"route replace 10.0.0.0/24 dev eth0 src 10.7.0.1"}, nil, target4, []string{"10.7.0.1", "10.6.0.1", "10.6.0.1"}},
	{"an address of the link", []string{"addr add 10.8.0.1/24 dev eth0 scope link", "addr add 10.99.0.5/32 dev lo",
		"route add 10.0.0.0/24 dev eth0 src 10.99.0.5"}, nil, target4, []string{"10.99.0.5", "10.8.0.1", "10.8.0.1"}},
	{"an address of the host", []string{"addr add 10.0.0.1/24 dev eth0 scope host", "addr add 10.9.0.1/24 dev eth0",
		"route replace 10.0.0.0/24 dev eth0 src 10.9.0.1"}, nil, target4, []string{"10.9.0.1", "10.9.0.1", "10.9.0.1"}},
	{"an address of the host, and route_localnet", []string{"addr add 10.0.0.1/24 dev eth0 scope host", "addr add 10.9.0.1/24 dev eth0",
		"route replace 10.0.0.0/24 dev eth0 src 10.9.0.1"}, []string{"all/route_localnet=1"}, target4, []string{"10.9.0.1", "10.0.0.1", "10.0.0.1"}},
	{"no address on the device", []string{"addr add 172.16.0.1/24 dev eth1", "addr add 10.8.0.1/24 dev lo scope link", "addr add 10.99.0.5/32 dev lo",
		"route add 10.0.0.0/24 dev eth0 src 172.16.0.1"}, nil, target4, []string{"172.16.0.1", "10.99.0.5", "10.99.0.5"}},
	{"no address on the device, and none on lo", []string{"addr add 172.16.0.1/24 dev eth1", "route add 10.0.0.0/24 dev eth0"}, nil, target4,
		[]string{"172.16.0.1", "172.16.0.1", "172.16.0.1"}},
	{"no address", []string{"route add 10.0.0.0/24 dev eth0"}, nil, target4, []string{"0.0.0.0", "0.0.0.0", "0.0.0.0"}},

	{"IPv6", []string{"addr add 2001:db8::1/64 dev eth0"}, nil, target6, []string{"2001:db8::1"}},
	{"IPv6, global on lo", []string{"addr add 2001:db8:99::5/128 dev lo", "route add 2001:db8::/64 dev eth0"}, nil, target6, []string{lladdr6}},
	{"IPv6, global on lo, and two link-local", []string{"addr add fe80::77/64 dev eth0", "addr add 2001:db8:99::5/128 dev lo",
		"route add 2001:db8::/64 dev eth0"}, nil, target6, []string{lladdr6}},
	{"IPv6, link-local alone", []string{"route add 2001:db8::/64 dev eth0"}, nil, target6, []string{lladdr6}},
	{"IPv6, one deprecated", []string{"addr add 2001:db8::1/64 dev eth0", "addr add 2001:db8::9/64 dev eth0 preferred_lft 0"}, nil, target6, []string{"2001:db8::1"}},
	{"IPv6, the other deprecated", []string{"addr add 2001:db8::1/64 dev eth0 preferred_lft 0", "addr add 2001:db8::9/64 dev eth0"}, nil, target6, []string{"2001:db8::9"}},
	{"IPv6, the only one deprecated", []string{"addr add 2001:db8::1/64 dev eth0 preferred_lft 0"}, nil, target6, []string{"2001:db8::1"}},
	{"IPv6, the route has another address", []string{"addr add 2001:db8::1/64 dev eth0", "addr add 2001:db8:5::1/64 dev eth0",
		"route add 2001:db8::/64 dev eth0 src 2001:db8:5::1 metric 10"}, nil, target6, []string{"2001:db8:5::1"}},
	{"IPv6, the route has an address of lo", []string{"addr add 2001:db8::1/64 dev eth0", "addr add 2001:db8:99::5/128 dev lo",
		"route add 2001:db8::/64 dev eth0 src 2001:db8:99::5 metric 10"}, nil, target6, []string{lladdr6}},
	{"IPv6, host address", []string{"addr add 2001:db8:7::1/128 dev eth0", "route add 2001:db8::/64 dev eth0"}, nil, target6, []string{"2001:db8:7::1"}},
	{"IPv6, a link-local target", []string{"addr add 2001:db8::1/64 dev eth0"}, nil, "fe80::ff:fe00:2", []string{lladdr6}},
}

// For one packet the kernel asks, and then we do: from the same address.
func TestAsksAsTheKernelAsks(t *testing.T) {
	for _, tt := range layouts {
		t.Run(tt.name, func(t *testing.T) {
			l := lab.Start(t)
			sw, node, peer := l.Switch(), l.Host("node"), l.Host("peer")
			port := node.Plug(sw, "eth0", "02:00:00:00:00:01")
			node.Plug(sw, "eth1", "02:00:00:00:00:03")
			node.Sysctl("net/ipv6/conf/eth1/disable_ipv6", "1")
			heard := peer.HearSolicitations(peer.Plug(sw, "eth0", "02:00:00:00:00:02", target4+"/24", target6+"/64"))
			// It answers whoever asks.
			peer.Sysctl("net/ipv4/conf/all/rp_filter", "0")
			peer.Sysctl("net/ipv4/conf/eth0/rp_filter", "0")
			peer.IP("route add default dev eth0")
			peer.IP("-6 route add default dev eth0")
			for _, args := range tt.ip {
				node.IP(args)
			}
			for _, s := range tt.sysctl {
				path, value, _ := strings.Cut(s, "=")
				node.Sysctl("net/ipv4/conf/"+path, value)
			}
			table := open(t, node)
			pool := solicit.NewPool(table.Sender)
			t.Cleanup(pool.Close)
			target := netip.MustParseAddr(tt.target)
			for announce, want := range tt.want {
				node.Sysctl("net/ipv4/conf/all/arp_announce", fmt.Sprint(announce))
				if announce == 1 { // the setting of the device counts as well
					node.Sysctl("net/ipv4/conf/all/arp_announce", "0")
					if len(tt.sysctl) == 0 || !strings.HasPrefix(tt.sysctl[0], "eth0/arp_announce") {
						node.Sysctl("net/ipv4/conf/eth0/arp_announce", "1")
					}
				}
				_, _ = node.Try("ip", "neigh", "del", tt.target, "dev", "eth0")
				if target.IsLinkLocalUnicast() {
					node.Touch(fmt.Sprintf("%s%%%d", tt.target, port.Index))
				} else {
					node.Touch(tt.target)
				}
				kernels := next(t, heard, target)
				var answers int
				if err := node.Do(func() error {
					return pool.Ask(t.Context(), port.Index, []solicit.Target{{Addr: target}}, 50*time.Millisecond, func(solicit.Answer) { answers++ })
				}); err != nil || answers != 1 {
					t.Errorf("arp_announce %d: %d answers, %v", announce, answers, err)
				}
				ours := next(t, heard, target)
				if kernels.Sender.String() != want || ours.Sender != kernels.Sender {
					t.Errorf("arp_announce %d: the kernel asks from %s, want %s; we ask from %s", announce, kernels.Sender, want, ours.Sender)
				}
			}
		})
	}
}

// next waits for the next solicitation for a target to all.
func next(t *testing.T, heard <-chan lab.Solicitation, target netip.Addr) lab.Solicitation {
	t.Helper()
	deadline := time.After(5 * time.Second)
	for {
		select {
		case s := <-heard:
			if s.Target == target && s.ToAll {
				return s
			}
		case <-deadline:
			t.Fatalf("nobody asked for %s", target)
		}
	}
}

// own returns an address of device 2 with a network, "address[/peer]/bits".
func own(cidr string, scope, flags uint8) ownAddress {
	parts := strings.Split(cidr, "/")
	local, bits := netip.MustParsePrefix(parts[0]+"/"+parts[len(parts)-1]), "/"+parts[len(parts)-1]
	return ownAddress{Prefix: local, subnet: netip.MustParsePrefix(parts[len(parts)-2] + bits), index: 2, scope: scope, flags: flags}
}

func TestARPSender(t *testing.T) {
	const (
		global, link, host = unix.RT_SCOPE_UNIVERSE, unix.RT_SCOPE_LINK, unix.RT_SCOPE_HOST
		secondary          = unix.IFA_F_SECONDARY
	)
	for _, tt := range []struct {
		name     string
		source   string
		own      []ownAddress
		localnet bool
		want     [3]string // by arp_announce; empty: the device yields none
	}{
		{"nothing", "", nil, false, [3]string{}},
		{"a source alone", "10.9.0.1", nil, false, [3]string{"10.9.0.1"}},
		{"the source in the target's subnet", "10.0.0.9", []ownAddress{own("10.0.0.1/24", global, 0), own("10.0.0.9/24", global, secondary)}, false,
			[3]string{"10.0.0.9", "10.0.0.9", "10.0.0.1"}},
		{"the source in a secondary's subnet", "10.0.0.9", []ownAddress{own("10.1.0.1/24", global, 0), own("10.0.0.9/24", global, secondary)}, false,
			[3]string{"10.0.0.9", "10.0.0.9", "10.1.0.1"}},
		{"the source elsewhere in the subnet", "10.0.0.77", []ownAddress{own("10.0.0.1/24", global, 0)}, false,
			[3]string{"10.0.0.77", "10.0.0.77", "10.0.0.1"}},
		{"the source in another subnet", "10.1.0.1", []ownAddress{own("10.1.0.1/24", global, 0), own("10.0.0.1/24", global, 0)}, false,
			[3]string{"10.1.0.1", "10.0.0.1", "10.0.0.1"}},
		{"no source", "", []ownAddress{own("10.1.0.1/24", global, 0), own("10.0.0.1/24", global, 0)}, false,
			[3]string{"10.0.0.1", "10.0.0.1", "10.0.0.1"}},
		{"the first, where no subnet is the target's", "", []ownAddress{own("10.1.0.1/24", global, 0), own("10.2.0.1/24", global, 0)}, false,
			[3]string{"10.1.0.1", "10.1.0.1", "10.1.0.1"}},
		{"a smaller subnet does not come first", "", []ownAddress{own("10.0.0.1/8", global, 0), own("10.0.0.3/24", global, 0)}, false,
			[3]string{"10.0.0.1", "10.0.0.1", "10.0.0.1"}},
		{"everything is in the subnet", "", []ownAddress{own("10.1.0.1/32", global, 0), own("10.2.0.1/0", global, 0)}, false,
			[3]string{"10.2.0.1", "10.2.0.1", "10.2.0.1"}},
		{"the peer is the target", "10.1.0.1", []ownAddress{own("10.1.0.1/24", global, 0), own("10.3.0.1/10.0.0.2/32", global, 0)}, false,
			[3]string{"10.1.0.1", "10.3.0.1", "10.3.0.1"}},
		{"secondary addresses alone", "", []ownAddress{own("10.0.0.9/24", global, secondary)}, false, [3]string{}},
		{"of the link", "", []ownAddress{own("10.0.0.1/24", link, 0)}, false, [3]string{"10.0.0.1", "10.0.0.1", "10.0.0.1"}},
		{"of the host", "", []ownAddress{own("10.0.0.1/24", host, 0)}, false, [3]string{}},
		{"of the host, with route_localnet", "", []ownAddress{own("10.0.0.1/24", host, 0)}, true, [3]string{"10.0.0.1", "10.0.0.1", "10.0.0.1"}},
	} {
		source, _ := netip.ParseAddr(tt.source)
		for announce := range 4 {
			want, _ := netip.ParseAddr(tt.want[announce%3]) // what is beyond 2 is 0
			if got := arpSender(netip.MustParseAddr(target4), source, announce, tt.localnet, tt.own); got != want {
				t.Errorf("%s: arp_announce %d: %s, want %s", tt.name, announce, got, want)
			}
		}
	}
	all := []ownAddress{own("127.0.0.1/8", host, 0), own("10.8.0.1/24", link, 0), own("10.0.0.9/24", global, secondary), own("10.7.0.1/32", 200, 0), own("10.6.0.1/32", global, 0)}
	for n, want := range []string{"0.0.0.0", "0.0.0.0", "0.0.0.0", "0.0.0.0", "10.7.0.1", "10.7.0.1"} {
		if got := anySender(all[:n]); got.String() != want {
			t.Errorf("the first of %d: %s, want %s", n, got, want)
		}
	}
}

func TestNDSender(t *testing.T) {
	const tentative, optimistic, deprecated, failed, temporary = unix.IFA_F_TENTATIVE, unix.IFA_F_OPTIMISTIC, unix.IFA_F_DEPRECATED, unix.IFA_F_DADFAILED, unix.IFA_F_TEMPORARY
	const global, link = unix.RT_SCOPE_UNIVERSE, unix.RT_SCOPE_LINK
	for _, tt := range []struct {
		name   string
		source string
		own    []ownAddress
		want   string
	}{
		{"on the device", "2001:db8::1", []ownAddress{own("2001:db8::1/64", global, 0), own("fe80::1/64", link, 0)}, "2001:db8::1"},
		{"deprecated", "2001:db8::1", []ownAddress{own("2001:db8::1/64", global, deprecated), own("fe80::1/64", link, 0)}, "2001:db8::1"},
		{"temporary", "2001:db8::1", []ownAddress{own("2001:db8::1/64", global, temporary), own("fe80::1/64", link, 0)}, "2001:db8::1"},
		{"tentative", "2001:db8::1", []ownAddress{own("2001:db8::1/64", global, tentative), own("fe80::1/64", link, 0)}, "fe80::1"},
		{"optimistic", "2001:db8::1", []ownAddress{own("2001:db8::1/64", global, tentative|optimistic), own("fe80::1/64", link, 0)}, "fe80::1"},
		{"a duplicate", "2001:db8::1", []ownAddress{own("2001:db8::1/64", global, tentative|failed), own("fe80::1/64", link, 0)}, "fe80::1"},
		{"elsewhere", "2001:db8::1", []ownAddress{own("2001:db8::2/64", global, 0), own("fe80::1/64", link, 0)}, "fe80::1"},
		{"no source", "", []ownAddress{own("2001:db8::2/64", global, 0), own("fe80::1/64", link, 0)}, "fe80::1"},
		{"the last link-local one", "", []ownAddress{own("fe80::2/64", link, 0), own("fe80::1/64", link, 0)}, "fe80::1"},
		{"the last link-local one is tentative", "", []ownAddress{own("fe80::2/64", link, 0), own("fe80::1/64", link, tentative)}, "fe80::2"},
		{"no link-local one", "2001:db8::1", []ownAddress{own("2001:db8::2/64", global, 0)}, ""},
		{"nothing", "", nil, ""},
	} {
		source, _ := netip.ParseAddr(tt.source)
		want, _ := netip.ParseAddr(tt.want)
		if got := ndSender(source, tt.own); got != want {
			t.Errorf("%s: %s, want %s", tt.name, got, want)
		}
	}
}

// Where the kernel would not ask at all.
func TestNoSender(t *testing.T) {
	l := lab.Start(t)
	h := l.Host("a")
	sw := l.Switch()
	eth0 := h.Plug(sw, "eth0", "", "10.0.0.1/24", "2001:db8::1/64").Index
	eth1 := h.Plug(sw, "eth1", "").Index
	h.Sysctl("net/ipv6/conf/eth1/addr_gen_mode", "1") // no link-local address
	h.IP("link set dev eth1 down")
	h.IP("link set dev eth1 up")
	h.IP("-6 route add 2001:db8:1::/64 dev eth1")
	table := open(t, h)
	for _, tt := range []struct {
		addr  string
		index int
		want  string
	}{
		{"10.0.0.2", 99, "no such device"},
		{"2001:db8:2::1", eth0, "network is unreachable"},
		{"2001:db8:1::2", eth1, "no address that has passed duplicate address detection"},
	} {
		got, err := table.Sender(netip.MustParseAddr(tt.addr), tt.index)
		if !errors.Is(err, neigh.ErrGone) || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), tt.addr) || got.IsValid() {
			t.Errorf("%s on device %d: %s, %v; want ErrGone with %q", tt.addr, tt.index, got, err, tt.want)
		}
	}
	// The control: by the other device, or with an address, it is asked for.
	h.IP("addr add fe80::1/64 dev eth1 nodad")
	for addr, index := range map[string]int{"10.0.0.2": eth0, "2001:db8::2": eth0, "2001:db8:1::2": eth1} {
		if _, err := table.Sender(netip.MustParseAddr(addr), index); err != nil {
			t.Error(err)
		}
	}
}

func TestDevconf(t *testing.T) {
	h, index := host(t)
	table := open(t, h) // in another namespace than this thread's
	for _, s := range []struct {
		path string
		want int
	}{{"all/arp_announce", 1}, {"eth0/arp_announce", 2}, {"all/arp_announce", 3}} {
		h.Sysctl("net/ipv4/conf/"+s.path, fmt.Sprint(s.want))
		if got, err := table.devconf(index); err != nil || got[arpAnnounce] != s.want || got[routeLocalnet] != 0 {
			t.Errorf("%s is %d, read %v, %v", s.path, s.want, got, err)
		}
	}
	h.Sysctl("net/ipv4/conf/eth0/route_localnet", "1")
	if got, err := table.devconf(index); err != nil || got[routeLocalnet] != 1 {
		t.Errorf("route_localnet: read %v, %v", got, err)
	}
	table.forAll.close() // and what cannot be read is 0
	if got, err := table.devconf(index); err != nil || got[arpAnnounce] != 2 {
		t.Errorf("without what is set for all: %v, %v", got, err)
	}
	if _, err := table.devconf(99); !errors.Is(err, neigh.ErrGone) {
		t.Errorf("without the device: %v, want ErrGone", err)
	}
}

func TestDecodeDevconf(t *testing.T) {
	values := make([]uint32, 26)
	values[17], values[25] = 2, 1
	conf := appendAttr(nil, unix.AF_INET, appendAttr(nil, inetConf, u32s(values...)))
	for _, tt := range []struct {
		name string
		spec []byte
		want devconf
	}{
		{"whole", appendAttr(nil, unix.IFLA_AF_SPEC, conf), devconf{arpAnnounce: 2, routeLocalnet: 1}},
		{"of an older kernel", appendAttr(nil, unix.IFLA_AF_SPEC, appendAttr(nil, unix.AF_INET, appendAttr(nil, inetConf, u32s(values[:18]...)))), devconf{arpAnnounce: 2, routeLocalnet: 0}},
		{"without IPv4", appendAttr(nil, unix.IFLA_AF_SPEC, nil), devconf{arpAnnounce: 0, routeLocalnet: 0}},
		{"cut off", appendAttr(nil, unix.IFLA_AF_SPEC, conf)[:20], nil},
		{"of an attribute that is too long", appendAttr(nil, unix.IFLA_AF_SPEC, conf[:20]), nil},
	} {
		got, err := decodeDevconf(append(slices.Clone(linkBody), tt.spec...))
		if !maps.Equal(got, tt.want) || errors.Is(err, neigh.ErrMalformed) != (tt.want == nil) {
			t.Errorf("%s: %v, %v; want %v", tt.name, got, err, tt.want)
		}
	}
	if _, err := decodeDevconf(linkBody[:15]); !errors.Is(err, neigh.ErrMalformed) {
		t.Errorf("a short message: %v", err)
	}
}

func BenchmarkSender(b *testing.B) {
	h, index := host(b)
	table := open(b, h)
	var others strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&others, "addr add 10.%d.%d.1/32 dev lo\n", 128+i/256, i%256)
	}
	h.Batch(others.String()) // as kube-proxy has them on kube-ipvs0
	for name, a := range map[string]string{"ARP": "10.0.0.2", "ND": "2001:db8::2"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := table.Sender(netip.MustParseAddr(a), index); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
