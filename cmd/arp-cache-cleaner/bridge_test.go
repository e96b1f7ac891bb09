package main

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

// bridged returns a node whose address is on a bridge over its only port.
func bridged(l *lab.Lab, sw *lab.Switch, suppress string) (node *lab.Host, port lab.Port) {
	node = l.Host("node")
	port = node.Plug(sw, "eth0", nodeMAC)
	for _, args := range []string{
		"link add br0 type bridge mcast_snooping 0", "link set eth0 master br0", "link set br0 up",
		"addr add 10.0.0.1/24 dev br0", "addr add 2001:db8::1/64 dev br0 nodad",
	} {
		node.IP(args)
	}
	node.Run("bridge", "link", "set", "dev", "eth0", "neigh_suppress", suppress, "learning", "on")
	return node, port
}

// A bridge with neigh_suppress answers a broadcast for an entry that is valid itself,
// in the neighbour's name. The switch must not learn the neighbour behind this node:
// packets to it would be lost, the node's own and those of bystanders.
func TestBridgeThatAnswersForOthers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, suppress, device string
		agent                  bool
	}{
		{"bridge", "on", "br0", true},
		{"macvlan on it", "on", "mac0", true},
		{"without neigh_suppress", "off", "br0", true},
		{"without the agent", "on", "br0", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := lab.Start(t)
			sw := l.Switch()
			node, port := bridged(l, sw, tt.suppress)
			peer, bystander := l.Host("peer"), l.Host("bystander")
			peer.Plug(sw, "eth0", peerMAC, "10.0.0.2/24", "2001:db8::2/64")
			bystander.Plug(sw, "eth0", otherMAC, "10.0.0.9/24")
			if tt.device == "mac0" {
				for _, args := range []string{
					"link add mac0 link br0 type macvlan mode bridge", "link set mac0 up",
					"addr add 10.0.0.3/24 dev mac0", "addr add 2001:db8::3/64 dev mac0 nodad",
					"route add 10.0.0.2/32 dev mac0", "-6 route add 2001:db8::2/128 dev mac0",
					// The bridge looks at its own entries. Its answer does not reach the
					// macvlan, which therefore must know the peer beforehand.
					"neigh add 10.0.0.2 lladdr " + peerMAC + " dev br0 nud permanent",
					"neigh add 2001:db8::2 lladdr " + peerMAC + " dev br0 nud permanent",
					"neigh add 10.0.0.2 lladdr " + peerMAC + " dev mac0 nud stale",
					"neigh add 2001:db8::2 lladdr " + peerMAC + " dev mac0 nud stale",
				} {
					node.IP(args)
				}
			}
			var streams []*lab.Stream
			for _, s := range []struct {
				from *lab.Host
				dst  string
			}{{node, "10.0.0.2:7001"}, {node, "[2001:db8::2]:7001"}, {bystander, "10.0.0.2:7002"}} {
				stream, err := lab.UDP(s.from, peer, netip.MustParseAddrPort(s.dst), 5*time.Millisecond)
				if err != nil {
					t.Fatal(err)
				}
				streams = append(streams, stream)
			}
			for _, addr := range []string{"10.0.0.2", "2001:db8::2"} {
				eventually(t, "the entry exists", func() bool {
					return strings.Contains(node.IP("neigh show "+addr+" dev "+tt.device), peerMAC)
				})
			}
			forged := sw.HearFrom(port, peerMAC)
			broadcast, byKernel := 0.0, 0.0
			if tt.agent {
				p := start(t, node, "--interval=2s", "--vip=none")
				renewals := func(method string) float64 {
					return p.metric(`renewals_total{device="` + tt.device + `",method="` + method + `",result="ok"}`)
				}
				within(t, 30*time.Second, "twelve renewals", func() bool {
					broadcast, byKernel = renewals("broadcast"), renewals("stale")+renewals("probe")
					return broadcast+byKernel >= 12
				})
			} else {
				<-time.After(5 * time.Second)
			}
			for i, s := range streams {
				if err := s.Stop(); err != nil {
					t.Error(err)
				}
				if sent, received, _ := s.Counts(); sent == 0 || received < sent-1 {
					t.Errorf("stream %d: %d packets of %d received", i, received, sent)
				}
			}
			if n := forged(); n != 0 {
				t.Errorf("%d frames of the node's in the peer's name", n)
			}
			if tt.suppress == "on" && broadcast > 0 || tt.suppress == "off" && broadcast == 0 {
				t.Errorf("%v renewals by broadcast, %v by the kernel's unicast", broadcast, byKernel)
			}
		})
	}
}

// A routing daemon takes the deletion of an entry for the end of the host. So an idle
// entry whose neighbour is there stays, and is verified; one whose neighbour is gone
// fails, and is deleted then.
func TestIdleEntryOnBridgeThatAnswersForOthers(t *testing.T) {
	t.Parallel()
	const interval = 10 * time.Second
	for _, suppress := range []string{"on", "off"} {
		t.Run(suppress, func(t *testing.T) {
			t.Parallel()
			l := lab.Start(t)
			sw := l.Switch()
			node, _ := bridged(l, sw, suppress)
			peer := l.Host("peer")
			peer.Plug(sw, "eth0", peerMAC, "10.0.0.2/24", "2001:db8::2/64")
			idle := []string{"10.0.0.2", "2001:db8::2"}
			for _, addr := range idle {
				node.IP("neigh add " + addr + " lladdr " + peerMAC + " dev br0 nud stale")
			}
			const gone = "10.0.0.66"
			node.IP("neigh add " + gone + " lladdr 02:00:00:00:00:66 dev br0 nud stale")
			watch := monitor(t, node)
			p := start(t, node, "--interval="+interval.String(), "--vip=none")
			lister := prepare(t, node, "list")
			lister.launch(nil)
			if code := lister.wait(); code != 0 || strings.Contains(lister.stdout.String(), "bridge_suppresses") != (suppress == "on") {
				t.Errorf("list: exit code %d\n%s%s", code, lister.stdout.String(), lister.stderr.String())
			}
			for end := time.Now().Add(25 * time.Second); time.Now().Before(end); <-time.After(100 * time.Millisecond) {
				for _, s := range node.Neighbours() {
					if s.Device != "br0" || s.Used < 0 || s.State == "FAILED" && s.Updated == 0 {
						continue
					}
					if s.Confirmed >= max(s.Used, s.Updated)+59 {
						s.Confirmed = 0 // never confirmed: the kernel starts the column at 60 s
					}
					if oldest := time.Duration(max(s.Used, s.Confirmed, s.Updated)) * time.Second; oldest > interval {
						t.Errorf("older than %v: %s", interval, s.Line)
					}
				}
			}
			verified := p.metric(`renewals_total{device="br0",method="stale",result="ok"}`) + p.metric(`renewals_total{device="br0",method="probe",result="ok"}`)
			said := watch()
			for _, addr := range idle {
				if deleted := strings.Contains(said, "Deleted "+addr+" "); deleted != (suppress == "off") {
					t.Errorf("%s was deleted: %v\n%s", addr, deleted, said)
				}
				if suppress == "on" && !strings.Contains(node.IP("neigh show "+addr), peerMAC) {
					t.Errorf("%s is gone", addr)
				}
			}
			if !strings.Contains(said, "Deleted "+gone+" ") {
				t.Errorf("%s was not deleted:\n%s", gone, said)
			}
			if suppress == "on" && verified < 6 {
				t.Errorf("%v verifications, want three of each entry", verified)
			}
			if n := p.metric("overdue_entries"); n != 0 {
				t.Errorf("%v overdue entries", n)
			}
		})
	}
}

// Where base_reachable_time is long, the kernel shows a new entry with a confirmed age
// above the interval. It lives on as one does where that time is the default.
func TestNewEntryIsNotRenewedAtBirth(t *testing.T) {
	t.Parallel()
	for _, ms := range []string{"30000", "200000"} {
		t.Run(ms, func(t *testing.T) {
			t.Parallel()
			l := lab.Start(t)
			sw := l.Switch()
			node, peer := l.Host("node"), l.Host("peer")
			node.Plug(sw, "eth0", nodeMAC, "10.0.0.1/24", "2001:db8::1/64")
			peer.Plug(sw, "eth0", peerMAC, "10.0.0.2/24", "2001:db8::2/64")
			node.Sysctl("net/ipv4/neigh/eth0/base_reachable_time_ms", ms)
			node.Sysctl("net/ipv6/neigh/eth0/base_reachable_time_ms", ms)
			p := start(t, node, "--interval=120s", "--scan-period=100ms", "--vip=none")
			eventually(t, "the agent scans", func() bool { return p.metric("scan_duration_seconds_count") > 0 })
			watch := monitor(t, node)
			// The peer's requests make the entries.
			peer.Touch("10.0.0.1")
			peer.Touch("2001:db8::1")
			addrs := []string{"10.0.0.2", "2001:db8::2"}
			shown := func() (entries []lab.Shown) {
				for _, s := range node.Neighbours() {
					if s.Addr == addrs[0] || s.Addr == addrs[1] {
						entries = append(entries, s)
					}
				}
				return entries
			}
			eventually(t, "both entries exist", func() bool { return len(shown()) == 2 })
			for _, s := range shown() {
				if old := s.Confirmed > 120; old != (ms == "200000") {
					t.Errorf("not as it is meant to be: %s", s.Line)
				}
			}
			for end := time.Now().Add(4 * time.Second); time.Now().Before(end); <-time.After(100 * time.Millisecond) {
				if n := p.metric("overdue_entries"); n != 0 {
					t.Errorf("%v overdue entries", n)
					break
				}
			}
			if said := watch(); strings.Contains(said, "Deleted") || len(shown()) != 2 {
				t.Errorf("an entry was deleted:\n%s", said)
			}
			for _, method := range []string{"delete", "stale", "probe", "broadcast"} {
				if n := p.metric(`renewals_total{device="eth0",method="` + method + `",result="ok"}`); n != 0 {
					t.Errorf("%v renewals by %s", n, method)
				}
			}
		})
	}
}
