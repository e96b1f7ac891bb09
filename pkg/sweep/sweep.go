// Package sweep is the agent's loop: dump the table, decide, act on what is
// due, report.
package sweep

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/report"
)

const (
	// batchSize and batchPause pace deletions to 20,000 a second. Each makes
	// two notifications; without a pause, 10,000 of them overrun the socket
	// buffers of whoever listens to the table (`ip monitor`, CNI agents).
	batchSize  = 200
	batchPause = 10 * time.Millisecond

	// passLimit bounds what is done on one dump, so that no decision is older
	// than the 100 ms its pass takes. What is left over is dumped afresh.
	passLimit = 2000

	// dumpTries is how often a dump that was cut short is repeated at once.
	dumpTries = 3

	// topologyAge bounds how old the view of devices and routes may be.
	topologyAge = 30 * time.Second
)

// Table is the kernel's neighbour table.
type Table interface {
	Dump(visit func(*neigh.Entry)) error
	Get(k neigh.Key) (neigh.Entry, error)
	Delete(keys []neigh.Key) ([]neigh.Failure, error)
	SetState(k neigh.Key, s neigh.State) error
	Use(k neigh.Key) error
	Topology() (neigh.Topology, error)
}

// Verifier has an entry verified in place: it is asked for afresh and stays
// usable meanwhile.
type Verifier interface {
	Verify(e *neigh.Entry, link *neigh.Link, nextHop bool) (Method, error)
}

// Result is what came of a renewal.
type Result string

// The results.
const (
	OK      Result = "ok"
	Gone    Result = "gone"    // the entry or its device had vanished meanwhile
	Changed Result = "changed" // read again, the entry called for another verdict
	Failed  Result = "failed"  // the kernel refused
)

// Results lists all results.
var Results = [...]Result{OK, Gone, Changed, Failed}

// Events are called as things happen, from the goroutine that sweeps. Nil ones
// are skipped.
type Events struct {
	// Scanned follows every scan. A nil error means that the whole table was
	// read and that everything due was dealt with.
	Scanned func(took time.Duration, err error)
	// Renewed follows every attempt to renew an entry, with the greatest of its
	// used, updated and resolved ages.
	Renewed func(device string, m Method, r Result, age time.Duration)
	// Corrected follows when a renewed entry is seen with another link-layer
	// address than before.
	Corrected func(device string)
}

// Config is what a Sweeper needs. Table, Verifier and Log are required.
type Config struct {
	Table      Table
	Verifier   Verifier
	Scope      *policy.Scope
	Timing     policy.Timing
	ScanPeriod time.Duration
	DryRun     bool // decide and report, change nothing
	PerEntry   int  // how many entries beside next hops are reported one by one
	Events     Events
	Log        *slog.Logger
}

// Sweeper renews the learned entries of one table.
type Sweeper struct {
	cfg    Config
	clocks *clocks
	first  bool // the first complete scan is still to come
	random func() float64

	topology   neigh.Topology
	topologyAt time.Time // zero: read it again

	report atomic.Pointer[report.Report]
	status atomic.Pointer[status]
	failed string // the error logged last

	// What the last scan found due, and scratch space; reused from scan to scan.
	verifies, deletes []task
	keys              []neigh.Key
}

// status is the outcome of the last scan.
type status struct {
	at  time.Time
	err error
}

// task is one entry that is due.
type task struct {
	entry   neigh.Entry
	link    neigh.Link
	age     time.Duration
	nextHop bool
}

// New returns a Sweeper. It starts nothing.
func New(cfg Config) *Sweeper {
	return &Sweeper{cfg: cfg, first: true, random: rand.Float64}
}

var errNoScan = errors.New("the table has not been scanned yet")

// Ready returns nil if the last scan succeeded, and why not otherwise.
func (s *Sweeper) Ready() error {
	st := s.status.Load()
	if st == nil {
		return errNoScan
	}
	return st.err
}

// Live returns an error if no scan has ended for longer than a scan may take.
// A scan that fails still counts: it is the loop that must turn.
func (s *Sweeper) Live(now time.Time) error {
	st := s.status.Load()
	if st == nil {
		return nil // the first scan is bounded by the timeouts of the socket
	}
	limit := max(10*s.cfg.ScanPeriod, time.Minute)
	if since := now.Sub(st.at); since > limit {
		return fmt.Errorf("no scan has ended for %v, the limit is %v", since.Round(time.Second), limit)
	}
	return nil
}

// Report returns what the last complete scan saw, nil before the first.
func (s *Sweeper) Report() *report.Report { return s.report.Load() }

// Run sweeps until ctx is done, and returns nil then. Failures are reported
// and the next scan tries again.
func (s *Sweeper) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		if ctx.Err() != nil { // select takes either where both are ready
			return nil
		}
		if s.pass(ctx) {
			timer.Reset(batchPause)
		} else {
			timer.Reset(s.cfg.ScanPeriod)
		}
	}
}

// Summary counts what Once did.
type Summary struct {
	Entries  int // entries in the table
	Kept     int // left alone, or being verified by the kernel already
	Deleted  int
	Verified int
	Gone     int // vanished, or changed, before they were reached
	Failed   int
}

// String returns the summary in one line.
func (s Summary) String() string {
	return fmt.Sprintf("entries %d, kept %d, deleted %d, verified in place %d, gone meanwhile %d, failed %d",
		s.Entries, s.Kept, s.Deleted, s.Verified, s.Gone, s.Failed)
}

// Once renews everything the policy allows, whatever its age. In a dry run it
// counts what it would have done. The error says what failed first.
func (s *Sweeper) Once(ctx context.Context) (Summary, error) {
	// What is in NUD_PROBE is being renewed by the kernel already.
	err := s.scan(func(e *neigh.Entry, _ time.Duration) bool { return e.State != neigh.Probe }, false)
	var sum Summary
	if r := s.report.Load(); r != nil {
		for _, d := range r.Devices {
			for _, f := range d.Families {
				for _, n := range f.States {
					sum.Entries += n
				}
			}
		}
		sum.Kept = sum.Entries - len(s.verifies) - len(s.deletes)
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return sum, err
	}
	if s.cfg.DryRun {
		sum.Verified, sum.Deleted = len(s.verifies), len(s.deletes)
		return sum, nil
	}
	return sum, s.act(ctx, s.verifies, s.deletes, 0, func(m Method, r Result) {
		switch {
		case r == Failed:
			sum.Failed++
		case r != OK:
			sum.Gone++
		case m == ByDelete:
			sum.Deleted++
		default:
			sum.Verified++
		}
	})
}

// pass scans and acts, and says whether there is more to do at once.
func (s *Sweeper) pass(ctx context.Context) (more bool) {
	start := time.Now()
	err := s.scan(s.cfg.Timing.Due, true)
	took := time.Since(start)
	if err == nil && !s.cfg.DryRun {
		verifies := s.verifies[:min(len(s.verifies), passLimit)]
		deletes := s.deletes[:min(len(s.deletes), passLimit)]
		more = len(verifies)+len(deletes) < len(s.verifies)+len(s.deletes)
		err = s.act(ctx, verifies, deletes, batchPause, func(Method, Result) {})
	}
	s.status.Store(&status{at: time.Now(), err: err})
	if s.cfg.Events.Scanned != nil {
		s.cfg.Events.Scanned(took, err)
	}
	s.logFailure(err)
	return more && err == nil
}

// logFailure logs an error when it appears and when it is over, not while it
// lasts.
func (s *Sweeper) logFailure(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text == s.failed {
		return
	}
	s.failed = text
	if err != nil {
		s.cfg.Log.Warn("scan failed, trying again", "err", err)
	} else {
		s.cfg.Log.Info("scan succeeded again")
	}
}

// scan reads the table, moves the clocks, publishes a report, and leaves in
// s.verifies and s.deletes what isDue picks. spread puts off what is first seen by the first scan.
func (s *Sweeper) scan(isDue func(*neigh.Entry, time.Duration) bool, spread bool) error {
	if s.clocks == nil {
		s.clocks = newClocks(time.Now())
	}
	var err error
	for range dumpTries {
		if err = s.look(isDue, spread); !errors.Is(err, neigh.ErrInterrupted) && !errors.Is(err, neigh.ErrOverrun) {
			return err
		}
	}
	return err
}

func (s *Sweeper) look(isDue func(*neigh.Entry, time.Duration) bool, spread bool) error {
	now := time.Now()
	s.verifies, s.deletes = s.verifies[:0], s.deletes[:0]
	if now.Sub(s.topologyAt) >= min(topologyAge, s.cfg.Timing.Interval/10) {
		topology, err := s.cfg.Table.Topology()
		if err != nil {
			return err
		}
		s.topology, s.topologyAt = topology, now
	}
	early := func(time.Duration) time.Duration { return 0 }
	if spread && s.first {
		early = func(age time.Duration) time.Duration {
			return time.Duration(s.random() * float64(max(0, s.cfg.Timing.Threshold()-age)))
		}
	}
	s.clocks.begin()
	r := report.NewBuilder(now, s.cfg.PerEntry)
	err := s.cfg.Table.Dump(func(e *neigh.Entry) {
		link := s.topology.Links[e.Index]
		isDefault, nextHop := s.topology.NextHops[e.Key]
		verdict := s.cfg.Scope.Decide(e, &link, nextHop)
		if verdict.Reason == policy.UnknownDevice {
			s.topologyAt = time.Time{} // a device newer than the snapshot
		}
		if verdict.Reason.Foreign() || verdict.Reason == policy.Resolving {
			r.Add(e, &link, verdict, nil, nextHop, isDefault)
			return
		}
		age, dueAge, corrected := s.clocks.see(e, now, early)
		if corrected && s.cfg.Events.Corrected != nil {
			s.cfg.Events.Corrected(report.DeviceName(&link))
		}
		ages := neigh.Ages{neigh.Used: e.Used, neigh.Confirmed: e.Confirmed, neigh.Updated: e.Updated, neigh.Resolved: age}
		r.Add(e, &link, verdict, &ages, nextHop, isDefault)
		if verdict.Action == policy.Keep || !isDue(e, dueAge) {
			return
		}
		t := task{entry: *e, link: link, age: max(e.Used, e.Updated, age), nextHop: nextHop}
		if verdict.Action == policy.Delete {
			s.deletes = append(s.deletes, t)
		} else {
			s.verifies = append(s.verifies, t)
		}
	})
	if err != nil {
		return err
	}
	s.clocks.end(now, s.cfg.Timing.Interval)
	s.first = false
	s.report.Store(r.Finish())
	return nil
}

// act carries out what is due: verifications, which are few and urgent, then
// deletions in batches with a pause after each. It stops between two steps when
// ctx is done. It returns the first failure.
func (s *Sweeper) act(ctx context.Context, verifies, deletes []task, pause time.Duration, tally func(Method, Result)) error {
	var first error
	done := func(t *task, m Method, err error) {
		r := s.settle(t, m, err)
		tally(m, r)
		if r == Failed && first == nil {
			first = err
		}
	}
	for i := range verifies {
		if ctx.Err() != nil {
			return first
		}
		t := &verifies[i]
		m, err := s.cfg.Verifier.Verify(&t.entry, &t.link, t.nextHop)
		done(t, m, err)
	}
	for batch := range slices.Chunk(deletes, batchSize) {
		if ctx.Err() != nil {
			return first
		}
		if err := s.delete(batch, done); err != nil {
			return err
		}
		if !sleep(ctx, pause) {
			return first
		}
	}
	return first
}

// delete removes one batch. An error means that what became of it is unknown;
// the next scan shows.
func (s *Sweeper) delete(batch []task, done func(*task, Method, error)) error {
	s.keys = s.keys[:0]
	for i := range batch {
		s.keys = append(s.keys, batch[i].entry.Key)
	}
	failed, err := s.cfg.Table.Delete(s.keys)
	if err != nil {
		return err
	}
	for i := range batch {
		var err error
		if len(failed) > 0 && failed[0].Key == batch[i].entry.Key { // in the order of the batch
			err, failed = failed[0].Err, failed[1:]
		}
		done(&batch[i], ByDelete, err)
	}
	return nil
}

// settle records what came of one renewal.
func (s *Sweeper) settle(t *task, m Method, err error) Result {
	r := Failed
	switch {
	case err == nil:
		r = OK
		s.clocks.renewed(t.entry.Key, time.Now())
	case errors.Is(err, neigh.ErrGone):
		r = Gone
	case errors.Is(err, errChanged), errors.Is(err, neigh.ErrNoAddress):
		r = Changed
	}
	if s.cfg.Events.Renewed != nil {
		s.cfg.Events.Renewed(report.DeviceName(&t.link), m, r, t.age)
	}
	if s.cfg.Log.Enabled(context.Background(), slog.LevelDebug) {
		s.cfg.Log.Debug("renewal", "address", t.entry.Addr, "device", t.link.Name, "lladdr", t.entry.LLAddr,
			"state", t.entry.State, "age", t.age, "method", m, "result", r, "err", err)
	}
	return r
}

// sleep waits for d. It reports false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	if d == 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
