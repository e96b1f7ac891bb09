package main

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

// Agents that start at the same instant, on nodes that all talk to each other,
// do not ask at the same instant: not in the first interval, and not later.
func TestBroadcastsOfManyNodesAreSpread(t *testing.T) {
	lab.Alone(t)
	const (
		nodes    = 20
		interval = 20 * time.Second
		length   = 2*interval + 5*time.Second
		window   = 100 * time.Millisecond
		most     = 10 // in any window; deleting everything everywhere makes 231
	)
	l := lab.Start(t)
	sw := l.Switch()
	ear := l.Host("ear")
	heard := ear.HearRequests(ear.Plug(sw, "eth0", ""))
	hosts := make([]*lab.Host, nodes)
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}) }
	for i := range hosts {
		hosts[i] = l.Host(fmt.Sprint("node", i))
		hosts[i].Plug(sw, "eth0", "", addr(i).String()+"/24")
	}
	var streams []*lab.Stream
	t.Cleanup(func() {
		var wg sync.WaitGroup
		for _, s := range streams {
			wg.Go(func() { _ = s.Stop() })
		}
		wg.Wait()
	})
	for i, from := range hosts {
		for j, to := range hosts {
			if i == j {
				continue
			}
			s, err := lab.UDP(from, to, netip.AddrPortFrom(addr(j), uint16(7000+i)), window)
			if err != nil {
				t.Fatal(err)
			}
			streams = append(streams, s)
		}
	}
	<-time.After(time.Second) // the kernels have asked for everybody
	agents := make([]*process, nodes)
	for i, h := range hosts {
		agents[i] = prepare(t, h, "--interval="+interval.String(), "--vip=none",
			"--web.listen-address=127.0.0.1:10330", "--health.listen-address=127.0.0.1:10331")
	}
	started := time.Now()
	stopped := stalls(t, window)
	for _, p := range agents {
		p.launch(nil)
	}
	<-time.After(length)
	still := stopped()
	for _, p := range agents {
		if code, _ := p.stop(); code != 0 {
			t.Errorf("an agent ended with code %d:\n%s", code, p.stderr.String())
		}
	}
	var since []time.Duration
	for _, at := range heard() {
		if d := at.Sub(started); d > 0 {
			since = append(since, d)
		}
	}
	if want := 2 * nodes * (nodes - 1); len(since) < want {
		t.Errorf("%d broadcasts in %v, want every entry asked for twice: %d", len(since), length, want)
	}
	first, worst, where := 0, 0, time.Duration(0)
	for last := range since {
		for since[last]-since[first] > window {
			first++
		}
		if n := last - first + 1; n > worst && !still.covers(started.Add(since[first]), started.Add(since[last])) {
			worst = n
			where = since[last]
		}
	}
	if worst > most {
		t.Errorf("%d broadcasts in the %v before %v, want %d at most", worst, window, where, most)
	}
	t.Logf("%d broadcasts in %v, %d at most in %v", len(since), length, worst, window)
}

// stalled are the times in which this machine gave no CPU to who wanted it.
type stalled []struct{ from, to time.Time }

// covers reports whether a span of time has to do with one of them.
func (s stalled) covers(from, to time.Time) bool {
	return slices.ContainsFunc(s, func(st struct{ from, to time.Time }) bool { return from.Before(st.to) && to.After(st.from) })
}

// stalls notes when this machine does not wake up who is due for a third of a window
// and longer: what was due meanwhile comes out together afterwards. A test in which
// that takes more than a tenth of the time shows nothing.
func stalls(t *testing.T, window time.Duration) (stop func() stalled) {
	t.Helper()
	done := make(chan struct{})
	found := make(chan stalled)
	start := time.Now()
	go func() {
		var all stalled
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for last := start; ; {
			select {
			case <-done:
				found <- all
				return
			case <-tick.C:
			}
			now := time.Now()
			if now.Sub(last) > window/3 {
				all = append(all, struct{ from, to time.Time }{last, now.Add(window)})
			}
			last = now
		}
	}()
	return func() stalled {
		close(done)
		all := <-found
		var sum time.Duration
		for _, s := range all {
			sum += s.to.Sub(s.from)
		}
		if sum > time.Since(start)/10 {
			t.Errorf("the machine stood still %d times, for %v of %v", len(all), sum, time.Since(start))
		}
		t.Logf("the machine stood still %d times", len(all))
		return all
	}
}
