package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

const failoverStory = `
A control-plane address moves. Two hosts can hold it, and two nodes are clients of
the API server behind it:

  one    02:00:00:00:01:01  holds the VIP 10.0.0.100 now
  two    02:00:00:00:01:02  will hold it
  node   runs the agent with its defaults
  other  runs no agent

It moves in silence: no gratuitous ARP reaches anybody. Both nodes keep asking
the API server once a second.
`

// patience is how long the node without the agent is watched. A kernel believes in
// an entry that TCP has confirmed for up to 45 s, and then for another 8.
const patience = 45 * time.Second

// period is how often a node asks the API server.
const period = time.Second

// client is a node that depends on the VIP.
type client struct {
	*lab.APIClient
	host  *lab.Host
	vip   string
	entry time.Duration // after which the entry named the new holder; 0: it does not yet
	found time.Duration // after which the API server answered from there
}

func newClient(h *lab.Host, f *lab.Failover) *client {
	return &client{APIClient: h.Client(f.CA, netip.AddrPortFrom(f.VIP, 6443), period), host: h, vip: f.VIP.String()}
}

// names is the holder that the node's entry names.
func (c *client) names() string {
	for _, n := range c.host.Neighbours() {
		if n.Addr == c.vip {
			switch {
			case strings.Contains(n.Line, "02:00:00:00:01:01"):
				return "one"
			case strings.Contains(n.Line, "02:00:00:00:01:02"):
				return "two"
			}
		}
	}
	return "nobody"
}

// look sees how far the node has come, since the VIP moved, and returns it in words.
func (c *client) look(moved time.Time) string {
	now := time.Since(moved)
	name := c.names()
	if name == "two" && c.entry == 0 {
		c.entry = now
	}
	host, at := c.LastServed()
	if host == "two" && c.found == 0 {
		c.found = at.Sub(moved)
	}
	served := "not served"
	if time.Since(at) < 2*period {
		served = "served by " + host
	}
	return fmt.Sprintf("entry names %-6s  %s", name, served)
}

// failover shows both nodes side by side.
func failover(ctx context.Context, agent string) error {
	l := lab.New(fail)
	defer l.Close()
	dir, err := os.MkdirTemp("", "demo")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	c := &lab.FailoverCases[0]
	f := lab.NewFailover(l, c, false, dir)
	defer f.Close()
	const otherMAC = "02:00:00:00:00:02"
	other := l.Host("other")
	other.Plug(f.Switch, "eth0", otherMAC, "10.0.0.2/24")
	for _, h := range []*lab.Host{f.One, f.Two} { // who would announce the VIP by asking for this node
		h.IP("neigh replace 10.0.0.2 dev eth0 nud permanent lladdr " + otherMAC)
	}
	with, without := newClient(f.Node, f), newClient(other, f)
	fmt.Print(failoverStory)
	cmd := f.Agent(c, agent)
	if err := f.Node.Start(cmd); err != nil {
		return fmt.Errorf("starting the agent (make build makes it): %w", err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	if !f.Watched(10*time.Second) || !with.Await("one", 10*time.Second) || !without.Await("one", 10*time.Second) {
		return errors.New("the nodes do not get to the API server")
	}
	compare(ctx, func() { c.Break(f) }, with, without)
	fmt.Printf("\n$ arp-cache-cleaner status\n%s", indent(f.Node.Run(agent, "status", "--listen-host=127.0.0.1")))
	fmt.Printf("\nServed again: with the agent %s; without it, %s.\n", after(with.found), after(without.found))
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return cmd.Wait()
}

// compare moves the VIP, and prints what both nodes do whenever that changes, and
// every five seconds.
func compare(ctx context.Context, move func(), with, without *client) {
	fmt.Printf("\n  %6s  %-36s%s\n", "", "node, with the agent", "other, without")
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	move()
	moved, last, said := time.Now(), "", time.Time{}
	for time.Since(moved) < patience && (with.found == 0 || without.found == 0) {
		line := fmt.Sprintf("%-36s%s", with.look(moved), without.look(moved))
		if line != last || time.Since(said) > 5*time.Second {
			fmt.Printf("  %4.1f s  %s\n", time.Since(moved).Seconds(), line)
			last, said = line, time.Now()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// after is a time in words.
func after(d time.Duration) string {
	if d == 0 {
		return fmt.Sprintf("not within %v", patience)
	}
	return fmt.Sprintf("after %.1f s", d.Seconds())
}
