package main

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

// A VIP moves in every way that it can, with nothing announced. What can be
// repaired is, in time; what cannot is reported, and left alone.
func TestFailover(t *testing.T) {
	for _, c := range lab.FailoverCases {
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
	p := prepare(t, f.Node, append(f.AgentArgs(c), "--log-level=debug",
		"--web.listen-address=127.0.0.1:10330", "--health.listen-address=127.0.0.1:10331")...)
	if _, err := os.Stat(f.HostsFile()); err == nil {
		p.resolveBy(f.HostsFile())
	}
	p.launch(nil)
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
		}
		if t.Failed() {
			t.Logf("the agent's log:\n%s\n%s", p.stderr.String(), f.Node.IP("-s neigh"))
		}
	})
	p.ready()
	watched := fmt.Sprintf("arp_cache_cleaner_vip_held_here{vip=%q}", f.VIP.String())
	eventually(t, "the VIP is watched", func() bool { return strings.Contains(f.Metrics(), watched) })
	if c.Says != "" {
		f.Run(c, 0)
		want := f.Sample(c)
		deadline := time.After(30 * time.Second)
		for !strings.Contains(f.Metrics(), want) {
			select {
			case <-deadline:
				t.Fatalf("the agent did not say %s within 30 s", want)
			case <-time.After(50 * time.Millisecond):
			}
		}
		return
	}
	limit := cmp.Or(c.Limit, lab.RepairLimit)
	r := f.Run(c, limit+10*time.Second)
	t.Logf("entry %v, new connection %v, UDP %v, TCP %v", r.Entry, r.Connects, r.UDP, r.TCP)
	if r.Entry == lab.Never || r.Entry > limit || r.Connects == lab.Never || r.Connects > limit {
		t.Errorf("want entry and new connection within %v", limit)
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

// resolveBy has the process find a file of its own at /etc/hosts.
func (p *process) resolveBy(file string) {
	p.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		p.t.Fatal(err)
	}
	const script = `mount --make-rprivate / && mount --bind "$1" /etc/hosts && shift && exec "$@"`
	p.cmd.Path = "/bin/sh"
	p.cmd.Args = slices.Concat([]string{"sh", "-c", script, "sh", file, exe}, p.cmd.Args[1:])
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
}
