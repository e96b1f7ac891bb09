package sweep

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/report"
)

// scan reads the table, moves the clocks, and publishes a report. What is due it
// leaves to a: what is to be deleted part by part, what is to be verified in
// s.found.verifies.
func (s *Sweeper) scan(ctx context.Context, a *actor) error {
	for k, at := range s.inbox.takeRenewed() {
		s.clocks.renewed(s.clocks.find(&k), at)
	}
	var err error
	for range dumpTries {
		if err = s.look(ctx, a); !errors.Is(err, neigh.ErrInterrupted) && !errors.Is(err, neigh.ErrOverrun) {
			return err
		}
	}
	return err
}

// look is one try of a scan.
func (s *Sweeper) look(ctx context.Context, a *actor) error {
	start := time.Now()
	s.found = found{verifies: s.found.verifies[:0], deletes: s.found.deletes[:0], keys: s.found.keys}
	if err := s.around.read(s.cfg.Table, start, min(topologyAge, s.cfg.Timing.Interval/10)); err != nil {
		return err
	}
	if s.cfg.Missed != nil {
		if gap := s.clocks.catchUp(s.cfg.Missed()); gap >= time.Second {
			s.cfg.Log.Info("this machine was suspended", "for", gap.Round(time.Second))
		}
	}
	sc := scanner{Sweeper: s, actor: a, report: report.NewBuilder(start, s.cfg.PerEntry), now: s.clocks.since(start)}
	if s.watched != nil {
		sc.watched = s.watched()
	}
	sc.on(s.around.Links[0])
	s.clocks.begin()
	s.beginLoads()
	if err := s.cfg.Table.DumpParts(sc.entry, func(since time.Time) { sc.part(ctx, since) }); err != nil {
		return err
	}
	a.end(ctx)
	sc.end()
	return nil
}

// scanner takes in the table while it is being read.
type scanner struct {
	*Sweeper
	actor   *actor
	watched []neigh.Key // renewed by somebody else
	report  *report.Builder
	now     time.Duration // when the part was read, as the clocks keep it

	// Of the entry before: dumps come in runs of the same device.
	link   neigh.Link
	device policy.Reason
}

// on notes the device of the entries that follow.
func (sc *scanner) on(link neigh.Link) {
	sc.link, sc.device = link, sc.cfg.Scope.Device(&link)
}

// entry takes in one entry: what it is, how old, and whether it is due.
func (sc *scanner) entry(e *neigh.Entry) {
	if e.Index != sc.link.Index {
		sc.on(sc.around.Links[e.Index])
	}
	isDefault, nextHop := sc.around.NextHops[e.Key]
	verdict := sc.cfg.Scope.DecideOn(e, sc.device, nextHop)
	if verdict.Reason == policy.UnknownDevice {
		sc.around.at = time.Time{} // it came, or went, a moment ago
		sc.found.soon = true
	}
	if verdict.Reason.Foreign() || verdict.Reason == policy.Resolving {
		sc.report.Add(e, &sc.link, verdict, nil, nextHop, isDefault)
		return
	}
	if slices.Contains(sc.watched, e.Key) {
		verdict = policy.Verdict{Action: policy.Keep, Reason: policy.Watched}
	}
	age, resolved, held := e.Updated, e.Updated, false
	// Once keeps no clock of what it deletes: nobody would look at it. A dry run deletes
	// nothing, and its clocks tell that the dump has an entry twice.
	if !sc.actor.once || sc.cfg.DryRun || verdict.Action != policy.Delete {
		seen := sc.see(e, verdict)
		if seen.again {
			return
		}
		age = seen.age
		resolved, held = seen.due(sc.now)
	}
	if sc.cfg.Timing.Exceeded(e, &sc.link) {
		sc.report.AddOverdue()
	}
	ages := neigh.Ages{neigh.Used: e.Used, neigh.Confirmed: e.Confirmed, neigh.Updated: e.Updated, neigh.Resolved: age}
	sc.report.Add(e, &sc.link, verdict, &ages, nextHop, isDefault)
	left := sc.cfg.Timing.Left(e, &sc.link, resolved)
	due := left <= 0
	if verdict.Action == policy.Verify {
		if sc.link.Uplink {
			due = sc.loadOf(&sc.link).count(left, &sc.cfg.Timing)
		}
		sc.found.soon = sc.found.soon || left <= calmPeriods*sc.cfg.ScanPeriod
	}
	sc.found.soon = sc.found.soon || e.State == neigh.Probe
	if sc.actor.once {
		due = e.State != neigh.Probe // which the kernel is renewing already
	}
	if due && !held {
		sc.job(verdict.Action, Job{Entry: *e, Link: sc.link, NextHop: nextHop, age: max(e.Used, e.Updated, age), left: left})
	}
}

// see moves the clock of an entry.
func (sc *scanner) see(e *neigh.Entry, verdict policy.Verdict) sight {
	seen := sc.clocks.see(e, sc.now)
	if seen.fresh && sc.starting() && !sc.actor.once {
		sc.spread(seen.clock, e, verdict.Action == policy.Verify && sc.link.Uplink)
	}
	if seen.corrected && !seen.again {
		sc.corrected(e, &seen)
	}
	return seen
}

// corrected counts and logs that a renewal has changed the link-layer address of an entry.
func (sc *scanner) corrected(e *neigh.Entry, seen *sight) {
	if sc.cfg.Events.Corrected != nil {
		sc.cfg.Events.Corrected(report.DeviceName(&sc.link))
	}
	args := []any{"address", e.Addr, "device", sc.link.Name}
	if old, ok := neigh.Undigest(seen.old, e.LLAddr.Len()); ok {
		args = append(args, "old_lladdr", old)
	}
	sc.diary.Say(sc.cfg.Log, slog.LevelInfo, "an entry was corrected", append(args, "new_lladdr", e.LLAddr, "method", seen.method)...)
}

// spread puts off an entry that the first scan sees, so that nodes that start
// together do not ask together. One that is not due yet is due at some time
// before it would be; one that would be asked for at once, a little later.
func (sc *scanner) spread(k *clock, e *neigh.Entry, asks bool) {
	random := func(d time.Duration) time.Duration { return time.Duration(sc.random() * float64(max(0, d))) }
	switch {
	case !sc.cfg.Timing.Due(e, &sc.link, e.Updated):
		k.dueEarly = random(sc.cfg.Timing.Threshold() - e.Updated)
	case asks:
		k.heldUntil = sc.now + random(min(startSpread, sc.cfg.Timing.Interval/4))
	}
}

// job notes what is to be done with an entry that is due.
func (sc *scanner) job(do policy.Action, j Job) {
	if _, verifying := sc.inFlight[j.Entry.Key]; verifying {
		return
	}
	switch do {
	case policy.Delete:
		sc.found.deletes = append(sc.found.deletes, j)
		sc.found.idle++
	case policy.Verify:
		sc.found.verifies = append(sc.found.verifies, j)
		sc.found.inUse++
	}
}

// part acts on the part of the table that was read last, and stood as it is at since.
func (sc *scanner) part(ctx context.Context, since time.Time) {
	sc.actor.part(ctx, since)
	sc.now = sc.clocks.since(time.Now())
}

// end follows a complete scan: it forgets what is gone, and publishes the report.
func (sc *scanner) end() {
	sc.clocks.end(sc.now, sc.cfg.Timing.Interval)
	sc.endLoads()
	for k := range sc.contests {
		if sc.clocks.find(&k) == nil {
			delete(sc.contests, k)
			continue
		}
		link := sc.around.Links[k.Index]
		sc.report.AddContested(&link)
	}
	sc.Sweeper.report.Store(sc.report.Finish())
}
