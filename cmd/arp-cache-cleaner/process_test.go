package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

var kills = flag.Int("kills", 20, "how often the tests of process faults kill an agent")

// crowd is a node with traffic to a peer, entries of all kinds, and more coming.
type crowd struct {
	node    *lab.Host
	streams []*lab.Stream
}

const crowdSize = 20

func newCrowd(t *testing.T) *crowd {
	t.Helper()
	l := lab.Start(t)
	sw := l.Switch()
	c := &crowd{node: l.Host("node")}
	peer := l.Host("peer")
	c.node.Plug(sw, "eth0", nodeMAC, "10.0.0.1/16", "2001:db8::1/64")
	peer.Plug(sw, "eth0", peerMAC, "10.0.0.2/16", "10.0.0.3/16", "2001:db8::2/64")
	var addrs strings.Builder
	for i := range crowdSize {
		fmt.Fprintf(&addrs, "addr add 10.0.2.%d/32 dev eth0\n", i+1)
	}
	peer.Batch(addrs.String())
	c.node.Batch(strings.Join(protected, "\n"))
	for _, dst := range []string{"10.0.0.2:7001", "[2001:db8::2]:7001"} {
		s, err := lab.UDP(c.node, peer, netip.MustParseAddrPort(dst), time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		c.streams = append(c.streams, s)
	}
	return c
}

// fill adds entries: idle ones, and as many that look used, which the peer answers for.
func (c *crowd) fill() {
	var lines strings.Builder
	for i := range crowdSize {
		fmt.Fprintf(&lines, "neigh replace 10.0.1.%d lladdr 02:00:00:00:00:50 dev eth0 nud stale\n", i+1)
		fmt.Fprintf(&lines, "neigh replace 10.0.2.%d lladdr %s dev eth0 nud reachable\n", i+1, peerMAC)
	}
	c.node.Batch(lines.String())
}

// holds checks the promise for a while.
func (c *crowd) holds(t *testing.T, interval, length time.Duration) {
	t.Helper()
	for until := time.Now().Add(length); time.Now().Before(until); {
		for _, s := range c.node.Neighbours() {
			if isProtected(s.Addr) || s.State == "INCOMPLETE" || s.State == "NOARP" || s.Used < 0 || s.State == "FAILED" && s.Updated == 0 {
				continue
			}
			if age := max(s.Used, s.Updated); time.Duration(age)*time.Second > interval {
				t.Errorf("%s", s.Line)
			}
		}
		if t.Failed() {
			return
		}
		<-time.After(50 * time.Millisecond)
	}
}

// unharmed checks that no packet is lost, and nothing that belongs to others.
func (c *crowd) unharmed(t *testing.T) {
	t.Helper()
	left := c.node.IP("neigh show nud all")
	for _, p := range protected {
		if !strings.Contains(left, strings.Fields(p)[2]+" ") {
			t.Errorf("protected entry is gone: %s", p)
		}
	}
	for i, s := range c.streams {
		if err := s.Stop(); err != nil {
			t.Errorf("stream %d: %v", i, err)
		}
		// What comes out of order is no loss.
		if sent, received, _ := s.Counts(); sent == 0 || received < sent-1 {
			t.Errorf("stream %d: sent %d, received %d", i, sent, received)
		}
	}
}

// Killed at random moments, over and over: nothing is left behind that hurts, and
// the agent that is left keeps the promise.
func TestKilledOverAndOver(t *testing.T) {
	t.Parallel()
	c := newCrowd(t)
	const interval = time.Second
	for range *kills {
		c.fill()
		p := prepare(t, c.node, "--interval="+interval.String(), "--web.listen-address=127.0.0.1:10330", "--health.listen-address=127.0.0.1:10331")
		p.launch(nil)
		<-time.After(time.Duration(rand.Int64N(int64(600 * time.Millisecond))))
		_ = p.cmd.Process.Kill()
		if code := p.wait(); code != -1 {
			t.Fatalf("exit code %d before it was killed: %s", code, p.stderr.String())
		}
	}
	c.fill()
	p := start(t, c.node, "--interval="+interval.String())
	p.ready()
	<-time.After(2 * interval)
	c.holds(t, interval, 3*interval)
	if failed := p.failures(); failed != 0 {
		t.Errorf("%v scans failed", failed)
	}
	c.unharmed(t)
}

// Told to stop at random moments: exit code 0 within a second.
func TestStoppedAtAnyMoment(t *testing.T) {
	t.Parallel()
	c := newCrowd(t)
	slowest := time.Duration(0)
	early := 0
	for i := range *kills {
		c.fill()
		p := prepare(t, c.node, "--interval=1s", "--web.listen-address=127.0.0.1:10330", "--health.listen-address=127.0.0.1:10331", "--log-level=debug")
		p.launch(nil)
		if i%2 == 0 {
			<-time.After(time.Duration(rand.Int64N(int64(50 * time.Millisecond)))) // while it starts
		} else {
			<-time.After(time.Duration(rand.Int64N(int64(800 * time.Millisecond))))
		}
		code, took := p.stop()
		slowest = max(slowest, took)
		// Before there is anybody to take the signal, the kernel does as it does.
		killed := p.cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled()
		if killed && p.stderr.String() == "" {
			early++
			continue
		}
		if code != 0 || took > time.Second {
			t.Errorf("exit code %d after %v, want 0 within 1 s:\n%s", code, took, last(p.stderr.String(), 20))
		}
	}
	t.Logf("the slowest of %d took %v; %d had not begun", *kills, slowest, early)
	if early == *kills {
		t.Error("no agent had begun")
	}
	c.unharmed(t)
}

// Killed in the middle of a trial, while the entry of the VIP names a host that
// does not serve: the next agent finds the one that does.
func TestKilledDuringATrial(t *testing.T) {
	t.Parallel()
	a := underAttack(t)
	mac, _ := net.ParseMAC("06:66:66:66:66:66")
	a.attacker.IP("link set eth0 address " + mac.String())
	a.attacker.IP("neigh replace 10.0.0.1 dev eth0 nud permanent lladdr " + nodeMAC)
	// It answers, accepts connections, and serves nothing.
	a.attacker.ServeAPI(a.Lab.CA(), "[::]:6443", []string{a.VIP.String()}).Freeze()
	a.attacker.IP(fmt.Sprintf("addr add %s/32 dev eth0", a.VIP))
	a.API1.Freeze()
	rounds := max(1, *kills/10)
	for round := range rounds {
		begun := time.Now()
		for a.Named() != mac.String() {
			if time.Since(begun) > 2*time.Minute { // an attempt that failed is repeated after up to one
				t.Fatalf("round %d: no trial within two minutes", round)
			}
			<-time.After(time.Millisecond)
		}
		<-time.After(time.Duration(rand.Int64N(int64(time.Second)))) // a trial takes two
		_ = a.p.cmd.Process.Kill()
		_ = a.p.cmd.Wait()
		if round < rounds-1 { // begin again, from the holder that is frozen
			a.Node.IP(fmt.Sprintf("neigh replace %s lladdr %s dev eth0 nud reachable", a.VIP, holderMAC))
			a.relaunch()
		}
	}
	if named := a.Named(); named != mac.String() {
		t.Fatalf("the entry names %q, want the host that was being tried", named)
	}
	a.Two.IP(fmt.Sprintf("addr add %s/32 dev eth0", a.VIP))
	a.relaunch()
	begun := time.Now()
	for a.Named() != "02:00:00:00:01:02" {
		if time.Since(begun) > 2*time.Minute {
			t.Fatalf("after two minutes the entry names %q", a.Named())
		}
		<-time.After(10 * time.Millisecond)
	}
	t.Logf("killed %d times during a trial; right %v after the last restart", rounds, time.Since(begun))
	for range 50 { // and it stays there
		<-time.After(50 * time.Millisecond)
		if named := a.Named(); named != "02:00:00:00:01:02" {
			t.Fatalf("the entry went to %q", named)
		}
	}
}

// relaunch starts the agent once more.
func (a *attack) relaunch() {
	c := quiet
	p := prepare(a.p.t, a.Node)
	cmd := a.Agent(&c, "/proc/self/exe")
	cmd.Args, cmd.Env, cmd.Stderr = append(cmd.Args, "--log-level=debug"), p.cmd.Env, &p.stderr
	p.cmd = cmd
	p.launch(nil)
	a.p = p
}

// Frozen for longer than the interval, as a virtual machine is for a snapshot,
// while the VIP moves: afterwards the VIP is right within seconds, everything
// overdue is renewed, and not all at once. Somebody answers for the entries in use: a
// silent neighbour takes six requests.
func TestFrozenForLongerThanTheInterval(t *testing.T) {
	t.Parallel()
	a := underAttack(t, "--interval=4s")
	var lines strings.Builder
	var addrs strings.Builder
	for i := range 100 {
		fmt.Fprintf(&addrs, "addr add 10.0.1.%d/32 dev eth0\n", i+1)
		fmt.Fprintf(&lines, "neigh replace 10.0.1.%d lladdr %s dev eth0 nud reachable\n", i+1, holderMAC)
		fmt.Fprintf(&lines, "neigh replace 10.0.2.%d lladdr 02:00:00:00:00:50 dev eth0 nud stale\n", i+1)
	}
	a.One.Batch(addrs.String())
	a.Node.IP("route add 10.0.0.0/16 dev eth0")
	a.Node.Batch(lines.String())
	signal := func(s syscall.Signal) {
		if err := a.p.cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	signal(syscall.SIGSTOP)
	<-time.After(6 * time.Second)
	a.take()
	resumed := time.Now()
	signal(syscall.SIGCONT)
	for a.Named() != "02:00:00:00:01:02" {
		if time.Since(resumed) > lab.RepairLimit {
			t.Fatalf("%v after it went on, the entry of the VIP names %q", time.Since(resumed), a.Named())
		}
		<-time.After(5 * time.Millisecond)
	}
	t.Logf("the VIP was right after %v", time.Since(resumed))
	eventually(t, "nothing is overdue", func() bool {
		code, _ := a.p.get("http://127.0.0.1:10331/readyz")
		return code == http.StatusOK && a.p.metric("overdue_entries") == 0
	})
	t.Logf("nothing was overdue after %v", time.Since(resumed))
	if code, body := a.p.get("http://127.0.0.1:10331/healthz"); code != http.StatusOK {
		t.Errorf("/healthz: %d %s", code, body)
	}
}

// take moves the VIP to the second host without a word.
func (a *attack) take() {
	a.One.IP(fmt.Sprintf("addr del %s/32 dev eth0", a.VIP))
	a.Two.IP(fmt.Sprintf("addr add %s/32 dev eth0", a.VIP))
}
