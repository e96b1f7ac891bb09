// Command bench measures what renewing, reading and exporting the neighbour
// table costs, side by side: by the agent, by the usual commands and libraries,
// and by a small C program that is the floor.
//
// It prints CPU time, that of the kernel included, as the median over several
// rounds in which the subjects take turns in random order. The entries live in
// a network namespace of its own. The kernel's limits on their number are the
// machine's, though: they are raised, which takes root, and put back at the end.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

func main() {
	work := flag.String("worker", "", "used by bench itself: the subject that this process is")
	agent := flag.String("agent", "bin/arp-cache-cleaner", "path of the agent")
	sizes := flag.String("sizes", "1000,10000,100000", "numbers of entries, ascending: the kernel's table never shrinks, so that a large one slows down every later dump until the machine is started again")
	rounds := flag.Int("rounds", 11, "measurements of each subject")
	only := flag.String("only", "", "measure only the groups of subjects whose name contains this")
	foot := flag.Bool("footprint", false, "measure memory, size and start of the agent instead")
	hours := flag.Bool("hour", false, "measure the CPU time of an hour instead")
	long := flag.Duration("for", 5*time.Minute, "with -hour: how long each agent is watched, whole minutes; there are four")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	// The agent is started in other namespaces: a path that cannot be mistaken.
	path, err := filepath.Abs(*agent)
	switch {
	case err != nil:
	case *work != "":
		err = serve(*work)
	case *foot:
		err = footprint(ctx, path)
	case *hours:
		err = hour(ctx, path, *long)
	default:
		err = compare(ctx, path, *sizes, *only, *rounds)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// compare measures the subjects side by side.
func compare(ctx context.Context, agent, list, only string, rounds int) (err error) {
	var sizes []int
	for s := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > maxEntries {
			return fmt.Errorf("-sizes: %q is no number from 1 to %d", s, maxEntries)
		}
		sizes = append(sizes, n)
	}
	slices.Sort(sizes)
	if err := lab.Enter(); err != nil {
		return err
	}
	limits, err := raiseLimits(2 * sizes[len(sizes)-1])
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, limits.restore()) }()
	failed := func(err error) {
		fmt.Fprintln(os.Stderr, "bench:", errors.Join(err, limits.restore()))
		os.Exit(1)
	}
	l := lab.New(failed)
	defer l.Close()
	// One namespace and nothing else: dumps walk the entries of all of them.
	h := l.Host("node")
	h.IP("link add eth0 type veth peer name peer0")
	h.IP("address add 10.255.255.254/8 dev eth0")
	h.IP("link set peer0 up")
	h.IP("link set eth0 up")
	h.IP("route add default via 10.255.255.1") // a node without a next hop is no node
	t, err := newTable(h, "eth0")
	if err != nil {
		return err
	}
	subjects, closeAll, err := newSubjects(h, agent)
	defer closeAll()
	if err != nil {
		return err
	}
	subjects = slices.DeleteFunc(subjects, func(s *subject) bool { return !strings.Contains(s.group, only) })
	describe(os.Stdout)
	fmt.Printf("CPU time, that of the kernel included: medians of %d rounds in shuffled order.\n"+
		"ratio: to the first line of the table. spread: between the quartiles. growth: of the cost of an entry, over the smallest size.\n", rounds)
	perEntry := make(map[string]time.Duration)
	for _, n := range sizes {
		if n > limits.room() {
			fmt.Printf("\n%d entries: skipped, the kernel holds %d (gc_thresh), and only root may change that\n", n, limits.room())
			continue
		}
		if err := measure(ctx, t, subjects, n, rounds); err != nil {
			return err
		}
		if err := show(os.Stdout, subjects, n, perEntry); err != nil {
			return err
		}
	}
	return nil
}

// measure takes every subject through the rounds with n idle entries.
func measure(ctx context.Context, t *table, subjects []*subject, n, rounds int) error {
	for _, s := range subjects {
		s.took = s.took[:0]
	}
	for round := range rounds + 1 { // the first warms up, and is not counted
		for _, i := range rand.Perm(len(subjects)) {
			s := subjects[i]
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := t.fill(n); err != nil {
				return err
			}
			took, err := s.measure(n)
			if err != nil {
				return fmt.Errorf("%s, %d entries: %w", s.name, n, err)
			}
			if s.renews {
				t.emptied()
			}
			if round > 0 {
				s.took = append(s.took, took)
			}
		}
		fmt.Fprint(os.Stderr, ".")
	}
	fmt.Fprintln(os.Stderr)
	return nil
}

// show prints one table for each group of subjects. The ratio is to the first
// of the group. perEntry holds the cost of an entry at the smallest size.
func show(out io.Writer, subjects []*subject, n int, perEntry map[string]time.Duration) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	group, base := "", time.Duration(0)
	for _, s := range subjects {
		took := median(s.took)
		if s.group != group {
			group, base = s.group, took
			fmt.Fprintf(w, "\n%s, %d entries\tCPU\tan entry\tratio\tspread\tgrowth\n", group, n)
		}
		each := took / time.Duration(n)
		key := s.group + s.name
		if perEntry[key] == 0 {
			perEntry[key] = each
		}
		fmt.Fprintf(w, "%s\t%.2f ms\t%d ns\t%.2f\t%.0f %%\t%.2f\n", s.name, float64(took)/1e6, each.Nanoseconds(),
			float64(took)/float64(base), spread(s.took), float64(each)/float64(perEntry[key]))
	}
	return w.Flush()
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return (d[(len(d)-1)/2] + d[len(d)/2]) / 2
}

// spread is the distance between the quartiles, in percent of the median.
func spread(d []time.Duration) float64 {
	d = slices.Sorted(slices.Values(d))
	return 100 * float64(d[(len(d)-1)*3/4]-d[(len(d)-1)/4]) / float64(median(d))
}

// describe says what the machine is.
func describe(w io.Writer) {
	release := strings.TrimSpace(readFile("/proc/sys/kernel/osrelease"))
	load, _, _ := strings.Cut(readFile("/proc/loadavg"), " ")
	fmt.Fprintf(w, "Linux %s, %s, %d CPUs (%s), load %s; %s\n", release, runtime.GOARCH,
		runtime.NumCPU(), cpuModel(), load, runtime.Version())
}

func readFile(path string) string {
	b, _ := os.ReadFile(path) // what cannot be read is left out
	return string(b)
}

func cpuModel() string {
	for line := range strings.Lines(readFile("/proc/cpuinfo")) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}
