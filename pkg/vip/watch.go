package vip

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/report"
)

const (
	// everybodyEvery is how often everybody is asked for a VIP that works, before
	// jitter: to see whether several answer, and to renew its entry.
	everybodyEvery = time.Minute
	// servingEvery is how often the service is checked on the node that has the VIP.
	servingEvery = 30 * time.Second
	// wakeEvery is the least time between two looks, whatever is announced, in
	// parts of the interval.
	wakeEvery = 4
	// maxSteps bounds what is done in one look: a round, a check, and trials.
	maxSteps = 3 + maxTrials
	// maxTrials is how many other holders are tried in one look. Each may cost the
	// traffic to the VIP as long as a check takes.
	maxTrials = 4
)

// watch is the loop over one VIP. All but shared belongs to its goroutine.
type watch struct {
	*Watcher
	shared
	worker
	target  Target
	log     *slog.Logger
	diary   report.Diary
	budgets budgets

	way         way
	line        line
	connections connections
	holders     holders
	tracker     Tracker
	attempts    attempts
	hold        *hold
	findings
}

// shared is what the watch and other goroutines tell each other.
type shared struct {
	begun     time.Time // when the watch was made
	status    atomic.Pointer[report.VIP]
	claimed   atomic.Pointer[neigh.Key]
	connected atomic.Bool                    // there was a connection
	listed    atomic.Pointer[[]neigh.Socket] // the connections that the Watcher listed last, until they are looked up
	refusedAt atomic.Pointer[time.Time]      // when an attempt to connect was refused last
}

// findings are what the looks at a VIP have found.
type findings struct {
	began    time.Time // of the present look
	verified time.Time // when the VIP was last known to work
	round    Round
	check    Check
	verdict  Verdict
	kept     kept
	// translated: this host translates the address, and no neighbour has it.
	translated bool
}

func newWatch(w *Watcher, t Target) *watch {
	now := time.Now()
	v := &watch{
		Watcher: w, shared: shared{begun: now}, target: t, log: w.cfg.Log.With("vip", t.String()), diary: report.NewDiary(),
		budgets: newBudgets(), holders: newHolders(now), findings: findings{verified: now, verdict: Verdict{StateUnknown, NoEvidence}},
	}
	v.line = line{watch: v}
	return v
}

func (v *watch) start(ctx context.Context) { v.worker = work(ctx, v.run) }

func (v *watch) run(ctx context.Context) {
	defer v.release()
	defer v.line.close()
	defer v.claimed.Store(nil)
	v.attempts = newAttempts(time.Now(), v.everybodyEvery())
	next := time.Now().Add(random(v.cfg.Interval)) // nodes that start together do not look together
	timer := time.NewTimer(time.Until(next))
	defer timer.Stop()
	for first := true; ; first = false {
		if !v.wait(ctx, timer, next) {
			return
		}
		v.began = time.Now()
		v.look(ctx)
		v.publish()
		if first {
			v.sayWatching()
		}
		next = v.next()
	}
}

// wait waits until the next look, and reports false if ctx ended first. While the VIP
// is in trouble, an announcement has it looked at sooner; otherwise the kernel has
// heard it as well, unless a hold has undone it. All nodes hear it at the same moment,
// and must not all ask then. What is heard may also be a late answer, which is undone.
func (v *watch) wait(ctx context.Context, timer *time.Timer, next time.Time) bool {
	soon := v.cfg.Interval / wakeEvery
	for {
		timer.Reset(time.Until(next))
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return ctx.Err() == nil
		case <-v.line.heard():
			if v.undoLate() {
				return ctx.Err() == nil
			}
			v.attempts.askSoon()
			if v.verdict.State.trouble() {
				next = earlier(next, time.Now().Add(soon+random(soon)))
			}
		case h := <-v.takenAnew():
			v.claims(h)
			next = earlier(next, time.Now().Add(soon+random(soon)))
		}
	}
}

// next returns when to look again.
func (v *watch) next() time.Time {
	next := v.began.Add(v.cfg.Interval)
	if v.tracker.where != OnLink {
		return next
	}
	due := []time.Time{v.connections.next(), v.attempts.renews}
	if v.verdict.State.trouble() {
		due = append(due, v.attempts.asks, v.attempts.checks, v.attempts.recovers)
	}
	for _, t := range due {
		// Not sooner than makes sense: what is due already was dealt with, or is
		// put off.
		if t.After(v.began) && t.Before(next) {
			next = t
		}
	}
	return next
}

// everybodyEvery is how often everybody is asked: often enough for the sweep's
// bound on the ages of entries, too.
func (v *watch) everybodyEvery() time.Duration {
	return min(everybodyEvery, v.cfg.Timing.Threshold()*2/3) // jitter makes it up to one and a half
}

// key is the VIP's entry.
func (v *watch) key() neigh.Key { return neigh.Key{Addr: v.target.Addr, Index: v.way.Link.Index} }

// look gathers the evidence about the VIP, judges it, and acts until nothing is to
// be done any more in this look.
func (v *watch) look(ctx context.Context) {
	e, ok := v.gather(ctx)
	if !ok {
		return
	}
	if e.Entry.Valid() || e.Unicast == Answered {
		v.translated = false
	}
	m := &means{checks: v.cfg.Checker != nil, suppresses: v.way.Link.Suppresses, holders: &v.holders}
	for range maxSteps {
		v.record(e, Judge(e))
		if ctx.Err() != nil {
			return
		}
		step := plan(v.verdict, e, &v.attempts, m)
		if step.Action == Nothing {
			break
		}
		v.publish() // what comes next may take a while
		if !v.do(ctx, step, e) {
			break
		}
	}
	v.claim(e)
}

// record takes note of a verdict.
func (v *watch) record(e *Evidence, verdict Verdict) {
	v.verdict = verdict
	if verdict.State.trouble() {
		v.suspicious()
	}
	switch verdict.State {
	case StateUnknown:
		if v.attempts.began.IsZero() { // nothing has said yet that it does not work
			v.verified = e.Now
		}
	case StateWorks:
		v.verified = e.Now
		v.round, v.check = Round{}, Check{}
		if verdict.Reason == TCPProgress || verdict.Reason == CheckServed {
			v.holders.prove(v.tracker.holder)
		}
		v.translated = v.translated || verdict.Reason == Translated
		v.freeClients(e)
		v.attempts.over()
		v.happened(v.tracker.Works(e.Now))
	case StateSilent:
		v.happened(v.tracker.Trouble(Silent, v.attempts.began, string(verdict.Reason)))
	case StateFailing:
		if v.check.Unwell {
			v.attempts.clients(e.Now, &e.TCP)
		}
		v.happened(v.tracker.Trouble(Failing, v.attempts.began, v.check.Outcome))
	case StateHeldHere, StateNotOnLink:
		v.attempts = attempts{}
	}
}

// suspicious notes that something is wrong, and has VIPs looked for: names resolved
// again, and attempts to connect.
func (v *watch) suspicious() {
	if v.attempts.began.IsZero() {
		v.attempts.trouble(v.began)
		v.publish() // attempts to connect are heard of only while it is known to be in trouble
		v.again()
	}
}

// claim takes the entry over from the sweep, or gives it back where it would not
// be renewed.
func (v *watch) claim(e *Evidence) {
	var key *neigh.Key
	able := !e.HandsOff && e.Unicast != CannotAsk && !v.way.Link.Suppresses && e.Entry.Valid()
	recent := e.Now.Sub(v.attempts.asked) < 2*v.everybodyEvery()
	untouched := v.attempts.asked.IsZero() && !e.Due
	if able && (recent || untouched) {
		k := v.key()
		key = &k
	}
	v.claimed.Store(key)
}

// publish makes what is known visible.
func (v *watch) publish() {
	t := &v.tracker
	s := &report.VIP{
		Name: v.target.String(), Addr: v.target.Addr, Given: v.target.Name, Source: string(v.target.Source),
		State: string(v.verdict.State), Reason: string(v.verdict.Reason),
		Holders: len(t.holders), OneHost: v.holders.oneHost(t.holder, t.holders),
		OnLink: t.where == OnLink && !v.translated, HeldHere: t.where == Here, Pinned: t.pinned != "",
		Verified: v.verified,
	}
	if s.HeldHere && !v.check.At.IsZero() && !v.check.Unknown {
		s.Checked, s.Serving = true, v.check.Served
	}
	if s.OnLink {
		s.Device, s.LLAddr, s.Since = v.way.Link.Name, t.holder.String(), t.since
	}
	v.status.Store(s)
}

// sayWatching says that the VIP is watched from now on.
func (v *watch) sayWatching() {
	args := []any{"source", v.target.Source, "device", v.way.Link.Name}
	if v.tracker.holder != (neigh.LLAddr{}) {
		args = append(args, "holder", v.tracker.holder)
	}
	v.log.Info("watching the VIP", args...)
}

// happened logs and counts a change, if it is one.
func (v *watch) happened(c Change) {
	if c.Event == "" {
		return
	}
	v.cfg.Hooks.Happened(v.target.String(), c.Event)
	if c.Event == Moved && c.Cause != Announced {
		v.cfg.Hooks.Repaired(v.target.String(), c.Cause, c.Took)
	}
	level := slog.LevelWarn
	switch c.Event {
	case Moved, Recovered, HeldHere:
		level = slog.LevelInfo
	case Contested:
		level = slog.LevelError
	}
	args := []any{"event", string(c.Event), "device", v.way.Link.Name}
	add := func(name string, value any, there bool) {
		if there {
			args = append(args, name, value)
		}
	}
	none := neigh.LLAddr{}
	add("old_lladdr", c.Old, c.Old != none)
	add("new_lladdr", c.New, c.New != none)
	add("cause", c.Cause, c.Cause != "")
	add("took", c.Took.Round(time.Millisecond), c.Took > 0)
	add("holders", c.Holders, len(c.Holders) > 0)
	add("one_host", true, c.Event == Duplicate && v.holders.oneHost(v.tracker.holder, c.Holders))
	add("reason", c.Reason, c.Reason != "")
	v.say(level, "vip "+string(c.Event), args...)
}

// say writes a line into the log, unless there were too many.
func (v *watch) say(level slog.Level, text string, args ...any) {
	v.diary.Say(v.log, level, text, args...)
}

// foreign returns a function that reports whether an entry is none of the
// agent's business, for another goroutine.
func (v *watch) foreign() func(*neigh.Entry) bool {
	link := v.way.Link
	return func(e *neigh.Entry) bool { return v.cfg.Scope.Decide(e, &link, true).Reason.Foreign() }
}

// reason is the policy's, for an entry that is in use whatever its state.
func (v *watch) reason(e *neigh.Entry) policy.Reason {
	return v.cfg.Scope.Decide(e, &v.way.Link, true).Reason
}
