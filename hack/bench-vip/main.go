// Command bench-vip moves a control-plane VIP in every way that it can, with
// nothing announced, and shows how long a node takes to use the right holder:
// with the agent, and without. It runs in network namespaces and needs no root
// where user namespaces are allowed.
//
// With -docs it also writes the figures to DIR/pictures/failover.csv, from which
// hack/pictures draws, and the table into DIR/vip.md.
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/hack/markdown"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/hack/record"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

func main() {
	agent := flag.String("agent", "bin/arp-cache-cleaner", "path of the agent")
	patience := flag.Duration("for", time.Minute, "how long to wait for what may never happen")
	parallel := flag.Int("parallel", 4, "how many cases run at once")
	docs := flag.String("docs", "", "directory of the documents to write the figures into")
	flag.Parse()
	if err := errors.Join(lab.Enter(), bench(*agent, *patience, *parallel, *docs)); err != nil {
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

func bench(agent string, patience time.Duration, parallel int, docs string) error {
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
	var errs []error
	for _, r := range runs {
		errs = append(errs, r.err)
	}
	var text strings.Builder
	if err := errors.Join(append(errs, table(&text, runs, patience))...); err != nil {
		return err
	}
	fmt.Print(text.String())
	if docs == "" {
		return nil
	}
	return errors.Join(figures(runs, patience).Write(filepath.Join(docs, "pictures", "failover.csv")),
		splice(filepath.Join(docs, "vip.md"), "```\n"+text.String()+"```\n"))
}

// table prints one line for each case and family.
func table(out io.Writer, runs []*run, patience time.Duration) error {
	fmt.Fprintf(out, "Linux %s. Seconds from the moment the VIP moved, with nothing announced, until the node's\n"+
		"entry named the new holder, a new HTTPS connection was served there, a UDP datagram\n"+
		"arrived there, and the HTTPS client that was connected before was served there; -: not within %v.\n\n",
		record.Kernel(), patience)
	var columns strings.Builder
	w := tabwriter.NewWriter(&columns, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\t\twithout the agent\t\t\t\twith the agent")
	fmt.Fprintln(w, "case\tfamily\tentry\tconnect\tUDP\tTCP\tentry\tconnect\tUDP\tTCP\treported")
	for pair := range slices.Chunk(runs, 2) {
		without, with := pair[0], pair[1]
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", with.Name, with.family(), without.times(), with.times(), with.report())
	}
	err := w.Flush()
	for line := range strings.Lines(columns.String()) {
		fmt.Fprintln(out, strings.TrimRight(line, " \n"))
	}
	return err
}

func (r *run) family() string {
	if r.ipv6 {
		return "ipv6"
	}
	return "ipv4"
}

// figures are the times of the cases that can be repaired, in seconds.
func figures(runs []*run, patience time.Duration) *record.Record {
	rec := record.New("make bench-vip", "case", "family", "agent", "waited", "entry", "connect", "udp", "tcp")
	for _, r := range runs {
		if r.Says != "" {
			continue
		}
		row := []string{r.Name, r.family(), map[bool]string{true: "with", false: "without"}[r.agent], fmt.Sprint(patience.Seconds())}
		for _, s := range strings.Split(r.times(), "\t") {
			row = append(row, cmp.Or(map[string]string{"-": "never"}[s], s))
		}
		rec.Rows = append(rec.Rows, row)
	}
	return rec
}

// splice puts the table into a document.
func splice(file, table string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	out, err := markdown.Splice(string(text), "bench-vip", table)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return os.WriteFile(file, []byte(out), 0o644)
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
