package main

import (
	"bufio"
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

// subject is one way to do one thing.
type subject struct {
	group, name string
	renews      bool // it deletes the entries
	measure     func(n int) (cpu time.Duration, err error)
	took        []time.Duration
}

// The groups.
const (
	renewal = "renew idle entries"
	paced   = "renew idle entries, 200 every 10 ms"
	reading = "read the table"
	scrape  = "scrape"
)

var groups = []string{renewal, paced, reading, scrape}

//go:embed floor/floor.c
var floorSource []byte

// newSubjects starts what is measured from inside, each in a process of its own.
func newSubjects(h *lab.Host, agent string) (subjects []*subject, closeAll func(), err error) {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, func() {}, err
	}
	var workers []*worker
	closeAll = func() {
		for _, w := range workers {
			w.close()
		}
		_ = os.RemoveAll(dir)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, closeAll, err
	}
	add := func(group, name string, measure func(int) (time.Duration, error)) {
		subjects = append(subjects, &subject{group: group, name: name, renews: group == renewal || group == paced, measure: measure})
	}
	inside := func(group, name string, path string, args ...string) {
		w, startErr := start(h, path, args...)
		if startErr != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", name, startErr))
			return
		}
		workers = append(workers, w)
		add(group, name, w.measure)
	}
	whole := func(group, name string, path string, args ...string) {
		add(group, name+", whole process", func(int) (time.Duration, error) { return process(h, path, args...) })
	}
	floor, hasFloor := compileFloor(dir)
	if hasFloor {
		inside(renewal, "C floor", floor, "renew")
		inside(paced, "C floor", floor, "paced")
		inside(reading, "C floor", floor, "dump")
	}
	inside(renewal, "arp-cache-cleaner", self, "-worker=renew")
	whole(renewal, "arp-cache-cleaner --once", agent, "--once")
	whole(renewal, "ip neigh flush all", "ip", "neigh", "flush", "all")
	inside(renewal, "NeighList, Handle.NeighDel", self, "-worker=neighdel")
	inside(paced, "arp-cache-cleaner", self, "-worker=paced")
	inside(reading, "arp-cache-cleaner", self, "-worker=scan")
	whole(reading, "ip -s neigh show", "ip", "-s", "neigh", "show")
	inside(reading, "NeighList", self, "-worker=neighlist")
	inside(scrape, "arp-cache-cleaner", self, "-worker=scrape")
	inside(scrape, "node_exporter's ARP collector", self, "-worker=nodeexporter")
	slices.SortStableFunc(subjects, func(a, b *subject) int {
		return cmp.Compare(slices.Index(groups, a.group), slices.Index(groups, b.group))
	})
	return subjects, closeAll, err
}

func compileFloor(dir string) (path string, ok bool) {
	source, path := filepath.Join(dir, "floor.c"), filepath.Join(dir, "floor")
	err := os.WriteFile(source, floorSource, 0o600)
	if err == nil {
		var out []byte
		if out, err = exec.Command("cc", "-O2", "-o", path, source).CombinedOutput(); err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: the C floor is left out:", err)
	}
	return path, err == nil
}

// process runs a command and returns the CPU time of the whole process.
func process(h *lab.Host, path string, args ...string) (time.Duration, error) {
	cmd := exec.Command(path, args...)
	var errOut strings.Builder
	cmd.Stderr = &errOut // standard output goes to /dev/null
	if err := h.Start(cmd); err != nil {
		return 0, err
	}
	if err := cmd.Wait(); err != nil {
		return 0, fmt.Errorf("%w: %s", err, errOut.String())
	}
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), nil
}

// worker is a process that does its work once for each line it is sent, and
// answers with the CPU time that took and the number of entries it dealt with.
type worker struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func start(h *lab.Host, path string, args ...string) (*worker, error) {
	w := &worker{cmd: exec.Command(path, args...)}
	w.cmd.Stderr = os.Stderr
	var err error
	if w.in, err = w.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	w.out = bufio.NewReader(out)
	return w, h.Start(w.cmd)
}

// work returns the CPU time and the number of entries.
func (w *worker) work() (cpu time.Duration, dealt int, err error) {
	if _, err := fmt.Fprintln(w.in); err != nil {
		return 0, 0, err
	}
	if _, err := fmt.Fscanln(w.out, &cpu, &dealt); err != nil {
		return 0, 0, fmt.Errorf("no result: %w", err)
	}
	return cpu, dealt, nil
}

// measure is work on n entries.
func (w *worker) measure(n int) (time.Duration, error) {
	cpu, dealt, err := w.work()
	if err != nil {
		return 0, err
	}
	// The kernel adds a few of its own, for multicast, and a dump may miss some
	// while other namespaces' entries go.
	if dealt < n-n/100 || dealt > n+100 {
		return 0, fmt.Errorf("dealt with %d entries of %d", dealt, n)
	}
	return cpu, nil
}

func (w *worker) close() {
	_ = w.in.Close()
	_ = w.cmd.Wait()
}
