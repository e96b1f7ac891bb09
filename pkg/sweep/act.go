package sweep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/pace"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/report"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/shield"
)

// Result is what came of a renewal.
type Result string

// The results.
const (
	OK         Result = "ok"
	Unanswered Result = "unanswered" // asked for by broadcast three times, and nobody answered
	Undecided  Result = "undecided"  // the same, and others answered, but not one alone each time
	Gone       Result = "gone"       // the entry or its device had vanished meanwhile
	Changed    Result = "changed"    // read again, the entry called for another verdict
	Failed     Result = "failed"     // the kernel refused
)

// ignore is for those who do not count results.
func ignore(Method, Result) {}

// handOver is how long entries in use wait, at most, while idle ones are deleted
// as the table is being read. They are handed over many at a time, so that they
// are asked for many at a time.
const handOver = time.Second

// actor acts on what a scan finds due, while the scan goes on.
type actor struct {
	s       *Sweeper
	tally   func(Method, Result)
	loops   bool          // it is not the only one: something may be left to the next, or be put off
	forgets bool          // keep no clocks of what is deleted: nobody will look
	pause   time.Duration // after each batch of deletions but the last
	// How many more entries it may delete, and have verified.
	deletes, verifies int

	since   time.Time     // when the oldest was read of what waits to be deleted
	handed  time.Time     // when entries were last handed to the Verifier
	more    bool          // something is left to the next scan
	took    time.Duration // all in all
	err     error         // the first failure
	stopped bool          // by a failure after which it is unknown what was deleted
}

// part deletes what is idle while the table is being read, a batch at a time. The part
// that was read last stood as it is at since.
func (a *actor) part(ctx context.Context, since time.Time) {
	if a.since.IsZero() && len(a.s.found.deletes) > 0 {
		a.since = since
	}
	for len(a.s.found.deletes) >= batchSize {
		a.delete(ctx, batchSize, a.pause)
		a.since = since // what is left is of this part
	}
	if len(a.s.found.deletes) == 0 {
		a.since = time.Time{}
	}
}

// end deletes what is left when the table has been read.
func (a *actor) end(ctx context.Context) {
	if n := len(a.s.found.deletes); n > 0 {
		a.delete(ctx, n, 0)
	}
}

// delete deletes the first n of what waits for it, a batch at most, and pauses.
func (a *actor) delete(ctx context.Context, n int, pause time.Duration) {
	start := time.Now()
	if start.Sub(a.handed) >= handOver {
		a.verify(ctx)
	}
	waiting := a.s.found.deletes
	allowed := min(n, a.deletes)
	a.more = a.more || allowed < n
	a.deletes -= allowed
	if allowed > 0 && !a.stopped && ctx.Err() == nil {
		if err := a.s.delete(waiting[:allowed], a.since, a.tally, &a.err); err != nil {
			a.err, a.stopped = cmp.Or(a.err, err), true
		} else if pause > 0 {
			pace.Sleep(ctx, pause)
		}
	}
	a.s.found.deletes = waiting[:copy(waiting, waiting[n:])]
	a.took += time.Since(start)
}

// verify has those in use verified that have been found by now.
func (a *actor) verify(ctx context.Context) {
	jobs := a.s.found.verifies
	if a.loops {
		jobs = a.s.ration(jobs)
	}
	n := min(len(jobs), a.verifies)
	a.more = a.more || n < len(jobs)
	a.verifies -= n
	if n > 0 {
		a.s.verify(ctx, slices.Clone(jobs[:n]))
	}
	a.s.found.verifies = a.s.found.verifies[:0]
	a.handed = time.Now()
}

// verify hands jobs, which it keeps, to the Verifier.
func (s *Sweeper) verify(ctx context.Context, jobs []Job) {
	now := time.Now()
	for i := range jobs {
		s.clocks.ask(s.clocks.find(&jobs[i].Entry.Key), now)
		s.inFlight[jobs[i].Entry.Key] = struct{}{}
	}
	s.cfg.Verifier.Verify(ctx, jobs, func(j *Job, o Outcome) { s.inbox.addOutcome(outcome{o, *j, time.Now()}) })
}

// recordAll records the outcomes reported so far, and returns the first
// failure among them.
func (s *Sweeper) recordAll(tally func(Method, Result)) (first error) {
	outcomes := s.inbox.takeOutcomes()
	for i := range outcomes {
		o := &outcomes[i]
		if o.Late {
			s.noteHolders(&o.job, o.Holders)
			continue
		}
		delete(s.inFlight, o.job.Entry.Key)
		r := s.record(&o.job, o.Method, o.Err, o.at)
		tally(o.Method, r)
		if r == Failed && first == nil {
			first = o.Err
		}
		s.noteHolders(&o.job, o.Holders)
	}
	return first
}

// noteHolders logs when several holders answer for an entry, once for each set
// of them: a host with two interfaces on the segment does so for ever.
func (s *Sweeper) noteHolders(j *Job, holders []neigh.LLAddr) {
	if len(holders) == 0 {
		return // not asked, or not answered: nothing new
	}
	c, known := s.contests[j.Entry.Key]
	if !known {
		c = new(shield.Contest)
	}
	log := s.cfg.Log.With("address", j.Entry.Addr, "device", j.Link.Name)
	switch c.Answered(holders) {
	case shield.Several:
		s.contests[j.Entry.Key] = c
		log.Warn("several holders answer", "lladdrs", c.Holders())
	case shield.OneAgain:
		delete(s.contests, j.Entry.Key)
		log.Info("one holder answers again", "lladdr", holders[0])
	}
}

// delete removes one batch, which stood as it is since then. An error means that
// what became of it is unknown; the next scan shows.
func (s *Sweeper) delete(batch []Job, since time.Time, tally func(Method, Result), first *error) error {
	if time.Since(since) > freshFor {
		var err error
		if batch, err = s.stillIdle(batch, tally); err != nil {
			return err
		}
	}
	s.found.keys = s.found.keys[:0]
	for i := range batch {
		s.found.keys = append(s.found.keys, batch[i].Entry.Key)
	}
	failed, err := s.cfg.Table.Delete(s.found.keys)
	if err != nil {
		return err
	}
	now := time.Now()
	for i := range batch {
		var err error
		if len(failed) > 0 && failed[0].Key == batch[i].Entry.Key { // in the order of the batch
			err, failed = failed[0].Err, failed[1:]
		}
		r := s.record(&batch[i], ByDelete, err, now)
		tally(ByDelete, r)
		if r == Failed && *first == nil {
			*first = fmt.Errorf("deleting entry %s on %s: %w", batch[i].Entry.Addr, batch[i].Link.Name, err)
		}
	}
	return nil
}

// stillIdle reads a batch again and returns the jobs that are still to be
// deleted.
func (s *Sweeper) stillIdle(batch []Job, tally func(Method, Result)) ([]Job, error) {
	jobs := make(map[neigh.Key]*Job, len(batch))
	s.found.keys = s.found.keys[:0]
	for i := range batch {
		jobs[batch[i].Entry.Key] = &batch[i]
		s.found.keys = append(s.found.keys, batch[i].Entry.Key)
	}
	idle := make([]Job, 0, len(batch))
	err := s.cfg.Table.GetAll(s.found.keys, func(e *neigh.Entry) {
		j := jobs[e.Key]
		if j == nil {
			return
		}
		delete(jobs, e.Key)
		if s.cfg.Scope.Decide(e, &j.Link, j.NextHop) == s.cfg.Scope.Decide(&j.Entry, &j.Link, j.NextHop) {
			idle = append(idle, *j)
		} else {
			tally(ByDelete, s.record(j, ByDelete, errChanged, time.Now()))
		}
	})
	if err != nil {
		return nil, err
	}
	for _, j := range jobs {
		tally(ByDelete, s.record(j, ByDelete, neigh.ErrGone, time.Now()))
	}
	return idle, nil
}

// record notes what came of one renewal.
func (s *Sweeper) record(j *Job, m Method, err error, at time.Time) Result {
	r := Failed
	switch {
	case err == nil:
		r = OK
	case errors.Is(err, errUnanswered):
		r = Unanswered
	case errors.Is(err, errUndecided):
		r = Undecided
	case errors.Is(err, neigh.ErrGone):
		r = Gone
	case errors.Is(err, errChanged), errors.Is(err, neigh.ErrNoAddress):
		r = Changed
	}
	clock := s.clocks.find(&j.Entry.Key)
	if clock != nil {
		clock.method = m
	}
	if m == ByDelete && r == OK {
		s.clocks.ask(clock, at)
	}
	if r == OK || r == Unanswered || r == Undecided { // in any case way it was asked for afresh
		s.clocks.renewed(clock, at)
		s.putApart(clock, j)
	} else if clock != nil {
		clock.pending = false // nobody waits for its answer
	}
	if s.cfg.Events.Renewed != nil {
		s.cfg.Events.Renewed(report.DeviceName(&j.Link), m, r, j.age)
	}
	if s.cfg.Log.Enabled(context.Background(), slog.LevelDebug) {
		s.cfg.Log.Debug("renewal", "address", j.Entry.Addr, "device", j.Link.Name, "lladdr", j.Entry.LLAddr,
			"state", j.Entry.State, "age", j.age, "method", m, "result", r, "err", err)
	}
	return r
}
