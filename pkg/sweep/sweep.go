// Package sweep is the agent's loop: dump the table, decide, act on what is
// due, report.
package sweep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/report"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/shield"
)

const (
	// batchSize and batchPause pace deletions to 20,000 a second. Each makes
	// two notifications; without a pause, 10,000 of them overrun the socket
	// buffers of whoever listens to the table (`ip monitor`, CNI agents).
	batchSize  = 200
	batchPause = 10 * time.Millisecond

	// passLimit bounds how many entries are verified because of one dump. The rest is
	// left to the next.
	passLimit = 2000

	// freshFor is how old the part of a dump may be that a deletion is decided
	// on. After that the entry is read again first: somebody may have pinned it.
	freshFor = 20 * time.Millisecond

	// calmPeriods is how many scan periods lie between two scans while nothing may have
	// to be verified before the second. The lead has room for three: one in which an entry
	// becomes due, and two to verify it and to find out what came of that. What is idle
	// needs one or two, because it is deleted at once, and leaves one for a scan that fails.
	calmPeriods = 2

	// dumpTries is how often a dump that was cut short is repeated at once.
	dumpTries = 3

	// startSpread is the time over which verifications that are overdue at start
	// are spread.
	startSpread = 3 * time.Second
)

// Table is the kernel's neighbour table.
type Table interface {
	DumpParts(visit func(*neigh.Entry), part func(since time.Time)) error
	Get(k neigh.Key) (neigh.Entry, error)
	GetAll(keys []neigh.Key, visit func(*neigh.Entry)) error
	Delete(keys []neigh.Key) ([]neigh.Failure, error)
	SetState(k neigh.Key, s neigh.State) error
	Use(k neigh.Key) error
	Give(k neigh.Key, lladdr neigh.LLAddr, flags neigh.Flags) error
	Topology() (neigh.Topology, error)
}

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
	// Missed, if not nil, returns the total time that time.Now has not counted,
	// because the machine was suspended.
	Missed func() time.Duration
	// Pace, if not nil, is told after each scan how many solicitations a second an
	// uplink needs for its entries to be renewed in time.
	Pace   func(device int, perSecond float64)
	Events Events
	Log    *slog.Logger
}

// Sweeper renews the learned entries of one table.
type Sweeper struct {
	cfg    Config
	clocks *clocks
	random func() float64 // where in the first interval an entry is due
	phase  func() float64 // where in the first scan period the second scan begins

	around surroundings

	report atomic.Pointer[report.Report]
	status atomic.Pointer[status]
	failed failure // logged last
	diary  report.Diary

	found    found
	loads    map[int]*load // by uplink
	contests map[neigh.Key]*shield.Contest
	inFlight map[neigh.Key]struct{} // handed to the Verifier, and not recorded yet

	watched func() []neigh.Key // what somebody else renews; nil: nothing

	inbox inbox
}

// found is what the scan has found due. It is reused from scan to scan.
type found struct {
	verifies    []Job       // not handed to the Verifier yet
	deletes     []Job       // until they make a batch
	keys        []neigh.Key // of a batch of them
	idle, inUse int         // how many of either there were in the whole table
	soon        bool        // something may have to be verified before the next scan but one
}

// status is the outcome of the last scan, errNoScan since the start before the first.
type status struct {
	at  time.Time
	err error
}

// New returns a Sweeper. It starts nothing.
func New(cfg Config) *Sweeper {
	now := time.Now()
	s := &Sweeper{
		cfg: cfg, random: evenly(rand.Float64()), phase: rand.Float64, clocks: newClocks(now), //nolint:gosec // nothing to guess
		loads: make(map[int]*load), contests: make(map[neigh.Key]*shield.Contest), inFlight: make(map[neigh.Key]struct{}),
		diary: report.NewDiary(),
	}
	s.status.Store(&status{at: now, err: errNoScan})
	return s
}

var errNoScan = errors.New("the table has not been scanned yet")

// Ready returns nil if the last scan succeeded and was not long ago, and why not
// otherwise.
func (s *Sweeper) Ready(now time.Time) error {
	st := s.status.Load()
	since, limit := now.Sub(st.at), max(3*s.cfg.ScanPeriod, 10*time.Second)
	if since > limit && !errors.Is(st.err, errNoScan) {
		return fmt.Errorf("the last scan ended %v ago, the limit is %v", since.Round(time.Second), limit)
	}
	return st.err
}

// Live returns an error if no scan has ended for longer than a scan may take.
// A scan that fails still counts: it is the loop that must turn.
func (s *Sweeper) Live(now time.Time) error {
	since := now.Sub(s.status.Load().at)
	if limit := max(5*s.cfg.ScanPeriod, time.Minute); since > limit {
		return fmt.Errorf("no scan has ended for %v, the limit is %v", since.Round(time.Second), limit)
	}
	return nil
}

// LeaveTo leaves the few entries that claims returns to their owner, which calls
// Renewed whenever it has had one asked for afresh. Call it before Run.
func (s *Sweeper) LeaveTo(claims func() []neigh.Key) { s.watched = claims }

// Renewed restarts the clock of an entry that its owner has had asked for afresh.
func (s *Sweeper) Renewed(k neigh.Key, at time.Time) { s.inbox.addRenewed(k, at) }

// Report returns what the last complete scan saw, nil before the first.
func (s *Sweeper) Report() *report.Report { return s.report.Load() }

// Run sweeps until ctx is done, and returns nil then. Failures are reported
// and the next scan tries again.
func (s *Sweeper) Run(ctx context.Context) error {
	defer func() {
		s.cfg.Verifier.Wait()
		(&actor{Sweeper: s}).recordAll()
	}()
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
		timer.Reset(s.pass(ctx))
	}
}

// starting reports whether the first complete scan is still to come.
func (s *Sweeper) starting() bool { return s.Report() == nil }

// evenly returns a function whose results, in [0, 1), lie as evenly apart as they
// can however many they are: each is a golden section further than the one before.
func evenly(from float64) func() float64 {
	return func() float64 {
		from = math.Mod(from+math.Phi, 1)
		return from
	}
}

// pass scans and acts, and returns the time until the next one.
func (s *Sweeper) pass(ctx context.Context) time.Duration {
	start, starting := time.Now(), s.starting()
	a := actor{Sweeper: s}
	if !s.cfg.DryRun {
		a.deletes, a.verifies = s.deleteLimit(), passLimit
	}
	a.recordAll()
	err := s.scan(ctx, &a)
	took := time.Since(start) - a.took
	if err == nil {
		a.verify(ctx)
		a.recordAll()
	}
	err = cmp.Or(err, a.err)
	s.status.Store(&status{at: time.Now(), err: err})
	if s.cfg.Events.Scanned != nil {
		s.cfg.Events.Scanned(took, err)
	}
	s.logFailure(err)
	switch {
	case a.more && !s.cfg.DryRun && err == nil:
		return batchPause
	case starting: // nodes that start together do not scan together
		return time.Duration(s.phase() * float64(s.cfg.ScanPeriod))
	case err == nil && !s.found.soon:
		return calmPeriods * s.cfg.ScanPeriod
	}
	return s.cfg.ScanPeriod
}

// deleteLimit is how many entries a pass may delete: what the pace allows in a
// quarter of the lead, so that what changes meanwhile is seen in time.
func (s *Sweeper) deleteLimit() int {
	return max(passLimit, int(s.cfg.Timing.Lead/4/batchPause)*batchSize)
}

// failure is one that was logged; the zero value is none.
type failure struct {
	text string
	at   time.Time
}

// logEvery bounds how often a failure is logged that is a different one each time.
const logEvery = time.Minute

// logFailure logs an error when it appears and when it is over, not while it
// lasts.
func (s *Sweeper) logFailure(err error) {
	now := time.Now()
	switch last := s.failed; {
	case err == nil && last.text != "":
		s.failed = failure{}
		s.cfg.Log.Info("scan succeeded again")
	case err != nil && err.Error() != last.text && now.Sub(last.at) >= logEvery:
		s.failed = failure{err.Error(), now}
		s.cfg.Log.Warn("scan failed, trying again", "err", err)
	}
}
