package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

var soak = flag.Int("soak", 500, "scans that TestSoak lasts; 17280 are four days' with the defaults")

// beMeasured makes the agent tell what no agent tells: how its runtime is doing.
const beMeasured = "ARP_TEST_RUNTIME"

const measureAt = "127.0.0.1:10332"

// vitals is how a process is doing.
type vitals struct {
	Goroutines int
	Heap       uint64 // bytes that are in use after a collection
	fds, rss   int
}

func serveVitals() {
	l, err := net.Listen("tcp", measureAt)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(99)
	}
	go func() {
		_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			_ = json.NewEncoder(w).Encode(vitals{Goroutines: runtime.NumGoroutine(), Heap: m.HeapAlloc})
		}))
	}()
}

func (p *process) vitals() (v vitals) {
	p.t.Helper()
	_, body := p.get("http://" + measureAt)
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		p.t.Fatalf("%v: %s", err, body)
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	v.fds, v.rss = len(fds), p.rss()
	return v
}

// Four days' scans in minutes: 5,000 entries that come and go, a VIP that moves
// without a word, and scrapes. File descriptors, goroutines and memory, with the
// store of clocks in it, stay as they are.
func TestSoak(t *testing.T) {
	lab.Alone(t)
	a := underAttack(t) // nobody attacks
	entries := 5000
	if !a.Lab.Entries(4 * entries) {
		entries = 500
	}
	// Once more, with what a soak needs.
	_ = a.p.cmd.Process.Kill()
	_ = a.p.cmd.Wait()
	c := quiet
	// Entries are due, and go, at 6.5 s.
	c.Args = []string{"--interval=10s", "--scan-period=10ms"}
	const life = 6.5
	p := prepare(t, a.Node)
	cmd := a.Agent(&c, "/proc/self/exe")
	cmd.Env, cmd.Stderr = slices.Concat(p.cmd.Env, []string{beMeasured + "=1"}), &p.stderr
	p.cmd = cmd
	p.launch(nil)
	a.p = p
	p.ready()

	stop := make(chan struct{})
	ended := make(chan struct{}, 2)
	churned := 0
	go func() {
		defer func() { ended <- struct{}{} }()
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			var lines strings.Builder
			for range int(float64(entries) / life / 10) {
				state := "stale"
				if n%20 == 0 { // asked for by broadcast, and nobody answers
					state = "reachable"
				}
				fmt.Fprintf(&lines, "neigh replace 2001:db8::%x:%x lladdr 02:00:00:00:00:50 dev eth0 nud %s\n", 0x1000+n>>16, n&0xffff, state)
				n++
			}
			a.Node.Batch(lines.String())
			churned = n
		}
	}()
	moves := 0
	go func() {
		defer func() { ended <- struct{}{} }()
		hosts := []*lab.Host{a.One, a.Two}
		for {
			select {
			case <-stop:
				return
			case <-time.After(8 * time.Second):
			}
			hosts[0].IP(fmt.Sprintf("addr del %s/32 dev eth0", a.VIP))
			hosts[1].IP(fmt.Sprintf("addr add %s/32 dev eth0", a.VIP))
			slices.Reverse(hosts)
			moves++
		}
	}()

	var seen []vitals
	begun := time.Now()
	scans, most, scrapes := 0.0, 0.0, 0
	each := 1 // scrapes for one look at the process
	if *soak >= 5000 {
		each = 10
	}
	for scans < float64(*soak) && !t.Failed() {
		for range each {
			scans = p.metric("scans_total")
			scrapes++
			<-time.After(50 * time.Millisecond)
		}
		most = max(most, p.metric(`entries{device="eth0",family="ipv6",state="stale"}`))
		seen = append(seen, p.vitals())
		if code, body := p.get("http://127.0.0.1:10331/readyz"); code != http.StatusOK {
			t.Errorf("/readyz: %d %s", code, body)
		}
		// One that nobody answers for is given up by the scan before the bound, which
		// on a busy machine may come a moment late.
		late := 0
		for p.metric("overdue_entries") != 0 && late < 5 {
			late++
			<-time.After(100 * time.Millisecond)
		}
		if late == 5 {
			t.Error("entries are overdue for half a second")
		}
	}
	close(stop)
	<-ended
	<-ended
	defer a.Node.IP("link del eth0") // a namespace is taken down a while after it is left, with what it has in the table
	if failed := p.failures(); failed != 0 {
		t.Errorf("%v scans failed", failed)
	}
	t.Logf("%.0f scans in %v, %d entries came, %.0f at once at most, %d moves of the VIP, %.0f repairs, %d scrapes",
		scans, time.Since(begun).Round(time.Second), churned, most, moves, p.metric(fmt.Sprintf(`vip_moves_total{vip=%q}`, a.VIP)), scrapes)

	// What the second third has seen is what the last may have.
	worst := func(part []vitals) (w vitals) {
		for _, v := range part {
			w.Goroutines, w.Heap, w.fds, w.rss = max(w.Goroutines, v.Goroutines), max(w.Heap, v.Heap), max(w.fds, v.fds), max(w.rss, v.rss)
		}
		return w
	}
	third := len(seen) / 3
	before, after := worst(seen[third:2*third]), worst(seen[2*third:])
	t.Logf("in the second third at most %d file descriptors, %d goroutines, %d KiB of heap, %d MiB resident", before.fds, before.Goroutines, before.Heap>>10, before.rss)
	t.Logf("in the last third at most   %d file descriptors, %d goroutines, %d KiB of heap, %d MiB resident", after.fds, after.Goroutines, after.Heap>>10, after.rss)
	if third < 10 {
		t.Fatalf("%d looks are too few to compare", len(seen))
	}
	if *soak < 5000 {
		// The table itself is still growing. One more for every scan would show.
		if limit := *soak / 3; after.fds > limit || after.Goroutines > limit {
			t.Error("file descriptors or goroutines grow")
		}
		return
	}
	// Repairs and rounds of broadcasts have some of their own for a moment.
	if after.fds > before.fds+10 || after.Goroutines > before.Goroutines+10 {
		t.Error("file descriptors or goroutines grow")
	}
	if after.Heap > before.Heap*5/4 || after.rss > before.rss*11/10+1 {
		t.Error("memory grows")
	}
	if code, took := p.stop(); code != 0 || took > time.Second {
		t.Errorf("after SIGTERM: exit code %d in %v", code, took)
	}
}
