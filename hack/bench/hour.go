package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

const (
	// flushEvery is how often others flush the whole table, for the same bound on
	// ages.
	flushEvery  = 300 * time.Second
	flushRounds = 11
	// backEvery is how often what was deleted comes back.
	backEvery = 30 * time.Second
	// slice is what the CPU time of an agent is measured over. It holds one of all
	// that the agent does once a minute.
	slice = time.Minute
	// warmUp leaves out what comes with a start: the VIP is found within half a minute.
	warmUp = 40 * time.Second
)

// hourSizes are the numbers of entries: of a node that is small, and of one that is
// large.
var hourSizes = []int{200, 10000}

// hourly is the CPU time that something takes in an hour.
type hourly struct {
	name string
	took []time.Duration
}

// hour measures what an hour costs: of the agent, with and without the watch over a
// VIP, and of flushing the whole table every 300 seconds.
func hour(ctx context.Context, agent string, d time.Duration) (err error) {
	if d < slice {
		return fmt.Errorf("-for: %v is shorter than %v", d, slice)
	}
	if err := lab.Enter(); err != nil {
		return err
	}
	limits, err := raiseLimits(2 * hourSizes[len(hourSizes)-1])
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, limits.restore()) }()
	n, err := newNode(limits)
	if err != nil {
		return err
	}
	defer n.close()
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	floor, _ := compileFloor(dir)

	describe(os.Stdout)
	fmt.Printf("CPU time an hour, that of the kernel included; what is deleted comes back every %v.\n"+
		"The agent's is the median of the minutes of %v, that of flushing of %d runs. ratio: to the first line.\n", backEvery, d, flushRounds)
	for _, size := range hourSizes {
		if size > limits.room() {
			fmt.Printf("\n%d entries: skipped, the kernel holds %d (gc_thresh), and only root may change that\n", size, limits.room())
			continue
		}
		if err := n.table.fill(size); err != nil {
			return err
		}
		all, err := n.hours(ctx, agent, floor, size, d)
		if err != nil {
			return fmt.Errorf("%d entries: %w", size, err)
		}
		if err := showHours(os.Stdout, all, size); err != nil {
			return err
		}
	}
	return nil
}

// hours measures everybody with a table of so many entries.
func (n *node) hours(ctx context.Context, agent, floor string, size int, d time.Duration) (all []hourly, err error) {
	flush, err := n.flushing(size)
	if err != nil {
		return nil, err
	}
	all = append(all, flush)
	floors, err := n.floors(floor)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, f := range floors {
			f.worker.close()
		}
	}()
	for _, a := range []struct {
		name string
		args []string
	}{
		{"arp-cache-cleaner, no VIP", []string{"--vip=none"}},
		{"arp-cache-cleaner, a VIP watched", nil},
	} {
		if err := n.table.refill(size); err != nil {
			return nil, err
		}
		p, err := run(ctx, n.host, agent, a.args...)
		if err != nil {
			return nil, err
		}
		took, err := p.slices(ctx, d, func() error {
			for _, f := range floors { // first: what was read a moment ago is read faster
				if err := f.work(); err != nil {
					return err
				}
			}
			return n.table.refill(size)
		})
		if err := errors.Join(err, p.stop()); err != nil {
			return nil, fmt.Errorf("%s: %w", a.name, err)
		}
		all = append(all, hourly{a.name, took})
	}
	for _, f := range floors {
		all = append(all, f.hourly)
	}
	return all, nil
}

// floorOf is a program that does no more than a part of what the agent does.
type floorOf struct {
	hourly
	worker *worker
	every  time.Duration // the time that its work stands for; 0: all since the last
	last   time.Time
}

// floors starts them, if they could be compiled.
func (n *node) floors(path string) (all []*floorOf, err error) {
	if path == "" {
		return nil, nil
	}
	for _, f := range []struct {
		what, does string
		every      time.Duration
	}{
		{fmt.Sprintf("C program that reads the table every %v", scanPeriod), "dump", scanPeriod},
		{"C program that wakes up every 2s", "wake", 0},
	} {
		w, err := start(n.host, path, f.does)
		if err != nil {
			return all, err
		}
		all = append(all, &floorOf{hourly{name: f.what}, w, f.every, time.Time{}})
	}
	return all, nil
}

// work has it work, and notes what that took, but for the first time.
func (f *floorOf) work() error {
	took, _, err := f.worker.work()
	now := time.Now()
	if err == nil && !f.last.IsZero() {
		f.took = append(f.took, time.Duration(float64(took)*float64(time.Hour)/float64(cmp.Or(f.every, now.Sub(f.last)))))
	}
	f.last = now
	return err
}

// flushing measures the flush of a table of so many entries.
func (n *node) flushing(size int) (hourly, error) {
	h := hourly{name: fmt.Sprintf("ip neigh flush all, every %v", flushEvery)}
	for range flushRounds {
		if err := n.table.refill(size); err != nil {
			return h, err
		}
		took, err := process(n.host, "ip", "neigh", "flush", "all")
		if err != nil {
			return h, fmt.Errorf("ip neigh flush all: %w", err)
		}
		h.took = append(h.took, took*(time.Hour/flushEvery))
	}
	return h, nil
}

// slices is the CPU time an hour, measured in slices while d passes. Every
// backEvery it calls back.
func (p *running) slices(ctx context.Context, d time.Duration, back func() error) (all []time.Duration, err error) {
	if err := sleep(ctx, warmUp); err != nil {
		return nil, err
	}
	before, err := p.cpu()
	if err != nil {
		return nil, err
	}
	for passed := backEvery; passed <= d; passed += backEvery {
		if err := errors.Join(back(), sleep(ctx, backEvery)); err != nil {
			return nil, err
		}
		if passed%slice != 0 {
			continue
		}
		after, err := p.cpu()
		if err != nil {
			return nil, err
		}
		all = append(all, (after-before)*(time.Hour/slice))
		before = after
	}
	return all, nil
}

// cpu is what all threads of the process have used, those included that have ended
// (clock_getcpuclockid(3)).
func (p *running) cpu() (time.Duration, error) {
	const cpuClockSched = 2 // CPUCLOCK_SCHED in include/linux/posix-timers_types.h
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^p.cmd.Process.Pid<<3|cpuClockSched), &t); err != nil {
		return 0, fmt.Errorf("the CPU time of the agent: %w", err)
	}
	return time.Duration(t.Nano()), nil
}

// showHours prints one table.
func showHours(out io.Writer, all []hourly, size int) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\nan hour, %d entries\tCPU\tratio\tspread\n", size)
	for _, h := range all {
		took := median(h.took)
		fmt.Fprintf(w, "%s\t%.2f s\t%.1f\t%.0f %%\n", h.name, took.Seconds(), float64(took)/float64(median(all[0].took)), spread(h.took))
	}
	return w.Flush()
}
