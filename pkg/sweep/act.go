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

// handOver is how long entries in use wait, at most, while idle ones are deleted
// as the table is being read. They are handed over many at a time, so that they
// are asked for many at a time.
const handOver = time.Second

// actor acts on what a scan finds due, while the scan goes on.
type actor struct {
	*Sweeper
	once bool // everything is renewed, whatever its age, and there is no scan after this one
	// How many more entries it may delete, and have verified.
	deletes, verifies int

	sum     Summary       // of what came of renewals
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
	if a.since.IsZero() && len(a.found.deletes) > 0 {
		a.since = since
	}
	for len(a.found.deletes) >= batchSize {
		a.delete(ctx, batchSize)
		a.since = since // what is left is of this part
	}
	if len(a.found.deletes) == 0 {
		a.since = time.Time{}
	}
}

// end deletes what is left when the table has been read.
func (a *actor) end(ctx context.Context) {
	if n := len(a.found.deletes); n > 0 {
		a.delete(ctx, n)
	}
}

// delete deletes the first n of what waits for it, a batch at most. There is a pause
// after a whole batch, but in Once.
func (a *actor) delete(ctx context.Context, n int) {
	start := time.Now()
	if start.Sub(a.handed) >= handOver {
		a.verify(ctx)
	}
	waiting := a.found.deletes
	allowed := min(n, a.deletes)
	a.more = a.more || allowed < n
	a.deletes -= allowed
	if allowed > 0 && !a.stopped && ctx.Err() == nil {
		if err := a.deleteBatch(waiting[:allowed]); err != nil {
			a.err, a.stopped = cmp.Or(a.err, err), true
		} else if n == batchSize && !a.once {
			pace.Sleep(ctx, batchPause)
		}
	}
	a.found.deletes = waiting[:copy(waiting, waiting[n:])]
	a.took += time.Since(start)
}

// verify hands those in use that have been found by now to the Verifier.
func (a *actor) verify(ctx context.Context) {
	jobs := a.found.verifies
	if !a.once {
		jobs = a.ration(jobs)
	}
	n := min(len(jobs), a.verifies)
	a.more = a.more || n < len(jobs)
	a.verifies -= n
	jobs = slices.Clone(jobs[:n]) // the Verifier keeps them
	now := time.Now()
	for i := range jobs {
		a.clocks.ask(a.clocks.find(&jobs[i].Entry.Key), now)
		a.inFlight[jobs[i].Entry.Key] = struct{}{}
	}
	if n > 0 {
		a.cfg.Verifier.Verify(ctx, jobs, func(j *Job, o Outcome) { a.inbox.addOutcome(outcome{o, *j, time.Now()}) })
	}
	a.found.verifies = a.found.verifies[:0]
	a.handed = time.Now()
}

// recordAll records the outcomes reported so far.
func (a *actor) recordAll() {
	outcomes := a.inbox.takeOutcomes()
	for i := range outcomes {
		o := &outcomes[i]
		if !o.Late {
			delete(a.inFlight, o.job.Entry.Key)
			if a.record(&o.job, o.Method, o.Err, o.at) == Failed {
				a.err = cmp.Or(a.err, o.Err)
			}
		}
		a.noteHolders(&o.job, o.Holders)
	}
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

// deleteBatch deletes one batch. An error means that what became of it is unknown; the
// next scan shows.
func (a *actor) deleteBatch(batch []Job) error {
	if time.Since(a.since) > freshFor {
		var err error
		if batch, err = a.stillIdle(batch); err != nil {
			return err
		}
	}
	failed, err := a.cfg.Table.Delete(a.keys(batch))
	if err != nil {
		return err
	}
	now := time.Now()
	for i := range batch {
		j := &batch[i]
		var err error
		if len(failed) > 0 && failed[0].Key == j.Entry.Key { // in the order of the batch
			err, failed = failed[0].Err, failed[1:]
		}
		if a.record(j, ByDelete, err, now) == Failed {
			a.err = cmp.Or(a.err, fmt.Errorf("deleting entry %s on %s: %w", j.Entry.Addr, j.Link.Name, err))
		}
	}
	return nil
}

// keys returns the keys of a batch, until it is called again.
func (a *actor) keys(batch []Job) []neigh.Key {
	a.found.keys = a.found.keys[:0]
	for i := range batch {
		a.found.keys = append(a.found.keys, batch[i].Entry.Key)
	}
	return a.found.keys
}

// stillIdle reads a batch again and returns the jobs that are still to be
// deleted.
func (a *actor) stillIdle(batch []Job) ([]Job, error) {
	jobs := make(map[neigh.Key]*Job, len(batch))
	for i := range batch {
		jobs[batch[i].Entry.Key] = &batch[i]
	}
	idle := make([]Job, 0, len(batch))
	err := a.cfg.Table.GetAll(a.keys(batch), func(e *neigh.Entry) {
		j := jobs[e.Key]
		if j == nil {
			return
		}
		delete(jobs, e.Key)
		if a.cfg.Scope.Decide(e, &j.Link, j.NextHop) == a.cfg.Scope.Decide(&j.Entry, &j.Link, j.NextHop) {
			idle = append(idle, *j)
		} else {
			a.record(j, ByDelete, errChanged, time.Now())
		}
	})
	if err != nil {
		return nil, err
	}
	for _, j := range jobs {
		a.record(j, ByDelete, neigh.ErrGone, time.Now())
	}
	return idle, nil
}

// record notes what came of one renewal.
func (a *actor) record(j *Job, m Method, err error, at time.Time) Result {
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
	a.sum.count(m, r)
	clock := a.clocks.find(&j.Entry.Key)
	if clock != nil {
		clock.method = m
	}
	if m == ByDelete && r == OK {
		a.clocks.ask(clock, at)
	}
	if r == OK || r == Unanswered || r == Undecided { // it was asked for afresh in any case
		a.clocks.renewed(clock, at)
		a.putApart(clock, j)
	} else if clock != nil {
		clock.pending = false // nobody waits for its answer
	}
	if a.cfg.Events.Renewed != nil {
		a.cfg.Events.Renewed(report.DeviceName(&j.Link), m, r, j.age)
	}
	if a.cfg.Log.Enabled(context.Background(), slog.LevelDebug) {
		a.cfg.Log.Debug("renewal", "address", j.Entry.Addr, "device", j.Link.Name, "lladdr", j.Entry.LLAddr,
			"state", j.Entry.State, "age", j.age, "method", m, "result", r, "err", err)
	}
	return r
}
