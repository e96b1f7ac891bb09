// Command bench-vip moves a control-plane VIP in every way that it can, with
// nothing announced, and shows how long a node takes to use the right holder:
// with the agent, and without. It runs in network namespaces and needs no root
// where user namespaces are allowed.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

func main() {
	agent := flag.String("agent", "bin/arp-cache-cleaner", "path of the agent")
	patience := flag.Duration("for", time.Minute, "how long to wait for what may never happen")
	parallel := flag.Int("parallel", 4, "how many cases run at once")
	flag.Parse()
	if err := errors.Join(lab.Enter(), bench(*agent, *patience, *parallel)); err != nil {
		fmt.Fprintln(os.Stderr, "bench-vip:", err)
		os.Exit(1)
	}
}

// run is one case in one family, with the agent or without.
type run struct {
	lab.FailoverCase
	ipv6, agent bool

	result lab.FailoverResult
	said   time.Duration // how long the agent took to say what it is to say
	err    error
}

func bench(agent string, patience time.Duration, parallel int) error {
	var runs []*run
	for _, c := range lab.FailoverCases {
		for _, ipv6 := range []bool{false, true} {
			for _, with := range []bool{false, true} {
				if !ipv6 || c.IPv6 {
					runs = append(runs, &run{FailoverCase: c, ipv6: ipv6, agent: with})
				}
			}
		}
	}
	turn := make(chan struct{}, parallel)
	var wg sync.WaitGroup
	for _, r := range runs {
		wg.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			r.err = r.measure(agent, patience)
			fmt.Fprint(os.Stderr, ".")
		})
	}
	wg.Wait()
	fmt.Fprintln(os.Stderr)
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	fmt.Printf("Linux %s. Seconds from the moment the VIP moved, with nothing announced, until the node's\n"+
		"entry named the new holder, a new HTTPS connection was served there, a UDP datagram\n"+
		"arrived there, and the HTTPS client that was connected before was served there; -: not within %v.\n\n",
		strings.TrimSpace(string(kernel)), patience)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\t\twithout the agent\t\t\t\twith the agent")
	fmt.Fprintln(w, "case\tfamily\tentry\tconnect\tUDP\tTCP\tentry\tconnect\tUDP\tTCP\treported")
	var errs []error
	for pair := range slices.Chunk(runs, 2) {
		without, with := pair[0], pair[1]
		errs = append(errs, without.err, with.err)
		family := "ipv4"
		if with.ipv6 {
			family = "ipv6"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", with.Name, family, without.times(), with.times(), with.report())
	}
	return errors.Join(append(errs, w.Flush())...)
}

// times are the columns of a case that can be repaired.
func (r *run) times() string {
	if r.Says != "" {
		return "\t\t\t"
	}
	t := r.result
	return strings.Join([]string{seconds(t.Entry), seconds(t.Connects), r.traffic(t.UDP), r.traffic(t.TCP)}, "\t")
}

// traffic is the column of traffic that an idle node does not have.
func (r *run) traffic(d time.Duration) string {
	if r.Idle {
		return ""
	}
	return seconds(d)
}

func seconds(d time.Duration) string {
	if d == lab.Never {
		return "-"
	}
	return fmt.Sprintf("%.1f", d.Seconds())
}

func (r *run) report() string {
	switch {
	case r.Says != "" && r.said == lab.Never:
		return "nothing"
	case r.Says != "":
		return fmt.Sprintf("%s after %.1f", r.event(), r.said.Seconds())
	case r.Zombie && r.result.Entry != lab.Never:
		return fmt.Sprintf("then %d of %d datagrams to the zombie, %d resets", r.result.ToZombie,
			r.result.ToZombie+r.result.ToHolder, r.result.Resets)
	}
	return ""
}

// event is what the agent is to report, as docs/vip.md calls it.
func (r *run) event() string {
	if _, rest, ok := strings.Cut(r.Says, `event="`); ok {
		name, _, _ := strings.Cut(rest, `"`)
		return name
	}
	return "watched"
}

func (r *run) measure(agent string, patience time.Duration) error {
	l := lab.New(func(err error) {
		fmt.Fprintln(os.Stderr, "bench-vip:", err)
		os.Exit(1)
	})
	defer l.Close()
	dir, err := os.MkdirTemp("", "bench-vip")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	f := lab.NewFailover(l, &r.FailoverCase, r.ipv6, dir)
	defer f.Close()
	if err := f.Talk(&r.FailoverCase); err != nil {
		return err
	}
	if !r.agent {
		if r.Says == "" {
			r.result = f.Run(&r.FailoverCase, patience)
		}
		return nil
	}
	cmd := f.Agent(&r.FailoverCase, agent)
	if err := f.Node.Start(cmd); err != nil {
		return fmt.Errorf("starting the agent (make build makes it): %w", err)
	}
	if !f.Watched(10 * time.Second) {
		return errors.Join(errors.New("the agent does not watch the VIP"), cmd.Process.Kill(), cmd.Wait())
	}
	if r.Says != "" {
		r.said = lab.Never
		f.Run(&r.FailoverCase, 0)
		if start := time.Now(); f.Says(f.Sample(&r.FailoverCase), patience) {
			r.said = time.Since(start)
		}
	} else {
		r.result = f.Run(&r.FailoverCase, patience)
		if r.Zombie {
			f.Hold(&r.result, 20*time.Second)
		}
	}
	return errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait())
}
