// Command interop shows that the agent and a real keepalived get along: two hosts
// share a control-plane VIP by VRRP, the VIP moves as keepalived moves it, and all
// announcements are lost on the way to a node. It runs in network namespaces and
// needs keepalived and nft; no root where user namespaces are allowed. It fails
// where the node's entry does not follow in time, or names a wrong host.
package main

import (
	"bytes"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

const (
	takeoverLimit = 15 * time.Second // for keepalived
	// entryLimit is how long the entry may name the old holder once the VIP is at
	// the new one. Who comes 4 s after the old one's death has to wait for a turn:
	// they are 5 s apart then.
	entryLimit  = 7 * time.Second
	clientLimit = 3 * time.Second // from then on
	calm        = 8 * time.Second // for which nothing is to happen once all is well
	// blink is how long an answer to the agent's own question may stand in an entry
	// before that is undone: Neighbor Discovery has no locktime.
	blink = 100 * time.Millisecond
	// kernelLimit is how long the kernel alone is watched. It believes in the old
	// holder for 15 s at least, half of base_reachable_time, from when it last
	// heard of it; the VIP moves some 4 s after that.
	kernelLimit = 10 * time.Second
)

func main() {
	agent := flag.String("agent", "bin/arp-cache-cleaner", "path of the agent")
	parallel := flag.Int("parallel", 8, "how many cases run at once")
	only := flag.String("run", "", "run only the cases whose names contain this")
	flag.Parse()
	_, err := exec.LookPath("keepalived")
	if err = errors.Join(err, lab.Enter()); err == nil {
		err = interop(*agent, *only, *parallel)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		os.Exit(1)
	}
}

// trial is one case in one family, with one way to check the service, with the
// agent or without.
type trial struct {
	scenario
	ipv6, tcp, agent bool

	steps []took
	err   error
}

// took says how a step went. Entry and clients are since keepalived had moved the
// VIP.
type took struct {
	takeover, entry, clients time.Duration
	changes                  []string // of whom the entry names
	lost                     int      // announcements of the new holder
}

func interop(agent, only string, parallel int) error {
	var trials []*trial
	for _, s := range scenarios {
		for _, how := range []struct{ ipv6, tcp bool }{{}, {tcp: true}, {ipv6: true}} {
			for _, with := range []bool{false, true} {
				if (with || !s.stays && !how.tcp) && strings.Contains(s.name, only) {
					trials = append(trials, &trial{scenario: s, ipv6: how.ipv6, tcp: how.tcp, agent: with})
				}
			}
		}
	}
	turn := make(chan struct{}, parallel)
	var wg sync.WaitGroup
	for _, t := range trials {
		wg.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			t.err = t.run(agent)
		})
	}
	wg.Wait()
	return errors.Join(table(trials), verdict(trials))
}

func verdict(trials []*trial) error {
	var errs []error
	for _, t := range trials {
		if t.err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", t, t.err))
		}
	}
	return errors.Join(errs...)
}

func (t *trial) String() string {
	return strings.Join([]string{t.name, t.family(), t.health(), map[bool]string{true: "with the agent", false: "without"}[t.agent]}, ", ")
}

func (t *trial) family() string { return map[bool]string{true: "ipv6", false: "ipv4"}[t.ipv6] }
func (t *trial) health() string { return map[bool]string{true: "tcp", false: "https"}[t.tcp] }

func table(trials []*trial) error {
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	keepalived, _ := exec.Command("keepalived", "--version").CombinedOutput()
	version, _, _ := strings.Cut(string(keepalived), " (")
	fmt.Printf("Linux %s, %s. Seconds that keepalived took to move the VIP, and from then on until the node's\n"+
		"entry named the new holder and a client was served there; all announcements were lost. -: not within %v,\n"+
		"or not at all, as the old holder serves on.\n\n",
		strings.TrimSpace(string(kernel)), version, kernelLimit)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "case\tfamily\tcheck\tagent\ttakeover\tentry\tclients\tthen it named\tannouncements lost")
	for _, t := range trials {
		for i, s := range t.steps {
			fmt.Fprintf(w, "%s: %s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\n", t.name, t.do[i].name, t.family(), t.health(), map[bool]string{true: "yes", false: "no"}[t.agent],
				seconds(s.takeover), seconds(s.entry), seconds(s.clients), cmp.Or(strings.Join(s.changes, ", "), "the same"), s.lost)
		}
	}
	return w.Flush()
}

func seconds(d time.Duration) string {
	if d == lab.Never {
		return "-"
	}
	return fmt.Sprintf("%.1f", d.Seconds())
}

// cluster is a failover whose VIP keepalived moves.
type cluster struct {
	*lab.Failover
	one, two *lab.Keepalived
	lost     func(*lab.Host) int // announcements
	err      error
}

// newCluster returns one whose first host holds the VIP.
func newCluster(l *lab.Lab, c *lab.FailoverCase, ipv6 bool, dir string) (*cluster, error) {
	k := &cluster{}
	c.Before = func(f *lab.Failover) {
		k.Failover, k.lost = f, f.LoseAnnouncements()
		f.One.IP("addr del " + f.VIP.String() + map[bool]string{true: "/128", false: "/32"}[ipv6] + " dev eth0")
		k.one, k.err = f.Keepalived(f.One, 150)
		if k.err == nil {
			k.two, k.err = f.Keepalived(f.Two, 100)
		}
	}
	lab.NewFailover(l, c, ipv6, dir)
	switch {
	case k.err != nil:
		k.Close()
		return nil, k.err
	case !k.Has(k.One, true, takeoverLimit) || !k.Has(k.Two, false, time.Second):
		k.Close()
		return nil, fmt.Errorf("the first host does not hold the VIP:\n%s\n%s", k.one.Log(), k.two.Log())
	}
	return k, nil
}

func (t *trial) run(agent string) (err error) {
	l := lab.New(func(err error) {
		fmt.Fprintln(os.Stderr, "interop:", err)
		os.Exit(1)
	})
	defer l.Close()
	dir, err := os.MkdirTemp("", "interop")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	c := &lab.FailoverCase{Name: t.name, Args: []string{"--log-level=debug"}}
	if t.tcp {
		c.Args = append(c.Args, "--vip-health=tcp", "--vip-on-conflict=healthy")
	}
	k, err := newCluster(l, c, t.ipv6, dir)
	if err != nil {
		return err
	}
	defer k.Close()
	if err := k.Talk(c); err != nil {
		return err
	}
	if t.agent {
		return t.withAgent(k, c, agent)
	}
	return t.alone(k)
}

// alone shows what the kernel does by itself in the first step: not enough.
func (t *trial) alone(k *cluster) error {
	so := k.Follow()
	s, err := t.step(k, &t.do[0], so, kernelLimit)
	t.steps = append(t.steps, s)
	if err == nil && s.entry != lab.Never {
		err = errors.New("the kernel follows by itself: the case shows nothing")
	}
	return err
}

func (t *trial) withAgent(k *cluster, c *lab.FailoverCase, agent string) error {
	var log bytes.Buffer
	cmd := k.Agent(c, agent)
	cmd.Stderr = &log
	if err := k.Node.Start(cmd); err != nil {
		return fmt.Errorf("starting the agent (make build makes it): %w", err)
	}
	err := errors.New("the agent does not watch the VIP")
	if k.Watched(takeoverLimit) {
		err = t.follows(k)
	}
	ended := errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait())
	if err != nil {
		err = fmt.Errorf("%w\nthe agent's log:\n%s\nkeepalived's logs:\n%s\n%s", err, log.String(), k.one.Log(), k.two.Log())
	}
	return errors.Join(err, ended)
}

// follows holds all steps with the agent to their limits.
func (t *trial) follows(k *cluster) error {
	so := k.Follow()
	for i := range t.do {
		limit := cmp.Or(t.do[i].limit, entryLimit)
		s, err := t.step(k, &t.do[i], so, limit)
		t.steps = append(t.steps, s)
		var want []string
		if !t.stays {
			want = []string{t.do[i].to}
		}
		switch {
		case err != nil:
			return err
		case !slices.Equal(s.changes, want):
			return fmt.Errorf("%s: the entry named %q one after the other, want %q", t.do[i].name, s.changes, want)
		case !t.stays && s.entry == lab.Never:
			return fmt.Errorf("%s: the entry does not name the new holder within %v", t.do[i].name, limit)
		case s.clients == lab.Never:
			return fmt.Errorf("%s: the client is not served within %v", t.do[i].name, limit+clientLimit)
		}
	}
	return nil
}

// changes returns whom an entry named after the first one, without blinks.
func changes(all []lab.Naming) (hosts []string) {
	last := all[0].Host
	for i, n := range all[1:] {
		if i+2 < len(all) && all[i+2].At.Sub(n.At) < blink || n.Host == last {
			continue
		}
		last = n.Host
		hosts = append(hosts, last)
	}
	return hosts
}

// step moves the VIP, and watches whom the entry names, and who serves the client:
// for limit, or until all is well and a while longer.
func (t *trial) step(k *cluster, s *step, so func() []lab.Naming, limit time.Duration) (took, error) {
	hosts := map[string]*lab.Host{"one": k.One, "two": k.Two}
	r := took{takeover: lab.Never, entry: lab.Never, clients: lab.Never}
	before, lost := len(so()), k.lost(hosts[s.to])
	start := time.Now()
	if err := s.do(k); err != nil {
		return r, fmt.Errorf("%s: %w", s.name, err)
	}
	if !k.Has(hosts[s.to], true, takeoverLimit) {
		return r, fmt.Errorf("%s: keepalived does not move the VIP:\n%s\n%s", s.name, k.one.Log(), k.two.Log())
	}
	moved := time.Now()
	r.takeover = moved.Sub(start)
	server := s.to
	if t.stays {
		server = "one"
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ; time.Since(moved) < limit && r.entry == lab.Never; <-tick.C {
		if all := so(); all[len(all)-1].Host == s.to {
			r.entry = max(0, all[len(all)-1].At.Sub(moved)) // the VIP is looked for every 20 ms
		}
	}
	if (t.stays || r.entry != lab.Never) && k.Served(server, limit+clientLimit-time.Since(moved)) {
		r.clients = time.Since(moved)
		<-time.After(calm)
		if !k.Served(server, 3*time.Second) {
			r.clients = lab.Never
		}
	}
	r.changes = changes(so()[before-1:])
	if r.lost = k.lost(hosts[s.to]) - lost; r.lost == 0 {
		return r, fmt.Errorf("%s: the new holder announced nothing that could have been lost", s.name)
	}
	return r, nil
}
