package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/kernel"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/sweep"
)

// interruptedTable is a real table in which something happens between a dump
// and what is done on it.
type interruptedTable struct {
	*kernel.Table
	dumped func()
}

func (i *interruptedTable) DumpParts(visit func(*neigh.Entry), part func(since time.Time)) error {
	return i.Table.DumpParts(visit, func(since time.Time) {
		if then := i.dumped; then != nil {
			i.dumped = nil
			then()
		}
		part(since)
	})
}

// What a pass was about to act on vanishes, is renamed, or changes. The pass does
// not fail, the next one finds nothing left to do, and what has meanwhile become
// somebody else's, or is used again, stays.
func TestTableChangesUnderAPass(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		dumped   func(node *lab.Host)
		slow     bool // longer ago than a deletion relies on its dump
		gone     int  // entries that were not there any more, or called for something else
		left     []string
		notThere []string
	}{
		{name: "device vanishes", dumped: func(n *lab.Host) { n.IP("link del eth1") }, gone: 101, notThere: []string{"eth1"}},
		{name: "device is renamed", dumped: func(n *lab.Host) { rename(n, "eth1", "eth9") }, notThere: []string{"dev eth9"}},
		{name: "device goes down", dumped: func(n *lab.Host) { n.IP("link set eth1 down") }, gone: 101, notThere: []string{"eth1"}},
		{name: "idle entry changes its MAC", dumped: func(n *lab.Host) {
			n.IP("neigh replace 10.0.0.50 lladdr 02:00:00:00:00:99 dev eth0 nud stale")
		}, notThere: []string{"10.0.0.50 "}},
		{name: "idle entry is used again", slow: true, gone: 1, dumped: func(n *lab.Host) {
			n.IP("neigh replace 10.0.0.50 lladdr 02:00:00:00:00:99 dev eth0 nud reachable")
		}, left: []string{"10.0.0.50 dev eth0 lladdr 02:00:00:00:00:99"}},
		{name: "idle entry is pinned", slow: true, gone: 1, dumped: func(n *lab.Host) {
			n.IP("neigh replace 10.0.0.50 lladdr 02:00:00:00:00:50 dev eth0 nud permanent")
		}, left: []string{"10.0.0.50 dev eth0 lladdr 02:00:00:00:00:50 PERMANENT"}},
		{name: "entry in use is pinned", gone: 1, dumped: func(n *lab.Host) {
			n.IP("neigh replace 10.0.0.2 lladdr 02:00:00:00:00:99 dev eth0 nud permanent")
		}, left: []string{"10.0.0.2 dev eth0 lladdr 02:00:00:00:00:99 PERMANENT"}},
		{name: "entry in use changes its MAC", dumped: func(n *lab.Host) {
			n.IP("neigh replace 10.0.0.2 lladdr 02:00:00:00:00:99 dev eth0 nud reachable")
		}, left: []string{"10.0.0.2 dev eth0 lladdr 02:00:00:00:00:99"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := lab.Start(t)
			sw := l.Switch()
			node := l.Host("node")
			node.Plug(sw, "eth0", nodeMAC, "10.0.0.1/24")
			node.Plug(sw, "eth1", "", "10.1.0.1/16")
			var lines strings.Builder
			for i := range 100 { // no more than the kernel hands over in one part
				fmt.Fprintf(&lines, "neigh add 10.1.%d.%d lladdr 02:00:00:00:01:01 dev eth1 nud stale\n", 1+i/200, 1+i%200)
			}
			lines.WriteString(`neigh add 10.1.9.9 lladdr 02:00:00:00:01:09 dev eth1 nud reachable
neigh add 10.0.0.2 lladdr 02:00:00:00:00:02 dev eth0 nud reachable
neigh add 10.0.0.50 lladdr 02:00:00:00:00:50 dev eth0 nud stale
neigh add 10.0.0.60 lladdr 02:00:00:00:00:60 dev eth0 nud permanent
`)
			node.Batch(lines.String())
			table := &interruptedTable{Table: openTable(t, node)}
			scope := &policy.Scope{}
			timing := policy.NewTiming(time.Second, 10*time.Millisecond)
			s := sweep.New(sweep.Config{
				Table: table, Scope: scope, Timing: timing, ScanPeriod: 10 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
				Verifier: &sweep.InPlace{Table: table, Scope: scope, Timing: policy.NewTiming(time.Hour, time.Second)},
			})
			table.dumped = func() {
				tt.dumped(node)
				if tt.slow {
					<-time.After(30 * time.Millisecond) // what passes is what is tested
				}
			}
			sum, err := s.Once(t.Context())
			if flushed := strings.Contains(tt.name, "renamed") && sum.Gone == 101; flushed { // it had to go down for that
				sum.Gone = 0
			}
			if err != nil || sum.Failed > 0 || sum.Gone != tt.gone {
				t.Errorf("the pass: %v, %v; want %d gone meanwhile and nothing failed", sum, err, tt.gone)
			}
			sum, err = s.Once(t.Context())
			if err != nil || sum.Failed > 0 || sum.Gone > 0 || sum.Deleted > 0 {
				t.Errorf("the next pass: %v, %v; want nothing left to delete", sum, err)
			}
			shown := node.IP("neigh")
			for _, want := range append(tt.left, "10.0.0.60 dev eth0 lladdr 02:00:00:00:00:60 PERMANENT") {
				if !strings.Contains(shown, want) {
					t.Errorf("%q is not in the table:\n%s", want, shown)
				}
			}
			for _, no := range tt.notThere {
				if strings.Contains(strings.ReplaceAll(shown, "10.1.9.9 dev eth9", ""), no) {
					t.Errorf("%q is still in the table:\n%s", no, shown)
				}
			}
		})
	}
}

// rename renames a device that is up, on kernels that allow it (6.2).
func rename(h *lab.Host, from, to string) {
	if _, err := h.Try("ip", "link", "set", from, "name", to); err != nil {
		h.IP("link set " + from + " down")
		h.IP("link set " + from + " name " + to)
		h.IP("link set " + to + " up")
	}
}

// A namespace with nothing in it is no failure: entries may come.
func TestNoInterfaces(t *testing.T) {
	t.Parallel()
	h := lab.Start(t).Host("empty")
	p := prepare(t, h, "--interval=1s", "--web.listen-address=127.0.0.1:10330", "--health.listen-address=127.0.0.1:10331")
	p.launch(nil)
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	p.ready()
	h.IP("link set lo down") // now nobody can ask it anything
	if devices := h.IP("-oneline link show up"); devices != "" {
		t.Fatalf("devices are up: %s", devices)
	}
	monitored := time.After(2 * time.Second) // many scans
	<-monitored
	h.IP("link set lo up")
	p.ready()
	if failed := p.failures(); failed != 0 {
		t.Errorf("%v scans failed", failed)
	}
	if n := p.metric("scans_total"); n < 8 {
		t.Errorf("%v scans, want one every 133 ms", n) // two scan periods
	}
	if code, took := p.stop(); code != 0 || took > time.Second {
		t.Errorf("after SIGTERM: exit code %d in %v", code, took)
	}
}

// failures returns how many scans have failed, for whatever reason.
func (p *process) failures() (n float64) {
	for _, reason := range neigh.FailureReasons {
		n += p.metric(fmt.Sprintf("scan_failures_total{reason=%q}", reason))
	}
	return n
}

// rss returns the process's resident memory in MiB.
func (p *process) rss() int {
	p.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		if kib, ok := bytes.CutPrefix(line, []byte("VmRSS:")); ok {
			n, err := strconv.Atoi(string(bytes.Fields(kib)[0]))
			if err != nil {
				p.t.Fatal(err)
			}
			return n >> 10
		}
	}
	p.t.Fatal("no VmRSS")
	return 0
}

// memoryLimit is the DaemonSet's, in MiB. The test binary is larger than the
// agent, and the race detector takes many times as much.
const memoryLimit = 64

// A hundred thousand entries of somebody else's are read at every scan, and left
// alone; the agent's own are renewed in time among them.
func TestHundredThousandEntries(t *testing.T) {
	lab.Alone(t)
	const others = 100_000
	n := node(t)
	var lines strings.Builder
	for i := range others { // these do not count for gc_thresh3 (neigh_mark_dead, neigh_update_gc_list)
		fmt.Fprintf(&lines, "neigh add 10.%d.%d.%d lladdr 02:00:00:00:00:07 dev eth0 nud permanent\n", 1+i>>16, i>>8&0xff, i&0xff)
	}
	n.IP("addr add 10.0.0.1/8 dev eth0")
	n.Batch(lines.String())
	p := start(t, n, "--interval=4s")
	p.ready()
	n.Touch("10.0.0.2")
	seen := false
	for range 40 {
		for _, s := range shownOf(n, "10.0.0.2", "10.0.0.50") {
			seen = true
			if s.Used > 4 || s.Confirmed > 4 && s.Confirmed < 59 || s.Updated > 4 {
				t.Errorf("%s", s.Line)
			}
		}
		n.IP("neigh replace 10.0.0.50 lladdr 02:00:00:00:00:50 dev eth0 nud reachable")
		<-time.After(200 * time.Millisecond)
	}
	if !seen {
		t.Error("no entry of the agent's own was seen")
	}
	if kept := p.metric(`kept_entries{reason="permanent"}`); kept != others {
		t.Errorf("%v permanent entries are kept, want %d", kept, others)
	}
	if failed := p.failures(); failed != 0 {
		t.Errorf("%v scans failed", failed)
	}
	if mib := p.rss(); mib > memoryLimit {
		t.Errorf("%d MiB resident, the limit is %d", mib, memoryLimit)
	} else {
		t.Logf("%d MiB resident", mib)
	}
	if code, took := p.stop(); code != 0 || took > time.Second {
		t.Errorf("after SIGTERM: exit code %d in %v", code, took)
	}
}

// shownOf returns what ip -statistics shows of a few addresses.
func shownOf(h *lab.Host, addrs ...string) (shown []lab.Shown) {
	for _, a := range addrs {
		shown = append(shown, lab.ParseShown(h.IP("-statistics neighbour show to "+a))...)
	}
	return shown
}

// The kernel refuses every new entry ("neighbour table overflow"). Those that
// exist are renewed as ever, and no packet to them is lost.
func TestTableOverflow(t *testing.T) {
	lab.Alone(t)
	l := lab.Start(t)
	sw := l.Switch()
	node, peer, filler := l.Host("node"), l.Host("peer"), l.Host("filler")
	node.Plug(sw, "eth0", nodeMAC, "10.0.0.1/24")
	peer.Plug(sw, "eth0", peerMAC, "10.0.0.2/24")
	filler.Plug(sw, "eth0", "", "10.8.0.1/16")
	node.IP("neigh add 10.0.0.60 lladdr 02:00:00:00:00:60 dev eth0 nud permanent")
	// The peer answers only while it has an entry for the node (neigh_event_ns in
	// arp_process), and one of more than 5 s it may lose to garbage collection.
	peer.IP("neigh add 10.0.0.1 lladdr " + nodeMAC + " dev eth0 nud permanent")
	stream, err := lab.UDP(node, peer, netip.MustParseAddrPort("10.0.0.2:7000"), time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, node, "--interval=1s", "--log-level=debug")
	p.ready()
	// The limit is one for all namespaces. A timer holds each of these, so that
	// garbage collection does not find them (neigh_forced_gc).
	full := func() bool {
		_, err := node.Try("ip", "neigh", "add", "10.0.0.77", "lladdr", "02:00:00:00:00:77", "dev", "eth0", "nud", "reachable")
		_, _ = node.Try("ip", "neigh", "del", "10.0.0.77", "dev", "eth0")
		return err != nil && strings.Contains(err.Error(), "No buffer space")
	}
	n := 1024
	if text, err := os.ReadFile("/proc/sys/net/ipv4/neigh/default/gc_thresh3"); err == nil { // there is none in a user namespace
		n, _ = strconv.Atoi(strings.TrimSpace(string(text)))
	}
	if n > 20_000 {
		t.Fatalf("gc_thresh3 is %d: too many entries to fill the table with", n)
	}
	next := 0
	fill := func(count int) {
		var lines strings.Builder
		for range count {
			fmt.Fprintf(&lines, "neigh add 10.8.%d.%d lladdr 02:00:00:00:00:08 dev eth0 nud reachable\n", 1+next/250, 1+next%250)
			next++
		}
		cmd := exec.Command("ip", "-force", "-batch", "-")
		cmd.Stdin = strings.NewReader(lines.String())
		if err := filler.Start(cmd); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // the last ones are refused: that is the point
	}
	fill(n + 64)
	eventually(t, "the table is full", func() bool {
		fill(16) // entries of namespaces that are being taken down may have gone meanwhile
		return full()
	})
	// By the log: the loopback device needs an entry too, and where the kernel has
	// dropped it, as Linux 6.1 does, nothing connects to 127.0.0.1 any more.
	broadcasts := func() int { return strings.Count(p.stderr.String(), "method=broadcast result=ok") }
	before := broadcasts()
	eventually(t, "three renewals while the table is full", func() bool {
		fill(16) // in place of what garbage collection finds elsewhere
		return broadcasts() >= before+3
	})
	if !full() {
		t.Error("the table was not full all the time")
	}
	filler.IP("link del eth0")
	if full() {
		t.Error("the table is still full")
	}
	if failed := p.failures(); failed != 0 {
		t.Errorf("%v scans failed", failed)
	}
	if code, body := p.get("http://127.0.0.1:10331/readyz"); code != 200 {
		t.Errorf("/readyz: %d %s", code, body)
	}
	if err := stream.Stop(); err != nil {
		t.Error(err)
	}
	if sent, received, _ := stream.Counts(); sent == 0 || received < sent-1 {
		t.Errorf("sent %d, received %d", sent, received)
	}
	if !strings.Contains(node.IP("neigh"), "10.0.0.60") {
		t.Error("the permanent entry is gone")
	}
}

// frames sends frames from a device of a host until stopped, as fast as it can.
func frames(t *testing.T, h *lab.Host, p lab.Port, next func(n int, b []byte) []byte) (stop func() int) {
	t.Helper()
	fd := -1
	if err := h.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	done, sent := make(chan struct{}), make(chan int)
	go func() {
		defer unix.Close(fd)
		var b []byte
		for n, ok := 0, 0; ; n++ {
			select {
			case <-done:
				sent <- ok
				return
			default:
			}
			b = next(n, b[:0])
			if unix.Sendto(fd, b, 0, &unix.SockaddrLinklayer{Ifindex: p.Index, Halen: 6}) == nil {
				ok++
			}
		}
	}()
	return func() int {
		close(done)
		return <-sent
	}
}

// appendARP appends a frame of RFC 826.
func appendARP(b []byte, to, from net.HardwareAddr, op uint16, sender net.HardwareAddr, senderIP netip.Addr, target net.HardwareAddr, targetIP netip.Addr) []byte {
	b = append(append(b, to...), from...)
	b = append(b, 8, 6, 0, 1, 8, 0, 6, 4)
	b = binary.BigEndian.AppendUint16(b, op)
	b = append(append(b, sender...), senderIP.AsSlice()...)
	return append(append(b, target...), targetIP.AsSlice()...)
}

var (
	everybody = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	nobody    = net.HardwareAddr{0, 0, 0, 0, 0, 0}
)

func randomMAC() net.HardwareAddr {
	b := binary.BigEndian.AppendUint64(nil, rand.Uint64())[:6]
	b[0] = 6 // unicast, locally administered
	return b
}

// As many ARP requests as the machine can make, each from another address, of
// which the kernel makes an entry each. The ages stay within the bound, what is
// in use loses nothing, and neither memory nor the log grows.
func TestARPFlood(t *testing.T) {
	lab.Alone(t)
	l := lab.Start(t)
	sw := l.Switch()
	node, peer, attacker := l.Host("node"), l.Host("peer"), l.Host("attacker")
	node.Plug(sw, "eth0", nodeMAC, "10.0.0.1/8")
	peer.Plug(sw, "eth0", peerMAC, "10.0.0.2/8")
	port := attacker.Plug(sw, "eth0", "")
	node.IP("neigh add 10.0.0.60 lladdr 02:00:00:00:00:60 dev eth0 nud permanent")
	const interval = 4 * time.Second
	p := start(t, node, "--interval="+interval.String())
	p.ready()
	stream := tcp(t, node, peer, "10.0.0.2:7000", 5*time.Millisecond)

	// A namespace is taken down a while after it is left, and until then the next
	// test finds the table full.
	defer node.IP("link del eth0")
	target := netip.MustParseAddr("10.0.0.1")
	begun := time.Now()
	stop := frames(t, attacker, port, func(n int, b []byte) []byte {
		mac := randomMAC()
		from := netip.AddrFrom4([4]byte{10, 9, byte(n >> 8 & 15), byte(n)})
		return appendARP(b, everybody, mac, 1, mac, from, nobody, target)
	})
	most := 0
	for time.Since(begun) < 3*interval {
		shown := node.Neighbours()
		most = max(most, len(shown))
		for _, s := range shown {
			if s.State == "PERMANENT" || s.State == "NOARP" || s.State == "INCOMPLETE" || s.Used < 0 {
				continue
			}
			if age := max(s.Used, s.Updated); time.Duration(age)*time.Second > interval {
				t.Errorf("%s", s.Line)
			}
		}
		if t.Failed() {
			break
		}
		<-time.After(50 * time.Millisecond)
	}
	sent := stop()
	t.Logf("%.0f frames/s, %d entries at most", float64(sent)/time.Since(begun).Seconds(), most)
	if most < 100 {
		t.Errorf("%d entries at most: the flood did not arrive", most)
	}
	if err := stream.Stop(); err != nil {
		t.Error(err)
	}
	if code, body := p.get("http://127.0.0.1:10331/readyz"); code != 200 {
		t.Errorf("/readyz: %d %s", code, body)
	}
	if failed := p.failures(); failed != 0 {
		t.Errorf("%v scans failed", failed)
	}
	_, body := p.get("http://127.0.0.1:10330/metrics")
	if n := strings.Count(body, "\n"); n > 500 {
		t.Errorf("%d lines of metrics", n)
	}
	// Of corrections it logs 20 at once, and then one in ten seconds.
	if n := strings.Count(p.stderr.String(), "\n"); n > 30 {
		t.Errorf("%d lines of log:\n%s", n, p.stderr.String())
	}
	if !raceEnabled {
		if mib := p.rss(); mib > memoryLimit {
			t.Errorf("%d MiB resident, the limit is %d", mib, memoryLimit)
		}
	}
	if !strings.Contains(node.IP("neigh"), "10.0.0.60") {
		t.Error("the permanent entry is gone")
	}
}
