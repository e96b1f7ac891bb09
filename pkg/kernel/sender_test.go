package kernel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
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
	t.Parallel()
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
				settle(t, node) // a route that comes from an address needs it
			}
			for _, s := range tt.sysctl {
				path, value, _ := strings.Cut(s, "=")
				node.Sysctl("net/ipv4/conf/"+path, value)
			}
			settle(t, node, peer)
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
				ctx, answered := context.WithCancel(t.Context())
				if err := node.Do(func() error {
					return pool.Ask(ctx, port.Index, solicit.Target{Addr: target}, 5*time.Second, func(solicit.Answer) { answered() })
				}); !errors.Is(err, context.Canceled) {
					t.Errorf("arp_announce %d: no answer, %v", announce, err)
				}
				answered()
				ours := next(t, heard, target)
				if kernels.Sender.String() != want || ours.Sender != kernels.Sender {
					t.Errorf("arp_announce %d: the kernel asks from %s, want %s; we ask from %s", announce, kernels.Sender, want, ours.Sender)
				}
			}
		})
	}
}

// An address moves from the node to another host, which makes itself known by it.
// The node goes on asking for a VIP, but not from that address: what the VIP's holder
// knows about it stays true: whether the sender is found anew for each frame or by a
// Sender. The control asks from where it asked before.
func TestNeverFromALostAddress(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, floating, vip string
		node                []string // what it has beside the floating address
	}{
		{"floating", "10.0.0.50/32", "10.0.0.2", []string{"addr add 10.0.0.1/24 dev eth0", "route add 10.0.0.2/32 dev eth0 src 10.0.0.50"}},
		{"renumbered", "10.0.0.50/24", "10.0.0.2", []string{"addr add 10.0.0.1/24 dev eth0"}},
		{"floating, IPv6", "2001:db8::50/128", "2001:db8::2", []string{"addr add 2001:db8::1/64 dev eth0", "route add 2001:db8::2/128 dev eth0 src 2001:db8::50"}},
		{"renumbered, IPv6", "2001:db8::50/64", "2001:db8::2", []string{"route add 2001:db8::/64 dev eth0 metric 10"}},
	} {
		for _, by := range []string{"table", "sender", "control"} {
			t.Run(tt.name+", "+by, func(t *testing.T) {
				control := by == "control"
				m := newMove(t, tt.vip, netip.MustParsePrefix(tt.floating), tt.node, by)
				_ = m.look(t)
				if s := m.look(t); s.Sender != m.floating.Addr() {
					t.Fatalf("before it moves the node asks from %s, want %s", s.Sender, m.floating)
				}
				m.node.IP("addr del " + tt.floating + " dev eth0")
				m.other.IP("addr add " + m.floating.Addr().String() + " dev eth0") // a host address
				settle(t, m.other)
				m.holderBelieves(t, otherMAC)
				for range 3 {
					if s := m.look(t); (s.Sender == m.floating.Addr()) != control {
						t.Errorf("the node, which has lost %s, asks from %s", m.floating, s.Sender)
					}
				}
				if got, want := m.known(), map[bool]string{false: otherMAC, true: nodeMAC}[control]; got != want {
					t.Errorf("the holder of the VIP takes %s for %s's, want %s", got, m.floating, want)
				}
			})
		}
	}
}

const nodeMAC, otherMAC = "02:00:00:00:00:01", "02:00:00:00:00:03"

// move is a node that asks for a VIP from an address that moves to another host.
type move struct {
	node, holder, other *lab.Host
	floating            netip.Prefix
	vip                 netip.Addr
	port                lab.Port
	pool                *solicit.Pool
	heard               <-chan lab.Solicitation
}

func newMove(t *testing.T, vip string, floating netip.Prefix, node []string, by string) *move {
	l := lab.Start(t)
	sw := l.Switch()
	m := &move{node: l.Host("node"), holder: l.Host("holder"), other: l.Host("other"), floating: floating, vip: netip.MustParseAddr(vip)}
	m.port = m.node.Plug(sw, "eth0", nodeMAC, floating.String())
	m.node.Sysctl("net/ipv4/conf/all/promote_secondaries", "1")
	for _, args := range node {
		m.node.IP(args)
	}
	m.heard = m.holder.HearSolicitations(m.holder.Plug(sw, "eth0", "02:00:00:00:00:02", "10.0.0.2/24", "2001:db8::2/64"))
	m.other.Plug(sw, "eth0", otherMAC)
	m.other.IP("route add 10.0.0.0/24 dev eth0")
	m.other.IP("route add 2001:db8::/64 dev eth0")
	settle(t, m.node, m.holder, m.other)
	table := open(t, m.node)
	sender := table.Sender
	switch by {
	case "sender":
		last := table.NewSender(m.vip, m.port.Index)
		sender = func(netip.Addr, int) (netip.Addr, error) { return last.Addr() }
		t.Cleanup(func() {
			if !last.last.IsValid() {
				t.Error("it has remembered nothing")
			}
		})
	case "control":
		sender = func(netip.Addr, int) (netip.Addr, error) { return floating.Addr(), nil }
	}
	m.pool = solicit.NewPool(sender)
	t.Cleanup(m.pool.Close)
	return m
}

// look has the node ask once, and returns what was heard of it.
func (m *move) look(t *testing.T) lab.Solicitation {
	t.Helper()
	if err := m.node.Do(func() error {
		return m.pool.Ask(t.Context(), m.port.Index, solicit.Target{Addr: m.vip}, 20*time.Millisecond, func(solicit.Answer) {})
	}); err != nil {
		t.Fatal(err)
	}
	for {
		if s := next(t, m.heard, m.vip); s.LLAddr.String() == nodeMAC {
			return s
		}
	}
}

var shownLLAddr = regexp.MustCompile(`lladdr (\S+)`)

// known returns the link-layer address that the VIP's holder has for the floating
// address.
func (m *move) known() string {
	for _, n := range m.holder.Neighbours() {
		if found := shownLLAddr.FindStringSubmatch(n.Line); n.Addr == m.floating.Addr().String() && found != nil {
			return found[1]
		}
	}
	return ""
}

// holderBelieves has the other host talk to the VIP until its holder knows it by the
// floating address.
func (m *move) holderBelieves(t *testing.T, lladdr string) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); m.known() != lladdr; {
		if time.Now().After(deadline) {
			t.Fatalf("the holder of the VIP takes %s for %s's, want %s", m.known(), m.floating, lladdr)
		}
		_, _ = m.other.Try("ip", "neigh", "del", m.vip.String(), "dev", "eth0")
		m.other.Touch(m.vip.String())
	}
}

// settle waits until no address is tentative. Even without duplicate address
// detection one is for a moment.
func settle(t *testing.T, hosts ...*lab.Host) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for _, h := range hosts {
		for h.IP("-6 addr show tentative") != "" {
			if time.Now().After(deadline) {
				t.Fatalf("host %s: %s", h.Name, h.IP("-6 addr show tentative"))
			}
		}
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

func TestSettings(t *testing.T) {
	h, index := host(t)
	table := open(t, h) // in another namespace than this thread's
	for _, s := range []struct {
		path string
		want int
	}{{"all/arp_announce", 1}, {"eth0/arp_announce", 2}, {"all/arp_announce", 3}} {
		h.Sysctl("net/ipv4/conf/"+s.path, fmt.Sprint(s.want))
		if got, err := table.settings(index); err != nil || got.arpAnnounce != s.want || got.routeLocalnet {
			t.Errorf("%s is %d, read %v, %v", s.path, s.want, got, err)
		}
	}
	h.Sysctl("net/ipv4/conf/eth0/route_localnet", "1")
	if got, err := table.settings(index); err != nil || !got.routeLocalnet {
		t.Errorf("route_localnet: read %v, %v", got, err)
	}
	table.forAll.close() // and what cannot be read is 0
	if got, err := table.settings(index); err != nil || got.arpAnnounce != 2 {
		t.Errorf("without what is set for all: %v, %v", got, err)
	}
	if _, err := table.settings(99); !errors.Is(err, neigh.ErrGone) {
		t.Errorf("without the device: %v, want ErrGone", err)
	}
}

func TestDecodeSettings(t *testing.T) {
	values := make([]uint32, 26)
	values[17], values[25] = 2, 1
	conf := appendAttr(nil, unix.AF_INET, appendAttr(nil, inetConf, u32s(values...)))
	for _, tt := range []struct {
		name string
		spec []byte
		want settings
		ok   bool
	}{
		{"whole", appendAttr(nil, unix.IFLA_AF_SPEC, conf), settings{arpAnnounce: 2, routeLocalnet: true}, true},
		{"of an older kernel", appendAttr(nil, unix.IFLA_AF_SPEC, appendAttr(nil, unix.AF_INET, appendAttr(nil, inetConf, u32s(values[:18]...)))), settings{arpAnnounce: 2}, true},
		{"without IPv4", appendAttr(nil, unix.IFLA_AF_SPEC, nil), settings{}, true},
		{"cut off", appendAttr(nil, unix.IFLA_AF_SPEC, conf)[:20], settings{}, false},
		{"of an attribute that is too long", appendAttr(nil, unix.IFLA_AF_SPEC, conf[:20]), settings{}, false},
	} {
		d, err := decodeLink(append(slices.Clone(linkBody), tt.spec...))
		if d.settings != tt.want || (err == nil) != tt.ok || err != nil && !errors.Is(err, neigh.ErrMalformed) {
			t.Errorf("%s: %+v, %v; want %+v", tt.name, d.settings, err, tt.want)
		}
	}
	if _, err := decodeLink(linkBody[:15]); !errors.Is(err, neigh.ErrMalformed) {
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
