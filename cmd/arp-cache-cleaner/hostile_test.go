package main

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

// attack is a node with a VIP, as in the failover tests, an agent on it that
// verifies certificates, and a host on the segment that wants the traffic.
type attack struct {
	*lab.Failover
	p        *process
	attacker *lab.Host
	port     lab.Port
}

var quiet = lab.FailoverCase{Name: "nothing moves"}

func underAttack(t *testing.T, args ...string) *attack {
	t.Helper()
	c := quiet
	c.Args = args
	f := lab.NewFailover(lab.Start(t), &c, false, t.TempDir())
	t.Cleanup(f.Close)
	a := &attack{Failover: f, attacker: f.Lab.Host("attacker")}
	a.port = a.attacker.Plug(f.Switch, "eth0", "", "10.0.0.66/24")
	if err := f.Talk(&c); err != nil {
		t.Fatal(err)
	}
	a.p = prepare(t, f.Node)
	cmd := f.Agent(&c, "/proc/self/exe")
	cmd.Args, cmd.Env, cmd.Stderr = append(cmd.Args, "--log-level=debug"), a.p.cmd.Env, &a.p.stderr
	a.p.cmd = cmd
	a.p.launch(nil)
	t.Cleanup(func() {
		a.p.kill()
		if t.Failed() {
			t.Logf("the agent's log:\n%s\n%s", last(a.p.stderr.String(), 60), last(f.Node.IP("-s neigh"), 30))
		}
	})
	a.p.ready()
	if !f.Watched(10 * time.Second) {
		t.Fatal("the agent does not watch the VIP")
	}
	return a
}

func last(text string, lines int) string {
	all := strings.Split(text, "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// holderMAC is the host that has the VIP.
const holderMAC = "02:00:00:00:01:01"

// healed waits until the entry names the holder, and has named nobody else for a
// while.
func (a *attack) healed(within time.Duration) (took time.Duration, ok bool) {
	const steady = 3 * time.Second
	begun := time.Now()
	since := begun
	for time.Since(begun) < within+steady {
		if a.Named() != holderMAC {
			since = time.Now()
		} else if time.Since(since) > steady {
			return since.Sub(begun), true
		}
		<-time.After(20 * time.Millisecond)
	}
	return 0, false
}

// followed returns the log lines that say that the agent itself gave the entry
// to somebody else than the holder.
func (a *attack) followed() (lines []string) {
	for line := range strings.Lines(a.p.stderr.String()) {
		if strings.Contains(line, "event=moved") && !strings.Contains(line, "cause=announced") && !strings.Contains(line, "new_lladdr="+holderMAC) {
			lines = append(lines, line)
		}
	}
	return lines
}

// A host announces itself for the VIP, and answers for it, but has no certificate
// of it: by gratuitous ARP the kernel believes it, and the agent takes the entry
// back and holds it.
func TestSpoofedHolderIsNotFollowed(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		// api: the spoofer serves the API, with a certificate of its own.
		api bool
	}{{name: "no API"}, {name: "API with another CA", api: true}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := underAttack(t)
			mac, _ := net.ParseMAC("06:66:66:66:66:66")
			a.attacker.IP("link set eth0 address " + mac.String())
			if tt.api {
				a.attacker.ServeAPI(a.Lab.CA(), "[::]:6443", []string{a.VIP.String()})
			}
			a.attacker.IP(fmt.Sprintf("addr add %s/32 dev eth0", a.VIP)) // it answers as well
			n := 0
			begun := time.Now()
			var lie []byte
			stop := frames(t, a.attacker, a.port, func(_ int, b []byte) []byte {
				<-time.After(time.Until(begun.Add(time.Duration(n) * 500 * time.Millisecond)))
				n++
				lie = appendARP(b, everybody, mac, uint16(1+n%2), mac, a.VIP, nobody, a.VIP)
				return lie
			})
			took, ok := a.healed(25 * time.Second)
			if !ok {
				t.Error("the entry was not brought back")
			}
			t.Logf("steady after %v", took)
			// Meanwhile, and for a while, nobody is sent to the spoofer.
			wrong, samples := 0, 0
			for until := time.Now().Add(5 * time.Second); time.Now().Before(until); samples++ {
				if a.Named() != holderMAC {
					wrong++
				}
				<-time.After(5 * time.Millisecond)
			}
			stop()
			if wrong*20 > samples {
				t.Errorf("the entry named the spoofer in %d of %d looks", wrong, samples)
			}
			if lines := a.followed(); len(lines) > 0 {
				t.Errorf("the agent followed the spoofer:\n%s", strings.Join(lines, ""))
			}
			if lines := strings.Count(a.p.stderr.String(), "level=WARN") + strings.Count(a.p.stderr.String(), "level=ERROR"); lines > 30 {
				t.Errorf("%d warnings", lines)
			}
		})
	}
}

// As many answers for the VIP as the machine can make, each from another MAC:
// memory, series and log stay bounded, the agent goes on, and when it is over the
// entry is right.
func TestFloodOfHoldersForTheVIP(t *testing.T) {
	lab.Alone(t)
	a := underAttack(t, "--interval=10s")
	// A bridge would remember millions of MACs, and the kernel take seconds to
	// forget them when the test is over, with the lock held that the agent of the
	// next one needs.
	a.Switch.Host().IP("link set dev " + a.port.Name + " type bridge_slave learning off")
	node, _ := net.ParseMAC(nodeMAC)
	before := a.p.rss()
	stop := frames(t, a.attacker, a.port, func(n int, b []byte) []byte {
		mac := randomMAC()
		switch n % 3 {
		case 0: // as an answer to a request of the node's
			return appendARP(b, node, mac, 2, mac, a.VIP, node, netip.MustParseAddr("10.0.0.1"))
		case 1: // to everybody
			return appendARP(b, everybody, mac, 2, mac, a.VIP, everybody, a.VIP)
		default: // for an address nobody asked for
			return appendARP(b, node, mac, 2, mac, netip.AddrFrom4([4]byte{10, 0, 0, byte(100 + rand.IntN(100))}), node, netip.MustParseAddr("10.0.0.1"))
		}
	})
	begun := time.Now()
	wrong, looks := 0, 0
	for time.Since(begun) < 15*time.Second {
		if code, body := a.p.get("http://127.0.0.1:10331/readyz"); code != http.StatusOK {
			t.Errorf("/readyz: %d %s", code, body)
		}
		for range 20 {
			if looks++; a.Named() != holderMAC {
				wrong++
			}
			<-time.After(10 * time.Millisecond)
		}
	}
	sent := stop()
	t.Logf("%.0f frames/s; the entry was wrong in %d of %d looks", float64(sent)/time.Since(begun).Seconds(), wrong, looks)
	if wrong == 0 {
		t.Error("the flood did not arrive")
	}
	took, ok := a.healed(75 * time.Second) // the longest back-off, and an attempt
	if !ok {
		t.Error("the entry is wrong for longer than the longest back-off after the flood")
	}
	t.Logf("right %v after the flood", took)
	if testing.Verbose() {
		t.Log(a.p.stderr.String())
	}
	if !raceEnabled {
		if after := a.p.rss(); after > before+16 {
			t.Errorf("%d MiB resident, %d before the flood", after, before)
		}
	}
	_, body := a.p.get("http://127.0.0.1:10330/metrics")
	if n := strings.Count(body, "\n"); n > 500 {
		t.Errorf("%d lines of metrics", n)
	}
	if strings.Contains(body, `lladdr="06:`) {
		t.Error("the metrics still name a spoofed holder")
	}
	var loud int
	for line := range strings.Lines(a.p.stderr.String()) {
		if !strings.Contains(line, "level=DEBUG") {
			loud++
			if len(line) > 4096 {
				t.Errorf("a log line of %d bytes: %.200s...", len(line), line)
			}
		}
	}
	if limit := 60 + int(time.Since(begun).Seconds()); loud > limit {
		t.Errorf("%d lines of log in %v, want %d at most", loud, time.Since(begun).Round(time.Second), limit)
	}
}

// A thousand connections and slow clients at both ports: renewals go on in time,
// and scrapes and probes are answered.
func TestSlowHTTPClients(t *testing.T) {
	lab.Alone(t)
	n := node(t)
	p := start(t, n, "--interval=1s")
	p.ready()
	before := p.rss()
	n.Touch("10.0.0.2")
	stopped := make(chan struct{})
	ended := make(chan int, 2)
	for i, addr := range []string{"127.0.0.1:10330", "127.0.0.1:10331"} {
		go func() {
			var open []net.Conn
			for n := 0; ; n++ {
				select {
				case <-stopped:
					for _, c := range open {
						_ = c.Close()
					}
					ended <- n
					return
				default:
				}
				if len(open) == 1000/2 {
					_ = open[0].Close()
					open = open[1:]
				}
				if err := p.host.Do(func() error {
					c, err := net.DialTimeout("tcp", addr, time.Second)
					if err == nil {
						_, _ = c.Write([]byte([]string{"", "GET /metrics HTTP/1.1\r\nHost: x\r\nX: ", "\x00\xff"}[(n+i)%3]))
						open = append(open, c)
					}
					return nil
				}); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	const renewals = `renewals_total{device="eth0",method="broadcast",result="ok"}`
	var first, count float64
	slowest := time.Duration(0)
	for until := time.Now().Add(6 * time.Second); time.Now().Before(until); {
		asked := time.Now()
		count = p.metric(renewals)
		if code, body := p.get("http://127.0.0.1:10331/healthz"); code != http.StatusOK {
			t.Errorf("/healthz: %d %s", code, body)
		}
		slowest = max(slowest, time.Since(asked))
		if first == 0 {
			first = count
		}
		for _, s := range n.Neighbours() {
			if s.Addr == "10.0.0.2" && (s.Used > 1 || s.Updated > 1) {
				t.Errorf("%s", s.Line)
			}
		}
		n.Touch("10.0.0.2")
		<-time.After(100 * time.Millisecond)
	}
	close(stopped)
	t.Logf("%d and %d connections, %v renewals, a scrape and a probe took %v at most", <-ended, <-ended, count-first, slowest)
	if count < first+3 {
		t.Errorf("%v renewals in 6 s", count-first)
	}
	if slowest > 5*time.Second {
		t.Errorf("a scrape and a probe took %v", slowest)
	}
	if failed := p.failures(); failed != 0 {
		t.Errorf("%v scans failed", failed)
	}
	if mib := p.rss(); !raceEnabled && mib > before+16 {
		t.Errorf("%d MiB resident, %d before", mib, before)
	}
	if code, took := p.stop(); code != 0 || took > time.Second {
		t.Errorf("after SIGTERM: exit code %d in %v", code, took)
	}
}
