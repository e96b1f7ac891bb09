package main

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/solicit"
)

const (
	nodeMAC  = "02:00:00:00:00:01"
	peerMAC  = "02:00:00:00:00:02"
	otherMAC = "02:00:00:00:00:99"
)

// metric returns the value of a sample of the agent, 0 where there is none.
func (p *process) metric(sample string) float64 {
	_, body := p.get("http://127.0.0.1:10330/metrics")
	lines := bufio.NewScanner(strings.NewReader(body))
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), "arp_cache_cleaner_"+sample+" "); ok {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				p.t.Fatal(err)
			}
			return v
		}
	}
	return 0
}

// reportedAlone checks that another holder is reported, and that no entry was given to it.
func reportedAlone(t *testing.T, p *process) {
	t.Helper()
	if got := p.metric(`contested_entries{device="eth0"}`); got != 1 {
		t.Errorf("%v contested entries, want 1: the other must have answered", got)
	}
	if got := p.metric(`corrections_total{device="eth0"}`); got != 0 {
		t.Errorf("%v corrections, want none", got)
	}
}

// monitor collects what `ip monitor neigh` says on the host until stopped.
func monitor(t *testing.T, h *lab.Host) (stop func() string) {
	t.Helper()
	var out lockedBuffer
	cmd := exec.Command("ip", "-oneline", "monitor", "neigh")
	cmd.Stdout = &out
	if err := h.Start(cmd); err != nil {
		t.Fatal(err)
	}
	end := sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	t.Cleanup(end)
	return func() string {
		end()
		return out.String()
	}
}

// tcp starts a TCP stream from the node to addr on the peer.
func tcp(t *testing.T, from, to *lab.Host, addr string, period time.Duration) *lab.Stream {
	t.Helper()
	s, err := lab.TCP(from, to, netip.MustParseAddrPort(addr), period)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A second host answers for the peer's address. The entry stays with the peer
// through a hundred renewals, and the TCP connection through it lives.
//
// Where the kernel has no locktime the second answer moves the entry, for as long
// as it takes to put it back. What is sent in that time reaches the wrong host,
// and a TCP segment is answered by a reset: on a quiet connection that is a
// matter of chance. Under IPv6 it happens in most rounds, so there the peer is a
// next hop without traffic.
func TestSecondHolderMovesNothing(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, addr, dst string
		locktime        string // in USER_HZ, ARP only
		still           bool   // the entry must not move at all
		period          time.Duration
	}{
		{"ipv4", "10.0.0.2/24", "10.0.0.2:7000", "100", true, time.Millisecond},
		{"ipv4, locktime 0", "10.0.0.2/24", "10.0.0.2:7000", "0", false, 500 * time.Millisecond},
		{"ipv6", "2001:db8::2/64", "", "100", false, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := lab.Start(t)
			sw := l.Switch()
			node, peer, other := l.Host("node"), l.Host("peer"), l.Host("other")
			node.Plug(sw, "eth0", nodeMAC, "10.0.0.1/24", "2001:db8::1/64")
			node.Sysctl("net/ipv4/neigh/eth0/locktime", tt.locktime)
			peer.Plug(sw, "eth0", peerMAC, tt.addr)
			addr := strings.Split(tt.addr, "/")[0]
			var s *lab.Stream
			if tt.dst != "" {
				s = tcp(t, node, peer, tt.dst, tt.period)
			} else {
				node.IP("-6 route add default via " + addr)
				node.Touch(addr)
				eventually(t, "the entry exists", func() bool { return strings.Contains(node.IP("neigh show "+addr), peerMAC) })
			}
			other.Plug(sw, "eth0", otherMAC, tt.addr)
			watch := monitor(t, node)
			p := start(t, node, "--interval=1s")
			rounds := 100.0
			if testing.Short() {
				rounds = 20
			}
			deadline := time.Now().Add(4 * time.Minute)
			for range time.Tick(time.Second) {
				if p.metric(`renewals_total{device="eth0",method="broadcast",result="ok"}`) >= rounds || time.Now().After(deadline) {
					break
				}
			}
			if got := p.metric(`renewals_total{device="eth0",method="broadcast",result="ok"}`); got < rounds {
				t.Errorf("%v renewals, want %v", got, rounds)
			}
			shown := node.IP("neigh show " + addr)
			if !strings.Contains(shown, peerMAC) {
				t.Errorf("the entry is now %s", shown)
			}
			if moved := strings.Count(watch(), otherMAC); tt.still && moved > 0 {
				t.Errorf("the entry moved to the second holder %d times", moved)
			} else {
				t.Logf("moved and put back %d times", moved)
			}
			if s != nil {
				if err := s.Stop(); err != nil {
					t.Errorf("TCP: %v", err)
				}
				t.Logf("longest TCP round trip %v", s.Stall())
			}
			if got := p.metric(`corrections_total{device="eth0"}`); got != 0 {
				t.Errorf("%v corrections, want none", got)
			}
			if got := p.metric(`contested_entries{device="eth0"}`); got != 1 {
				t.Errorf("%v contested entries, want 1", got)
			}
			if log := p.stderr.String(); strings.Count(log, "several holders answer") != 1 {
				t.Errorf("want it said once that several holders answer:\n%s", log)
			}
		})
	}
}

// One host with two interfaces on the segment answers with both. That is no
// reason not to renew its entry, and is reported once.
func TestHostWithTwoInterfaces(t *testing.T) {
	t.Parallel()
	l := lab.Start(t)
	sw := l.Switch()
	node, peer := l.Host("node"), l.Host("peer")
	node.Plug(sw, "eth0", nodeMAC, "10.0.0.1/24")
	peer.Plug(sw, "eth0", peerMAC, "10.0.0.2/24")
	peer.Plug(sw, "eth1", otherMAC, "10.0.0.3/24")
	s := tcp(t, node, peer, "10.0.0.2:7000", time.Millisecond)
	p := start(t, node, "--interval=1s")
	eventually(t, "five renewals", func() bool {
		return p.metric(`renewals_total{device="eth0",method="broadcast",result="ok"}`) >= 5
	})
	if err := s.Stop(); err != nil {
		t.Errorf("TCP: %v", err)
	}
	if log := p.stderr.String(); strings.Count(log, "several holders answer") != 1 {
		t.Errorf("want it said once that several holders answer:\n%s", log)
	}
}

// A router that answers for hosts behind it looks at who asks: the source must
// be the kernel's own.
func TestProxyARP(t *testing.T) {
	t.Parallel()
	l := lab.Start(t)
	sw, behind := l.Switch(), l.Switch()
	node, router := l.Host("node"), l.Host("router")
	node.Plug(sw, "eth0", nodeMAC, "10.0.0.1/16")
	router.Plug(sw, "eth0", peerMAC, "10.0.0.254/24")
	router.Plug(behind, "eth1", "", "10.0.9.254/24")
	router.Sysctl("net/ipv4/ip_forward", "1")
	router.Sysctl("net/ipv4/conf/eth0/proxy_arp", "1")
	router.Sysctl("net/ipv4/neigh/eth0/proxy_delay", "0")
	node.IP("route add 10.5.0.0/16 via 10.0.9.7") // a next hop that the router answers for
	node.Touch("10.0.9.7")
	eventually(t, "the router answers", func() bool { return strings.Contains(node.IP("neigh"), "10.0.9.7 dev eth0 lladdr "+peerMAC) })
	p := start(t, node, "--interval=1s")
	eventually(t, "five renewals", func() bool {
		return p.metric(`renewals_total{device="eth0",method="broadcast",result="ok"}`) >= 5
	})
}

// The peer has a new MAC, and announced it to nobody: the next renewal finds
// out, writes it, and counts a correction.
func TestNewMACIsFound(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, addr, dst string }{
		{"ipv4", "10.0.0.2/24", "10.0.0.2"},
		{"ipv6", "2001:db8::2/64", "2001:db8::2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := lab.Start(t)
			sw := l.Switch()
			node, old, replacement := l.Host("node"), l.Host("old"), l.Host("new")
			node.Plug(sw, "eth0", nodeMAC, "10.0.0.1/24", "2001:db8::1/64")
			old.Plug(sw, "eth0", peerMAC, tt.addr)
			family := ""
			if strings.Contains(tt.addr, ":") {
				family = "-6 "
			}
			node.IP(family + "route add default via " + tt.dst) // a next hop: renewed without traffic
			node.Touch(tt.dst)
			eventually(t, "the entry exists", func() bool { return strings.Contains(node.IP("neigh show "+tt.dst), peerMAC) })
			p := start(t, node, "--interval=3s")
			p.ready()
			old.IP("link set eth0 down")
			replacement.Plug(sw, "eth0", otherMAC, tt.addr)
			eventually(t, "the entry names the new MAC", func() bool { return strings.Contains(node.IP("neigh show "+tt.dst), otherMAC) })
			eventually(t, "a correction is counted", func() bool { return p.metric(`corrections_total{device="eth0"}`) == 1 })
			eventually(t, "it is logged", func() bool {
				return strings.Contains(p.stderr.String(), "address="+tt.dst+" device=eth0 old_lladdr="+peerMAC+" new_lladdr="+otherMAC+" method=")
			})
			if p.metric(`device_info{device="eth0",lladdr="`+nodeMAC+`"}`) != 1 {
				t.Error("device_info does not say which address eth0 has")
			}
		})
	}
}

// late is a host that answers broadcasts for an address after a delay, and has not got it.
func late(l *lab.Lab, sw *lab.Switch, addr string, delay time.Duration) (*lab.Host, lab.Port) {
	h := l.Host("late")
	port := h.Plug(sw, "eth0", otherMAC)
	decide := func(r lab.Request) (time.Duration, bool) {
		if r.Broadcast {
			return delay, true
		}
		return 0, true
	}
	if netip.MustParseAddr(addr).Is4() {
		h.RespondARP(port, otherMAC, []string{addr}, decide)
	} else {
		h.RespondND(port, otherMAC, []string{addr}, decide)
	}
	return h, port
}

// Another host answers the agent's broadcasts later than the agent waits, and later than
// locktime, if there is one. Without the agent nobody asks by broadcast. With it, the
// entry is back at once, and the other host is reported.
func TestSecondHolderAnswersLate(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	t.Parallel()
	for _, tt := range []struct {
		name, addr, locktime string
		delay                time.Duration
		moves                bool // late answers reach the entry
	}{
		{"ipv4", "10.0.0.2", "100", 1200 * time.Millisecond, true},
		{"ipv4, within locktime", "10.0.0.2", "100", 700 * time.Millisecond, false},
		{"ipv4, locktime 0", "10.0.0.2", "0", 700 * time.Millisecond, true},
		{"ipv6", "2001:db8::2", "100", 700 * time.Millisecond, true},
		{"ipv6, slow", "2001:db8::2", "100", 2 * time.Second, true},
	} {
		for _, agent := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, agent=%v", tt.name, agent), func(t *testing.T) {
				t.Parallel()
				l := lab.Start(t)
				sw := l.Switch()
				node, peer := l.Host("node"), l.Host("peer")
				node.Plug(sw, "eth0", nodeMAC, "10.0.0.1/24", "2001:db8::1/64")
				node.Sysctl("net/ipv4/neigh/eth0/locktime", tt.locktime)
				peer.Plug(sw, "eth0", peerMAC, "10.0.0.2/24", "2001:db8::2/64")
				s, err := lab.UDP(node, peer, netip.AddrPortFrom(netip.MustParseAddr(tt.addr), 7000), 20*time.Millisecond)
				if err != nil {
					t.Fatal(err)
				}
				eventually(t, "the entry exists", func() bool { return strings.Contains(node.IP("neigh show "+tt.addr), peerMAC) })
				late(l, sw, tt.addr, tt.delay)
				watch := monitor(t, node)
				if agent {
					p := start(t, node, "--interval=6s")
					within(t, time.Minute, "four renewals", func() bool {
						return p.metric(`renewals_total{device="eth0",method="broadcast",result="ok"}`) >= 4
					})
					within(t, 20*time.Second, "the other is reported", func() bool { return p.metric(`contested_entries{device="eth0"}`) == 1 })
					if got := p.metric(`corrections_total{device="eth0"}`); got != 0 {
						t.Errorf("%v corrections, want none", got)
					}
				} else {
					<-time.After(10 * time.Second)
				}
				if err := s.Stop(); err != nil {
					t.Error(err)
				}
				// One datagram or two, each time that the entry is put back.
				if sent, received, _ := s.Counts(); sent-received > 10 || !agent && received != sent {
					t.Errorf("%d sent, %d received", sent, received)
				}
				if moved := strings.Count(watch(), otherMAC); (moved > 0) != (agent && tt.moves) {
					t.Errorf("the entry was with the other %d times", moved)
				}
			})
		}
	}
}

// What a late answer has moved is put back, and what was announced is not, be it
// announced by one who answers late as well.
func TestAnnouncementsAfterAnAnswerCount(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	t.Parallel()
	for _, addr := range []string{"10.0.0.2", "2001:db8::2"} {
		t.Run(addr, func(t *testing.T) {
			t.Parallel()
			l := lab.Start(t)
			sw := l.Switch()
			node, peer := l.Host("node"), l.Host("peer")
			node.Plug(sw, "eth0", nodeMAC, "10.0.0.1/24", "2001:db8::1/64")
			peer.Plug(sw, "eth0", peerMAC, "10.0.0.2/24", "2001:db8::2/64")
			// What it asked the node would announce it, too.
			peer.IP("neigh replace 10.0.0.1 lladdr " + nodeMAC + " dev eth0 nud permanent")
			peer.IP("neigh replace 2001:db8::1 lladdr " + nodeMAC + " dev eth0 nud permanent")
			family := ""
			if netip.MustParseAddr(addr).Is6() {
				family = "-6 "
			}
			node.IP(family + "route add default via " + addr) // a next hop: renewed without traffic
			node.Touch(addr)
			eventually(t, "the entry exists", func() bool { return strings.Contains(node.IP("neigh show "+addr), peerMAC) })
			other, port := late(l, sw, addr, 1200*time.Millisecond)
			heard := other.HearSolicitations(port)
			var announcer *solicit.Announcer
			if err := other.Do(func() (err error) {
				announcer, err = solicit.DialAnnouncer(port.Index, netip.MustParseAddr(addr))
				return err
			}); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = announcer.Close() })
			watch := monitor(t, node)
			p := start(t, node, "--interval=12s")
			p.ready()
			for s := range heard { // the incumbent answers this one in time
				if s.ToAll && s.Target.String() == addr {
					break
				}
			}
			<-time.After(700 * time.Millisecond) // nobody waits for answers any more, and none is late yet
			if err := announcer.Announce(false); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the entry names the one that announced itself", func() bool { return strings.Contains(node.IP("neigh show "+addr), otherMAC) })
			<-time.After(3 * time.Second) // its answer has come
			if shown := node.IP("neigh show " + addr); !strings.Contains(shown, otherMAC) {
				t.Errorf("the entry is now %s:\n%s", shown, watch())
			}
		})
	}
}

// Broadcasts do not reach a host that works, and another answers all of them. Without the
// agent nobody asks by broadcast while TCP makes progress. With it the host keeps its
// entry, and the other is reported.
func TestHostThatBroadcastsDoNotReach(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	t.Parallel()
	for _, tt := range []struct{ name, addr, dst string }{
		{"ipv4", "10.0.0.2/24", "10.0.0.2:7000"},
		{"ipv6", "2001:db8::2/64", "[2001:db8::2]:7000"},
	} {
		for _, agent := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, agent=%v", tt.name, agent), func(t *testing.T) {
				t.Parallel()
				l := lab.Start(t)
				sw := l.Switch()
				node, peer, other := l.Host("node"), l.Host("peer"), l.Host("other")
				node.Plug(sw, "eth0", nodeMAC, "10.0.0.1/24", "2001:db8::1/64")
				port := peer.Plug(sw, "eth0", peerMAC, tt.addr)
				addr := strings.Split(tt.addr, "/")[0]
				s := tcp(t, node, peer, tt.dst, 100*time.Millisecond)
				sw.Host().Run("bridge", "link", "set", "dev", port.Name, "bcast_flood", "off", "mcast_flood", "off")
				// A segment that reaches it while the entry is there must not end the connection.
				other.Firewall(t, "table inet lab { chain in { type filter hook input priority 0; tcp dport 7000 drop; }; }")
				other.Plug(sw, "eth0", otherMAC, tt.addr)
				heard := peer.HearSolicitations(port)
				watch := monitor(t, node)
				if agent {
					p := start(t, node, "--interval=3s")
					within(t, 30*time.Second, "five renewals", func() bool {
						return p.metric(`renewals_total{device="eth0",method="broadcast",result="ok"}`) >= 5
					})
					reportedAlone(t, p)
				} else {
					<-time.After(5 * time.Second)
				}
				if shown := node.IP("neigh show " + addr); !strings.Contains(shown, peerMAC) {
					t.Errorf("the entry is now %s", shown)
				}
				// Where Neighbor Discovery has no locktime, it is with the other until it is
				// put back.
				if moved := strings.Count(watch(), otherMAC); !agent && moved > 0 || agent && tt.name == "ipv4" && moved > 0 {
					t.Errorf("the entry moved to the other %d times", moved)
				}
				for len(heard) > 0 {
					if h := <-heard; h.ToAll && h.Target.String() == addr {
						t.Error("the peer has heard a broadcast")
					}
				}
				if err := s.Stop(); err != nil {
					t.Errorf("TCP: %v", err)
				}
			})
		}
	}
}

// A neighbour that stands still while it is asked for, as a virtual machine does that
// migrates, keeps its entry against another host that answers for its address. Without
// the agent nobody asks the other.
func TestNeighbourThatStandsStill(t *testing.T) {
	t.Parallel()
	const addr, still = "10.0.0.2", 3 * time.Second
	l := lab.Start(t)
	sw := l.Switch()
	node, peer, other := l.Host("node"), l.Host("peer"), l.Host("other")
	node.Plug(sw, "eth0", nodeMAC, "10.0.0.1/24")
	node.Sysctl("net/ipv4/neigh/eth0/delay_first_probe_time", "60")
	port := peer.Plug(sw, "eth0", peerMAC, addr+"/24")
	node.IP("route add default via " + addr) // a next hop: renewed without traffic
	node.Touch(addr)
	eventually(t, "the entry exists", func() bool { return strings.Contains(node.IP("neigh show "+addr), peerMAC) })
	heard := other.HearSolicitations(other.Plug(sw, "eth0", otherMAC, addr+"/24"))
	watch := monitor(t, node)
	p := start(t, node, "--interval=12s")
	p.ready()
	sw.Host().IP("link set " + port.Name + " down")
	within(t, 20*time.Second, "a request to everybody", func() bool {
		for len(heard) > 0 {
			if h := <-heard; h.ToAll && h.Target.String() == addr {
				return true
			}
		}
		return false
	})
	<-time.After(still)
	sw.Host().IP("link set " + port.Name + " up")
	within(t, 20*time.Second, "the end of the renewal", func() bool {
		return p.metric(`renewals_total{device="eth0",method="broadcast",result="ok"}`) >= 1
	})
	reportedAlone(t, p)
	if seen := watch(); strings.Contains(seen, otherMAC) {
		t.Errorf("the entry was with the other:\n%s", seen)
	}
}

// A packet socket hears what the node's firewall has the kernel drop. The entry may
// be given to such a holder, since the one it names is silent; but it is the kernel
// that finds out, and nothing it has not heard makes the entry REACHABLE.
func TestWhatTheFirewallDropsIsNotVerified(t *testing.T) {
	t.Parallel()
	for _, dropped := range []bool{true, false} {
		t.Run(fmt.Sprintf("dropped=%v", dropped), func(t *testing.T) {
			t.Parallel()
			l := lab.Start(t)
			sw := l.Switch()
			node, peer, other := l.Host("node"), l.Host("peer"), l.Host("other")
			node.Plug(sw, "eth0", nodeMAC, "10.0.0.1/24")
			if dropped {
				node.Firewall(t, "table arp lab { chain in { type filter hook input priority 0; arp saddr ether "+otherMAC+" counter drop; }; }")
			}
			peer.Plug(sw, "eth0", peerMAC, "10.0.0.2/24")
			node.IP("route add default via 10.0.0.2") // a next hop: renewed without traffic
			node.Touch("10.0.0.2")
			eventually(t, "the entry exists", func() bool { return strings.Contains(node.IP("neigh show 10.0.0.2"), peerMAC) })
			watch := monitor(t, node)
			t.Cleanup(func() {
				if t.Failed() {
					t.Log(watch())
				}
			})
			p := start(t, node, "--interval=3s")
			p.ready()
			peer.IP("link set eth0 down")
			other.Plug(sw, "eth0", otherMAC, "10.0.0.2/24")
			given := "10.0.0.2 dev eth0 lladdr " + otherMAC
			eventually(t, "the entry is given to the other", func() bool { return strings.Contains(node.IP("neigh show"), given) })
			within(t, 20*time.Second, "the kernel has found out", func() bool {
				shown := node.IP("neigh show 10.0.0.2")
				return strings.Contains(shown, otherMAC+" REACHABLE") || !strings.Contains(shown, otherMAC)
			})
			seen := watch()
			if reachable := strings.Contains(seen, given+" REACHABLE"); reachable == dropped {
				t.Errorf("REACHABLE at the other: %v, want %v:\n%s", reachable, !dropped, seen)
			}
			if dropped && strings.Contains(node.Run("nft", "list", "ruleset"), "packets 0 ") {
				t.Error("the firewall has dropped nothing")
			}
		})
	}
}

// The holder is silent, and two others answer. Neither is believed: the entry stays
// as it is until the kernel itself finds the holder silent.
func TestOfTwoStrangersNeitherIsBelieved(t *testing.T) {
	t.Parallel()
	for _, strangers := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d strangers", strangers), func(t *testing.T) {
			t.Parallel()
			l := lab.Start(t)
			sw := l.Switch()
			node, peer := l.Host("node"), l.Host("peer")
			node.Plug(sw, "eth0", nodeMAC, "10.0.0.1/24")
			node.Sysctl("net/ipv4/neigh/eth0/delay_first_probe_time", "60")
			peer.Plug(sw, "eth0", peerMAC, "10.0.0.2/24")
			node.IP("route add default via 10.0.0.2")
			node.Touch("10.0.0.2")
			eventually(t, "the entry exists", func() bool { return strings.Contains(node.IP("neigh show 10.0.0.2"), peerMAC) })
			peer.IP("link set eth0 down")
			for i := range strangers {
				l.Host(fmt.Sprint("stranger", i)).Plug(sw, "eth0", fmt.Sprintf("02:00:00:00:00:9%d", 9-i), "10.0.0.2/24")
			}
			watch := monitor(t, node)
			p := start(t, node, "--interval=3s")
			result := map[int]string{1: "ok", 2: "undecided"}[strangers]
			eventually(t, "a renewal ends "+result, func() bool {
				return p.metric(fmt.Sprintf(`renewals_total{device="eth0",method="broadcast",result=%q}`, result)) >= 1
			})
			shown, seen := node.IP("neigh show 10.0.0.2"), watch()
			if moved := strings.Contains(seen, "lladdr 02:00:00:00:00:9"); moved != (strangers == 1) {
				t.Errorf("given to another: %v: %s\n%s", moved, shown, seen)
			}
			if got := p.metric(`contested_entries{device="eth0"}`); got != float64(strangers-1) {
				t.Errorf("%v contested entries, want %d", got, strangers-1)
			}
		})
	}
}

// A proxy answers for an address without the Override flag, its owner with it. The
// owner has the entry, whichever of them the entry named at first.
func TestOwnerBeforeProxy(t *testing.T) {
	t.Parallel()
	for _, first := range []string{"proxy", "owner"} {
		t.Run("the entry names the "+first, func(t *testing.T) {
			t.Parallel()
			l := lab.Start(t)
			sw := l.Switch()
			const addr = "2001:db8::2"
			node, proxy, owner := l.Host("node"), l.Host("proxy"), l.Host("owner")
			node.Plug(sw, "eth0", nodeMAC, "2001:db8::1/64")
			proxy.Plug(sw, "eth0", peerMAC, "2001:db8::fe/64")
			// The kernel is a proxy on a host that forwards.
			proxy.Sysctl("net/ipv6/conf/all/forwarding", "1")
			proxy.Sysctl("net/ipv6/conf/eth0/proxy_ndp", "1")
			proxy.Sysctl("net/ipv6/neigh/eth0/proxy_delay", "0")
			join := map[string]func(){
				"proxy": func() { proxy.IP("neigh add proxy " + addr + " dev eth0") },
				"owner": func() { owner.Plug(sw, "eth0", otherMAC, addr+"/64") },
			}
			mac := map[string]string{"proxy": peerMAC, "owner": otherMAC}
			join[first]()
			delete(join, first)
			node.IP("-6 route add default via " + addr) // a next hop: renewed without traffic
			node.Touch(addr)
			eventually(t, "the entry exists", func() bool { return strings.Contains(node.IP("neigh show "+addr), mac[first]) })
			for _, f := range join {
				f()
			}
			p := start(t, node, "--interval=1s")
			renewals := func() float64 { return p.metric(`renewals_total{device="eth0",method="broadcast",result="ok"}`) }
			eventually(t, "two renewals", func() bool { return renewals() >= 2 })
			watch := monitor(t, node)
			for n := renewals(); renewals() < n+5; {
				<-time.After(100 * time.Millisecond)
			}
			if seen := watch(); strings.Contains(seen, addr+" dev eth0 lladdr "+peerMAC) || !strings.Contains(seen, addr+" dev eth0 lladdr "+otherMAC) {
				t.Errorf("want it with the owner, %s:\n%s", otherMAC, seen)
			}
			if got := p.metric(`contested_entries{device="eth0"}`); got != 1 {
				t.Errorf("%v contested entries, want 1: both must have answered", got)
			}
		})
	}
}

// Of the ARP frames in one direction, one in ten is lost. The host is up, so no
// entry in use may end FAILED, and no packet of the traffic may be lost.
func TestARPLoss(t *testing.T) {
	lab.Alone(t)
	l := lab.Start(t)
	sw := l.Switch()
	node, peer := l.Host("node"), l.Host("peer")
	node.Plug(sw, "eth0", nodeMAC, "10.0.0.1/24")
	port := peer.Plug(sw, "eth0", peerMAC, "10.0.0.2/24")
	peer.IP("neigh replace 10.0.0.1 lladdr " + nodeMAC + " dev eth0 nud permanent")
	random := rand.New(rand.NewPCG(1, 2))
	// Seen from the node, a lost request and a lost answer are the same.
	peer.RespondARP(port, peerMAC, []string{"10.0.0.2"}, func(lab.Request) (time.Duration, bool) {
		return 100 * time.Microsecond, random.IntN(10) > 0
	})
	s, err := lab.Flood(node, peer, netip.MustParseAddrPort("10.0.0.2:7000"), 5000)
	if err != nil {
		t.Fatal(err)
	}
	watch := monitor(t, node)
	p := start(t, node, "--interval=1s")
	const rounds = 30
	deadline := time.Now().Add(time.Minute)
	for range time.Tick(time.Second) {
		if p.metric(`renewals_total{device="eth0",method="broadcast",result="ok"}`) >= rounds || time.Now().After(deadline) {
			break
		}
	}
	if got := p.metric(`renewals_total{device="eth0",method="broadcast",result="ok"}`); got < rounds {
		t.Errorf("%v renewals, want %d", got, rounds)
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	if sent, received, _ := s.Counts(); received != sent {
		t.Errorf("sent %d, received %d", sent, received)
	}
	if seen := watch(); strings.Contains(seen, "FAILED") {
		t.Errorf("an entry in use failed:\n%s", seen)
	}
}

// The table of `make bench-loss`, for the agent alone, as a test.
func TestRenewalLosesNothing(t *testing.T) {
	lab.Alone(t)
	for _, c := range lab.LossCases {
		t.Run(c.Name, func(t *testing.T) {
			l := lab.Start(t)
			var renewed float64
			before, readable := lab.Discards()
			res, err := lab.Loss(l, c, 4*time.Second, func(node *lab.Host, _ string) (func() error, error) {
				p := start(t, node, "--interval=1s")
				return func() error {
					renewed = p.metric(`renewals_total{device="eth0",method="broadcast",result="ok"}`)
					if code, _ := p.stop(); code != 0 {
						return errors.New(p.stderr.String())
					}
					return nil
				}, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Log(fmt.Sprintf("%+v", res), "renewed", renewed)
			if res.Lost != 0 || renewed < 3 {
				t.Errorf("%d of %d packets lost in %v renewals, want none in at least 3", res.Lost, res.Sent, renewed)
			}
			if after, ok := lab.Discards(); ok && readable && after != before {
				t.Errorf("the kernel discarded %d unresolved packets", after-before)
			}
		})
	}
}
