package main

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

const (
	formerMAC = "02:00:00:00:00:99" // of the machine that the node replaces
	quiet10   = 10 * time.Second    // longer than an announcement takes: 1 s at most, 3 probes, and 4 s from the first to the last
)

// rebuilt is a node with a new link-layer address, on a segment with a gateway that
// knows its addresses by the former one, and does not verify that by itself.
type rebuilt struct {
	t             *testing.T
	node, gateway *lab.Host
	l             *lab.Lab
	sw            *lab.Switch

	mu        sync.Mutex
	announced map[netip.Addr]int // gratuitous ARP requests heard, by address
	probed    map[netip.Addr]int // ARP and ND probes heard
}

// The first addresses are what the node is known by. Those that move are others': one
// without a subnet, and one that comes second in it.
var (
	known  = []string{"10.0.0.1", "2001:db8::1"}
	moving = []string{"10.0.0.100", "2001:db8::100", "10.0.0.101", "2001:db8::101"}
)

func newRebuilt(t *testing.T) *rebuilt {
	t.Helper()
	l := lab.Start(t)
	r := &rebuilt{t: t, l: l, sw: l.Switch(), node: l.Host("node"), gateway: l.Host("gateway"), announced: map[netip.Addr]int{}, probed: map[netip.Addr]int{}}
	r.node.Plug(r.sw, "eth0", nodeMAC, "10.0.0.1/24", "2001:db8::1/64")
	ear := r.gateway.Plug(r.sw, "eth0", "02:00:00:00:00:fe", "10.0.0.254/24", "2001:db8::fe/64")
	for _, args := range []string{
		"addr add 10.0.0.100/32 dev eth0",
		"addr add 10.0.0.101/24 dev eth0",
		"addr add 2001:db8::100/128 dev eth0 nodad",
		"addr add 2001:db8::101/64 dev eth0 nodad",
	} {
		r.node.IP(args)
	}
	for _, family := range []string{"ipv4", "ipv6"} {
		r.gateway.Sysctl("net/"+family+"/neigh/eth0/base_reachable_time_ms", "3600000")
	}
	for _, a := range append(known, moving...) {
		r.gateway.IP("neigh replace " + a + " lladdr " + formerMAC + " dev eth0 nud reachable")
	}
	heard := r.gateway.HearSolicitations(ear)
	go func() {
		for s := range heard {
			r.mu.Lock()
			switch {
			case s.Sender == s.Target && s.Target.Is4():
				r.announced[s.Target]++
			case s.Sender.IsUnspecified():
				r.probed[s.Target]++
			}
			r.mu.Unlock()
		}
	}()
	return r
}

// heard returns how often the gateway heard an address announced and probed for.
func (r *rebuilt) heard(addr string) (announced, probed int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := netip.MustParseAddr(addr)
	return r.announced[a], r.probed[a]
}

// knownBy returns the link-layer address that the gateway has for an address.
func (r *rebuilt) knownBy(addr string) string {
	for _, s := range r.gateway.Neighbours() {
		if _, rest, ok := strings.Cut(s.Line, " lladdr "); ok && s.Addr == addr {
			lladdr, _, _ := strings.Cut(rest, " ")
			return lladdr
		}
	}
	return ""
}

// untouched checks that nothing was said about addresses.
func (r *rebuilt) untouched(lladdr string, addrs ...string) {
	r.t.Helper()
	for _, a := range addrs {
		if got := r.knownBy(a); got != lladdr {
			r.t.Errorf("the gateway knows %s by %s, want %s", a, got, lladdr)
		}
		if n, _ := r.heard(a); n != 0 {
			r.t.Errorf("%s was announced %d times", a, n)
		}
	}
}

// A node that was rebuilt with its old addresses is known by its new link-layer address
// within seconds of the agent's start. Without the flag, or where the agent does not act,
// nobody says a word. What moves from host to host is not announced either way.
func TestRebuiltNodeIsAnnounced(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"as it is": nil,
		"dry run":  {"--announce=start", "--act=never"},
		"once":     {"--announce=start", "--once"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRebuilt(t)
			p := start(t, r.node, append(args, "--vip=none")...)
			if name != "once" {
				p.ready()
			}
			<-time.After(quiet10)
			r.untouched(formerMAC, append(known, moving...)...)
			for _, a := range known {
				if _, probed := r.heard(a); probed != 0 {
					t.Errorf("%s was probed for %d times", a, probed)
				}
			}
		})
	}
	for name, second := range map[string]bool{"announced": false, "announced, with two devices on the segment": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRebuilt(t)
			if second { // which answers for the addresses of the first
				r.node.Plug(r.sw, "eth1", "02:00:00:00:00:11", "10.0.0.7/24")
			}
			r.isAnnounced(start(t, r.node, "--announce=start", "--vip=none"))
		})
	}
}

// isAnnounced checks that an agent that was just started announces what it has to.
func (r *rebuilt) isAnnounced(p *process) {
	t := r.t
	t.Helper()
	begun := time.Now()
	for _, a := range known {
		within(t, quiet10, a+" is known by its new address", func() bool { return r.knownBy(a) == nodeMAC })
		t.Logf("the gateway knew %s after %v", a, time.Since(begun))
		if _, probed := r.heard(a); probed != 3 {
			t.Errorf("%s was probed for %d times before, want 3", a, probed)
		}
	}
	within(t, quiet10, "the address is announced three times", func() bool {
		n, _ := r.heard(known[0])
		return n == 3
	})
	r.untouched(formerMAC, moving...)
	for _, device := range []string{"eth0", "eth1"} {
		if n := p.metric(fmt.Sprintf(`own_address_conflicts_total{device=%q}`, device)); n > 0 {
			t.Errorf("%s: %v conflicts are counted", device, n)
		}
	}
	for _, a := range known {
		if n := strings.Count(p.stderr.String(), fmt.Sprintf("msg=%q address=%s device=eth0", "address announced", a)); n != 1 {
			t.Errorf("%s is said to be announced %d times:\n%s", a, n, p.stderr.String())
		}
	}
	if code, took := p.stop(); code != 0 || took > time.Second {
		t.Errorf("exit code %d after %v", code, took)
	}
}

// An address that another host answers for is not announced. That is counted, and said.
func TestOwnAddressConflict(t *testing.T) {
	t.Parallel()
	r := newRebuilt(t)
	other := r.l.Host("other")
	other.Plug(r.sw, "eth0", formerMAC, "10.0.0.1/24", "2001:db8::1/64")
	p := start(t, r.node, "--announce=start", "--vip=none")
	within(t, quiet10, "both are counted", func() bool {
		return p.metric(`own_address_conflicts_total{device="eth0"}`) == float64(len(known))
	})
	<-time.After(quiet10)
	r.untouched(formerMAC, append(known, moving...)...)
	for _, a := range known {
		want := fmt.Sprintf("level=WARN msg=%q address=%s device=eth0 holder=%s", "another host answers for an address of this host: it is not announced until that ends", a, formerMAC)
		if n := strings.Count(p.stderr.String(), want); n != 1 {
			t.Errorf("said %d times: %s\n%s", n, want, p.stderr.String())
		}
	}
}

// Without CAP_NET_RAW the agent says so, and works.
func TestAnnounceWithoutNetRaw(t *testing.T) {
	t.Parallel()
	r := newRebuilt(t)
	p := startWithout(t, r.node, []uintptr{unix.CAP_NET_RAW}, "--announce=start", "--vip=none")
	p.ready()
	within(t, quiet10, "it says so", func() bool {
		return strings.Contains(p.stderr.String(), "CAP_NET_RAW is missing: the addresses of this host are not announced")
	})
	r.untouched(formerMAC, known...)
	if code, _ := p.stop(); code != 0 {
		t.Errorf("exit code %d: %s", code, p.stderr.String())
	}
}
