package sweep

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/report"
)

// Result is what came of a renewal.
type Result string

// The results.
const (
	OK         Result = "ok"
	Unanswered Result = "unanswered" // asked for by broadcast three times, and nobody answered
	Gone       Result = "gone"       // the entry or its device had vanished meanwhile
	Changed    Result = "changed"    // read again, the entry called for another verdict
	Failed     Result = "failed"     // the kernel refused
)

// act carries out what is due: it starts the verifications, and deletes in
// batches with a pause after each. It stops between two steps when ctx is done.
// It returns the first failure known by then.
func (s *Sweeper) act(ctx context.Context, verifies, deletes []Job, pause time.Duration, tally func(Method, Result)) error {
	if len(verifies) > 0 {
		s.verify(ctx, slices.Clone(verifies))
	}
	first := s.settleAll(tally)
	for batch := range slices.Chunk(deletes, batchSize) {
		if ctx.Err() != nil {
			return first
		}
		if err := s.delete(batch, tally, &first); err != nil {
			return err
		}
		if !sleep(ctx, pause) {
			return first
		}
	}
	return first
}

// verify hands jobs, which it keeps, to the Verifier.
func (s *Sweeper) verify(ctx context.Context, jobs []Job) {
	now := time.Now()
	for i := range jobs {
		s.clocks.ask(jobs[i].Entry.Key, now)
	}
	s.mu.Lock()
	for i := range jobs {
		s.inFlight[jobs[i].Entry.Key] = struct{}{}
	}
	s.mu.Unlock()
	s.cfg.Verifier.Verify(ctx, jobs, func(j *Job, o Outcome) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.outcomes = append(s.outcomes, outcome{o, *j, time.Now()})
	})
}

// busy reports whether the entry is being verified.
func (s *Sweeper) busy(k neigh.Key) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.inFlight[k]
	return ok
}

// settleAll records the outcomes reported so far, and returns the first
// failure among them.
func (s *Sweeper) settleAll(tally func(Method, Result)) (first error) {
	s.mu.Lock()
	outcomes := s.outcomes
	s.outcomes = nil
	for i := range outcomes {
		delete(s.inFlight, outcomes[i].job.Entry.Key)
	}
	s.mu.Unlock()
	for i := range outcomes {
		o := &outcomes[i]
		r := s.settle(&o.job, o.Method, o.Err, o.at)
		tally(o.Method, r)
		if r == Failed && first == nil {
			first = o.Err
		}
		s.noteHolders(&o.job, o.Holders)
	}
	return first
}

// contest is an entry that several holders answer for.
type contest struct {
	holders string
	quiet   int // rounds since, in which only one answered
}

// quietRounds is how many rounds with one holder end a contest. An answer may be
// lost.
const quietRounds = 3

// noteHolders logs when several holders answer for an entry, once for each set
// of them: a host with two interfaces on the segment does so for ever.
func (s *Sweeper) noteHolders(j *Job, holders []neigh.LLAddr) {
	if len(holders) == 0 {
		return // not asked, or not answered: nothing new
	}
	known, was := s.contests[j.Entry.Key]
	if len(holders) == 1 {
		if known.quiet++; was && known.quiet < quietRounds {
			s.contests[j.Entry.Key] = known
		} else if was {
			delete(s.contests, j.Entry.Key)
			s.cfg.Log.Info("one holder answers again", "address", j.Entry.Addr, "device", j.Link.Name, "lladdr", holders[0])
		}
		return
	}
	names := make([]string, len(holders))
	for i, h := range holders {
		names[i] = h.String()
	}
	slices.Sort(names)
	now := strings.Join(names, " ")
	s.contests[j.Entry.Key] = contest{holders: now}
	if now != known.holders {
		s.cfg.Log.Warn("several holders answer", "address", j.Entry.Addr, "device", j.Link.Name, "lladdrs", names)
	}
}

// delete removes one batch. An error means that what became of it is unknown;
// the next scan shows.
func (s *Sweeper) delete(batch []Job, tally func(Method, Result), first *error) error {
	if time.Since(s.dumped) > freshFor {
		var err error
		if batch, err = s.stillIdle(batch, tally); err != nil {
			return err
		}
	}
	s.keys = s.keys[:0]
	for i := range batch {
		s.keys = append(s.keys, batch[i].Entry.Key)
	}
	failed, err := s.cfg.Table.Delete(s.keys)
	if err != nil {
		return err
	}
	now := time.Now()
	for i := range batch {
		var err error
		if len(failed) > 0 && failed[0].Key == batch[i].Entry.Key { // in the order of the batch
			err, failed = failed[0].Err, failed[1:]
		}
		r := s.settle(&batch[i], ByDelete, err, now)
		tally(ByDelete, r)
		if r == Failed && *first == nil {
			*first = err
		}
	}
	return nil
}

// stillIdle reads a batch again and returns the jobs that are still to be
// deleted.
func (s *Sweeper) stillIdle(batch []Job, tally func(Method, Result)) ([]Job, error) {
	jobs := make(map[neigh.Key]*Job, len(batch))
	s.keys = s.keys[:0]
	for i := range batch {
		jobs[batch[i].Entry.Key] = &batch[i]
		s.keys = append(s.keys, batch[i].Entry.Key)
	}
	idle := make([]Job, 0, len(batch))
	err := s.cfg.Table.GetAll(s.keys, func(e *neigh.Entry) {
		j := jobs[e.Key]
		if j == nil {
			return
		}
		delete(jobs, e.Key)
		if s.cfg.Scope.Decide(e, &j.Link, j.NextHop) == s.cfg.Scope.Decide(&j.Entry, &j.Link, j.NextHop) {
			idle = append(idle, *j)
		} else {
			tally(ByDelete, s.settle(j, ByDelete, errChanged, time.Now()))
		}
	})
	if err != nil {
		return nil, err
	}
	for _, j := range jobs {
		tally(ByDelete, s.settle(j, ByDelete, neigh.ErrGone, time.Now()))
	}
	return idle, nil
}

// settle records what came of one renewal.
func (s *Sweeper) settle(j *Job, m Method, err error, at time.Time) Result {
	r := Failed
	switch {
	case err == nil:
		r = OK
	case errors.Is(err, errUnanswered):
		r = Unanswered
	case errors.Is(err, neigh.ErrGone):
		r = Gone
	case errors.Is(err, errChanged), errors.Is(err, neigh.ErrNoAddress):
		r = Changed
	}
	if m == ByDelete && r == OK {
		s.clocks.ask(j.Entry.Key, at)
	}
	if r == OK || r == Unanswered { // either way it was asked for afresh
		s.clocks.renewed(j.Entry.Key, at)
	} else {
		s.clocks.forgo(j.Entry.Key)
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
