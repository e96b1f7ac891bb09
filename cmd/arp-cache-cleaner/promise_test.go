package main

import (
	"flag"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

// protected are entries of every kind that belongs to somebody else, as the
// operator would add them.
var protected = []string{
	"neigh add 10.0.0.101 lladdr 02:00:00:00:01:01 dev eth0 nud permanent",
	"neigh add 10.0.0.102 lladdr 02:00:00:00:01:02 dev eth0 nud noarp",
	"neigh add 10.0.0.103 lladdr 02:00:00:00:01:03 dev eth0 nud reachable extern_learn",
	"neigh add 10.0.0.104 lladdr 02:00:00:00:01:04 dev eth0 nud stale extern_learn",
	"neigh add 10.0.0.105 lladdr 02:00:00:00:01:05 dev eth0 nud permanent extern_learn",
	"neigh add 10.0.0.106 lladdr 02:00:00:00:01:06 dev eth0 nud stale protocol zebra",
	"neigh add 10.0.0.107 lladdr 02:00:00:00:01:07 dev eth0 nud reachable protocol bird",
	"neigh add 10.0.0.3 dev eth0 managed",
	"neigh add 2001:db8::101 lladdr 02:00:00:00:01:01 dev eth0 nud permanent",
	"neigh add 2001:db8::103 lladdr 02:00:00:00:01:03 dev eth0 nud stale extern_learn",
	"neigh add 2001:db8::106 lladdr 02:00:00:00:01:06 dev eth0 nud stale protocol zebra",
}

// The promise, as an operator checks it: with traffic running and entries in
// every state, `ip -statistics neighbour` shows no learned entry with an age
// above the interval, what belongs to others is still there in the end, and no
// packet is lost.
//
// Longer intervals take longer: -promise 300s -timeout 30m is the default one.
func TestPromise(t *testing.T) { // not parallel: what runs side by side are its own parts
	if testing.Short() {
		*promise = "8s" // beside other packages a machine is held up for most of a second
	}
	for text := range strings.SplitSeq(*promise, ",") {
		interval, err := time.ParseDuration(text)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(interval.String(), func(t *testing.T) {
			t.Parallel()
			testPromise(t, interval, true)
		})
	}
	// The kernel's unicast has to do.
	t.Run("4s without CAP_NET_RAW", func(t *testing.T) {
		lab.Alone(t)
		t.Parallel()
		testPromise(t, 4*time.Second, false)
	})
}

var promise = flag.String("promise", "1s,4s,10s", "intervals that TestPromise holds the agent to")

func testPromise(t *testing.T, interval time.Duration, raw bool) {
	l := lab.Start(t)
	node, peer, gateway := l.Host("node"), l.Host("peer"), l.Host("gateway")
	sw := l.Switch()
	node.Plug(sw, "eth0", "02:00:00:00:00:01", "10.0.0.1/24", "2001:db8::1/64")
	peer.Plug(sw, "eth0", "02:00:00:00:00:02", "10.0.0.2/24", "10.0.0.3/24", "2001:db8::2/64")
	gateway.Plug(sw, "eth0", "02:00:00:00:00:fe", "10.0.0.254/24", "2001:db8::fe/64")
	// Next hops, one of which nobody answers for.
	node.IP("route add default via 10.0.0.254")
	node.IP("-6 route add default via 2001:db8::fe")
	node.IP("route add 10.99.0.0/16 via 10.0.0.253")
	node.IP("neigh add 10.0.0.253 lladdr 02:00:00:00:00:fd dev eth0 nud reachable")
	node.Touch("10.0.0.254")
	node.Touch("2001:db8::fe")
	// Entries that nobody uses, and one that failed.
	node.IP("neigh add 10.0.0.50 lladdr 02:00:00:00:00:50 dev eth0 nud stale")
	node.IP("neigh add 10.0.0.51 lladdr 02:00:00:00:00:51 dev eth0 nud reachable")
	node.IP("neigh add 10.0.0.52 lladdr 02:00:00:00:00:52 dev eth0 nud delay")
	node.IP("neigh add 10.0.0.53 lladdr 02:00:00:00:00:53 dev eth0 nud probe")
	node.IP("neigh add 2001:db8::50 lladdr 02:00:00:00:00:50 dev eth0 nud stale")
	node.Touch("10.0.0.60")
	node.Batch(strings.Join(protected, "\n"))
	// Learned by a request of the peer's: never confirmed.
	peer.Touch("10.0.0.1")

	var streams []*lab.Stream
	for _, start := range []struct {
		of     func(from, to *lab.Host, dst netip.AddrPort, period time.Duration) (*lab.Stream, error)
		dst    string
		period time.Duration
	}{
		{lab.UDP, "10.0.0.2:7001", 200 * time.Microsecond},
		{lab.UDP, "[2001:db8::2]:7001", 200 * time.Microsecond},
		{lab.TCP, "10.0.0.2:7002", time.Millisecond},
		{lab.TCP, "10.0.0.254:7002", 20 * time.Millisecond},
		{lab.UDP, "10.0.0.254:7003", 700 * time.Millisecond},
	} {
		from, to := node, peer
		if strings.Contains(start.dst, "254") {
			to = gateway
		}
		s, err := start.of(from, to, netip.MustParseAddrPort(start.dst), start.period)
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, s)
	}

	var without []uintptr
	if !raw {
		without = []uintptr{unix.CAP_NET_RAW}
	}
	p := startWithout(t, node, without, "--interval="+interval.String())
	settled := time.Now().Add(3 * time.Second)
	end := settled.Add(max(3*interval, 8*time.Second))
	if interval > time.Minute {
		end = settled.Add(2*interval + 30*time.Second)
	}
	var worst [3]int
	for range time.Tick(50 * time.Millisecond) {
		now := time.Now()
		for _, s := range node.Neighbours() {
			if isProtected(s.Addr) || s.State == "INCOMPLETE" || s.State == "NOARP" || s.Used < 0 || now.Before(settled) {
				continue
			}
			if s.State == "FAILED" && s.Updated == 0 {
				continue // it was INCOMPLETE, no entry yet, until a moment ago
			}
			for i, age := range []int{s.Used, s.Confirmed, s.Updated} {
				if i == 1 && age >= max(s.Used, s.Updated)+59 {
					continue // never confirmed: the kernel starts the column at 60 s
				}
				worst[i] = max(worst[i], age)
				if time.Duration(age)*time.Second > interval {
					t.Errorf("%s after start: %s", now.Sub(settled.Add(-3*time.Second)).Round(time.Millisecond), s.Line)
				}
			}
		}
		if now.After(end) || t.Failed() {
			break
		}
	}
	t.Logf("greatest ages shown: used %d, confirmed %d, updated %d", worst[0], worst[1], worst[2])

	limit := time.Second
	if testing.Short() {
		limit = 3 * time.Second
	}
	if code, took := p.stop(); code != 0 || took > limit {
		t.Errorf("after SIGTERM: exit code %d in %v, want 0 within %v", code, took, limit)
	}
	if log := p.stderr.String(); strings.Contains(log, "CAP_NET_RAW") == raw || strings.Count(log, "CAP_NET_RAW") > 1 {
		t.Errorf("CAP_NET_RAW missing is to be said once where it is:\n%s", log)
	}
	left := node.IP("neigh show nud all") // without nud, ip leaves out NOARP
	for _, p := range protected {
		if !strings.Contains(left, strings.Fields(p)[2]+" ") {
			t.Errorf("protected entry is gone: %s", p)
		}
	}
	for i, s := range streams {
		if err := s.Stop(); err != nil {
			t.Errorf("stream %d: %v", i, err)
		}
		sent, received, holes := s.Counts()
		t.Logf("stream %d: sent %d, received %d, holes %d", i, sent, received, holes)
		if sent == 0 || received < sent-1 { // holes alone are what came out of order
			t.Errorf("stream %d lost packets", i)
		}
	}
}

func isProtected(addr string) bool {
	return slices.ContainsFunc(protected, func(p string) bool { return strings.Fields(p)[2] == addr })
}
