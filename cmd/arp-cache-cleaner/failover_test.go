package main

import (
	"cmp"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

// A VIP moves in every way that it can, with nothing announced. What can be
// repaired is, in time; what cannot is reported, and left alone.
func TestFailover(t *testing.T) {
	t.Parallel()
	failovers(t, false)
}

// The cases that count single packets, and no others meanwhile: everybody who makes
// or deletes a device takes the lock that a change of an entry waits for (RTNL).
func TestFailoverCounted(t *testing.T) {
	lab.Alone(t)
	failovers(t, true)
}

func failovers(t *testing.T, counted bool) {
	for _, c := range lab.FailoverCases {
		if c.Zombie != counted {
			continue
		}
		families := []bool{false}
		if c.IPv6 {
			families = append(families, true)
		}
		for _, ipv6 := range families {
			name := c.Name + map[bool]string{false: ", ipv4", true: ", ipv6"}[ipv6]
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				failover(t, &c, ipv6)
			})
		}
	}
}

func failover(t *testing.T, c *lab.FailoverCase, ipv6 bool) {
	// The connection is there before the agent starts: it finds the VIP by it.
	f := lab.NewFailover(lab.Start(t), c, ipv6, t.TempDir())
	t.Cleanup(f.Close)
	if err := f.Talk(c); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := prepare(t, f.Node)
	cmd := f.Agent(c, exe)
	cmd.Args, cmd.Env, cmd.Stderr = append(cmd.Args, "--log-level=debug"), p.cmd.Env, &p.stderr
	p.cmd = cmd
	p.launch(nil)
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("the agent's log:\n%s\n%s", p.stderr.String(), f.Node.IP("-s neigh"))
		}
	})
	p.ready()
	if !f.Watched(10 * time.Second) {
		t.Fatal("the agent does not watch the VIP")
	}
	if n := f.API1.Livez() + f.API2.Livez(); n > 0 {
		t.Errorf("%d checks of a VIP that works", n)
	}
	if c.Says != "" {
		f.Run(c, 0)
		if want := f.Sample(c); !f.Says(want, 30*time.Second) {
			t.Errorf("the agent did not say %s within 30 s", want)
		}
		leftAlone(t, c, f, p)
		return
	}
	limit := cmp.Or(c.Limit, lab.RepairLimit)
	r := f.Run(c, limit+10*time.Second)
	t.Logf("entry %v, new connection %v, UDP %v, TCP %v", r.Entry, r.Connects, r.UDP, r.TCP)
	if r.Entry == lab.Never || r.Entry > limit || r.Connects == lab.Never || r.Connects > limit {
		t.Errorf("want entry and new connection within %v", limit)
	}
	// A trial is logged once it has proved itself.
	eventually(t, "the log says that the VIP has moved, and where", func() bool {
		return strings.Contains(p.stderr.String(), "new_lladdr=02:00:00:00:01:02")
	})
	if n := strings.Count(p.stderr.String(), "event=moved"); n != 1 {
		t.Errorf("the log says %d times that the VIP has moved", n)
	}
	if !c.Zombie {
		return
	}
	f.Hold(&r, 20*time.Second)
	t.Logf("to the zombie %d, to the holder %d, resets %d", r.ToZombie, r.ToHolder, r.Resets)
	if r.Resets > 0 || r.ToZombie*200 > r.ToHolder {
		t.Error("want no reset, and one in 200 datagrams to the zombie at most")
	}
}

// leftAlone checks that what is only reported is reported in one log line, and
// that the entry stays as it is.
func leftAlone(t *testing.T, c *lab.FailoverCase, f *lab.Failover, p *process) {
	t.Helper()
	_, event, ok := strings.Cut(c.Says, "event=\"")
	if !ok {
		return
	}
	event, _, _ = strings.Cut(event, "\"")
	before := f.Named()
	// Long enough for everybody to be asked once more, or for another attempt.
	if event == "duplicate" || event == "pinned" {
		f.Says("there is no such text", 8*time.Second)
	}
	if after := f.Named(); after != before || strings.Contains(p.stderr.String(), "event=moved") {
		t.Errorf("the entry named %q, and now %q", before, after)
	}
	// What is counted is logged a moment later.
	eventually(t, "the log says "+event, func() bool { return strings.Contains(p.stderr.String(), "event="+event) })
	if n := strings.Count(p.stderr.String(), "event="+event); n != 1 {
		t.Errorf("%d log lines about %s, want 1", n, event)
	}
}
