package main

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

// An agent that finds 60 entries overdue, at its start and after it was stopped for
// longer than the interval, broadcasts for each of them, and never more than ten
// times in a second: switches that inspect ARP take a port down at 15. The control
// is the kernel, which asks for all of them in the second when they are first used.
func TestOverdueEntriesAreAskedForAtAPace(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes most of a minute")
	}
	const (
		n        = 60
		interval = 15 * time.Second
		took     = 3*time.Second + n*105*time.Millisecond + 3*time.Second // the first scans, the pace, and some
	)
	l := lab.Start(t)
	sw := l.Switch()
	node, peer := l.Host("node"), l.Host("peer")
	node.Plug(sw, "eth0", "02:00:00:00:00:01", "10.0.0.1/24")
	ear := peer.Plug(sw, "eth0", "02:00:00:00:00:02", "10.0.0.2/24")
	node.Sysctl("net/ipv4/neigh/eth0/base_reachable_time_ms", "3600000") // as for the peers of TCP connections
	addr := func(i int) string { return fmt.Sprintf("10.0.0.%d", 100+i) }
	for i := range n {
		peer.IP("addr add " + addr(i) + "/32 dev eth0")
	}
	heard := peer.HearRequests(ear)
	begun := time.Now()
	for i := range n {
		node.Touch(addr(i))
	}
	overdue := func() bool {
		old := 0
		for _, e := range node.Neighbours() {
			if e.State == "REACHABLE" && time.Duration(e.Updated)*time.Second >= interval {
				old++
			}
		}
		return old == n
	}
	within(t, 2*interval, "all entries are overdue", overdue)
	started := time.Now()
	p := startWithout(t, node, nil, "--interval="+interval.String(), "--vip=none")
	<-time.After(took)
	stopped := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	within(t, 2*interval, "all entries are overdue again", overdue)
	resumed := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	<-time.After(took)
	end := time.Now()
	if code, _ := p.stop(); code != 0 {
		t.Errorf("the agent ended with code %d:\n%s", code, p.stderr.String())
	}
	at := heard()
	for _, part := range []struct {
		name          string
		from, to      time.Time
		least         int // in all
		fewest, bound int // in the fullest second
	}{
		{"the kernel, when they are first used", begun, started, n, 11, n},
		{"the agent, at its start", started, stopped, n, 5, 10},
		{"the agent, after it was stopped", resumed, end, n, 5, 10},
	} {
		all, peak := fullest(at, part.from, part.to)
		t.Logf("%s: %d requests, %d at most in a second", part.name, all, peak)
		if all < part.least || peak < part.fewest || peak > part.bound {
			t.Errorf("%s: %d requests, %d in a second; want %d at least, and %d to %d", part.name, all, peak, part.least, part.fewest, part.bound)
		}
	}
}

// fullest returns how many of the times lie between the two, and how many at most
// within a second.
func fullest(times []time.Time, from, to time.Time) (all, peak int) {
	var in []time.Time
	for _, at := range times {
		if at.Before(from) || !at.Before(to) {
			continue
		}
		in = append(in, at)
		for in[len(in)-1].Sub(in[0]) >= time.Second {
			in = in[1:]
		}
		all++
		peak = max(peak, len(in))
	}
	return all, peak
}
