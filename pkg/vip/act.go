package vip

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/pace"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/shield"
)

// reconnectIn is how long the owners of closed connections are given to make new
// ones.
const reconnectIn = 10 * time.Second

// trustWithin is how long clients are given to connect again and to be served. A
// kubelet sends something every 10 s, and at once where it was disconnected.
const trustWithin = 6 * time.Second

// othersWithin is how long other answers are waited for after that of a host which may
// become the holder: it has to prove itself anyway.
const othersWithin = 50 * time.Millisecond

// do carries out a step, and brings the evidence up to date. It reports false
// where nothing more is to be done in this look.
func (v *watch) do(ctx context.Context, s Step, e *Evidence) bool {
	var goOn bool
	switch s.Action {
	case Nothing:
	case AskEverybody:
		goOn = v.askEverybody(ctx, e)
	case CheckHolder:
		goOn = v.checkHolder(ctx, e)
	case CompareHolders:
		goOn = v.compare(ctx, e)
	case TryOther:
		goOn = v.try(ctx, s.Other, e)
	case FollowOther:
		v.release()
		if v.accepts(ctx, s.Other) && v.give(s.Other) {
			v.moved(time.Now(), s.Other, e)
		}
	case AskKnown:
		goOn = v.askKnown(ctx, e)
	case LeaveToKernel:
		v.release() // a hold would undo what the kernel finds
		v.leave(e, neigh.Probe)
	case GiveUpHolder:
		v.release()
		v.leave(e, neigh.Failed)
	}
	e.Now = time.Now()
	v.complete(e)
	return goOn
}

// askEverybody asks everybody for the VIP, and notes who answers. It asks under the
// shield, and undoes what the answers nevertheless do to the entry.
func (v *watch) askEverybody(ctx context.Context, e *Evidence) bool {
	silent := e.Unicast != Answered
	tries, window := 1, shield.WindowFor(v.cfg.Timing.Lead)
	if silent {
		tries, window = v.tries()
	}
	if !v.budgets.broadcasts.AllowN(e.Now, tries) {
		return false
	}
	incumbent, err := v.shield()
	if err != nil {
		v.log.Debug("shielding the entry", "err", err)
		return false // an answer might move it
	}
	r := Round{}
	enough := func(a Answer) bool { // it is no proxy, and is going to be tried
		return silent && e.Provable && a.Override && a.LLAddr != e.Holder && v.attempts.mayTry(a.LLAddr, e.Now) && !v.holders.early(e, a.LLAddr)
	}
	for range tries {
		v.heed(&r)
		err = v.askOnce(ctx, incumbent, window, enough, &r)
		if err != nil || r.heard(e.Holder) || slices.ContainsFunc(r.Answers, enough) {
			break
		}
	}
	if err != nil || ctx.Err() != nil {
		return false
	}
	r.At = time.Now()
	if v.kept = (kept{}); r.heard(incumbent) || !silent && incumbent == e.Holder {
		v.kept = kept{lladdr: incumbent, until: r.At.Add(shield.LateFor(window))}
	}
	v.answered(&r, e)
	v.heed(&r)
	return true
}

// askOnce asks everybody once, and adds the answers to a round. After an answer that is
// enough, others are waited for only a moment.
func (v *watch) askOnce(ctx context.Context, incumbent neigh.LLAddr, window time.Duration, enough func(Answer) bool, r *Round) error {
	asking, end := context.WithCancel(ctx)
	defer end()
	ending := false
	err := v.line.ask(asking, neigh.LLAddr{}, window, func(reply shield.Reply) bool {
		a := Answer{reply.LLAddr, reply.Override}
		if !r.heard(a.LLAddr) {
			r.Answers = append(r.Answers, a)
		}
		if incumbent != (neigh.LLAddr{}) && reply.LLAddr != incumbent {
			v.undo(incumbent, r)
		}
		if !ending && enough(a) {
			ending = true
			time.AfterFunc(othersWithin, end)
		}
		return false // there may be others
	})
	if asking.Err() != nil && ctx.Err() == nil {
		return nil
	}
	return err
}

// askKnown asks those by unicast, under the shield, who are known to have answered
// for the VIP.
func (v *watch) askKnown(ctx context.Context, e *Evidence) bool {
	incumbent, err := v.shield()
	if err != nil {
		v.log.Debug("shielding the entry", "err", err)
		return false
	}
	r := Round{}
	if e.Unicast == Answered {
		r.Answers = append(r.Answers, Answer{e.Holder, true})
	}
	for _, h := range v.holders.candidates(e.Holder) {
		v.heed(&r)
		if v.hear(ctx, h, 1, missGap) == Answered {
			r.Answers = append(r.Answers, Answer{h, true})
			v.undo(incumbent, &r)
		}
	}
	r.At = time.Now()
	v.round = r
	v.attempts.askedAt(r.At, v.everybodyEvery())
	v.heed(&r)
	return ctx.Err() == nil
}

// leave has the kernel find out whether the holder is there, or who is.
func (v *watch) leave(e *Evidence, state neigh.State) {
	v.attempts.askedAt(e.Now, v.everybodyEvery())
	v.kept = kept{}
	entry, err := v.reread()
	if err == nil && entry.LLAddr != e.Holder {
		err = shield.ErrChanged
	}
	if err == nil {
		err = v.cfg.Table.SetState(v.key(), state)
	}
	if err == nil && state == neigh.Failed {
		err = v.cfg.Table.Use(v.key()) // it asks everybody at once
	}
	if err != nil {
		v.log.Debug("leaving the entry to the kernel", "state", state, "err", err)
	}
}

// shield raises the shield over the entry, and returns the holder it names; none where
// the kernel sends no packets by it. While the kernel probes the holder there is no
// shield.
func (v *watch) shield() (incumbent neigh.LLAddr, err error) {
	entry, err := v.reread()
	switch {
	case errors.Is(err, neigh.ErrGone):
		return neigh.LLAddr{}, nil
	case err != nil:
		return neigh.LLAddr{}, err
	case !entry.State.Valid():
		return neigh.LLAddr{}, nil
	case verifiable(entry.State):
		err = shield.Raise(v.cfg.Table, &entry)
	}
	return entry.LLAddr, err
}

// undo gives the entry back to the incumbent where an answer has moved it: where
// locktime is 0, or in Neighbor Discovery, which has none. A host that the entry names
// and that did not answer has announced itself, and is newer than what the round knows.
func (v *watch) undo(incumbent neigh.LLAddr, r *Round) {
	if entry, err := v.cfg.Table.Get(v.key()); err == nil && entry.LLAddr != incumbent && r.heard(entry.LLAddr) {
		v.give(incumbent)
	}
}

// answered takes note of a round.
func (v *watch) answered(r *Round, e *Evidence) {
	v.round = *r
	v.attempts.askedAt(r.At, v.everybodyEvery())
	v.cfg.Hooks.Resolved(v.key(), r.At)
	if len(r.Answers) == 0 {
		v.again() // names are resolved again
		return
	}
	if v.verdict.State.trouble() || !r.At.Before(v.attempts.compares) { // else they will be compared before anything is said
		v.happened(v.tracker.Answered(r.lladdrs()))
	}
	if !r.heard(e.Holder) && e.Silence < rivalPatience { // the others may be tried then
		v.attempts.asks = earlier(v.attempts.asks, v.holders.heard.Add(rivalPatience))
	}
	if r.heard(e.Holder) {
		v.holders.answered(r, e.Holder)
		v.quiet(r)
	}
	if e.Entry == neigh.None && !r.heard(e.Holder) { // there is no entry that could have moved
		v.tracker.Names(r.At, neigh.LLAddr{}, Announced, time.Time{})
		v.tracker.Names(r.At, r.Answers[0].LLAddr, Announced, time.Time{})
		v.holders.heard = r.At
		e.Unicast = Answered
	}
}

// quiet ends a hold after some rounds that no rejected holder has answered.
func (v *watch) quiet(r *Round) {
	if v.hold == nil {
		return
	}
	if slices.ContainsFunc(r.lladdrs(), v.hold.rejects) {
		v.hold.quiet = 0
	} else if v.hold.quiet++; v.hold.quiet >= shield.QuietRounds {
		v.say(slog.LevelInfo, "nobody else answers for the VIP any more, its entry is not held")
		v.release()
	}
}

// checkHolder checks the service behind the entry as it is.
func (v *watch) checkHolder(ctx context.Context, e *Evidence) bool {
	if !v.budgets.checks.AllowN(e.Now, 1) {
		return false
	}
	r := v.ask(ctx, v.target.endpoint())
	now := time.Now()
	if ctx.Err() != nil {
		return false
	}
	v.attempts.checkedAt(now)
	if named := v.named(); named != e.Holder && named != (neigh.LLAddr{}) {
		return false // it was another holder that was checked
	}
	if r.Unknown {
		v.holders.checked(now, &r)
		v.say(slog.LevelWarn, "the VIP cannot be checked", "err", r.Err)
		return false
	}
	v.checked(now, e, &r)
	return true
}

// checked takes in what the check of the holder found out about the service.
func (v *watch) checked(now time.Time, e *Evidence, r *CheckResult) {
	v.holders.checked(now, r)
	v.log.Debug("check of the VIP", "lladdr", e.Holder, "outcome", r.Outcome, "err", r.Err)
	v.check = Check{At: now, CheckResult: *r}
	if r.Served {
		v.connections.excuse(now)
	} else {
		v.holders.reject(e.Holder)
		v.release()
	}
	e.Now = now
	v.complete(e)
}

// compare finds out which of the hosts that answer beside the holder are the holder
// itself: an alert for two holders would be wrong for ever. Traffic stays where it is.
// It reports true where the holder turned out to be unwell, by its own word.
func (v *watch) compare(ctx context.Context, e *Evidence) bool {
	if !v.budgets.comparisons.AllowN(e.Now, 1) {
		return false
	}
	all := e.Round.lladdrs()
	before := v.holders.oneHost(e.Holder, all)
	server := v.target.endpoint()
	server.Beside, server.Holder, server.Index = v.holders.toCompare(e.Now, e.Round.others(e.Holder)), e.Holder, v.way.Link.Index
	r := v.ask(ctx, server)
	if ctx.Err() != nil || v.named() != e.Holder {
		return false
	}
	v.holders.compares(time.Now(), r.Same)
	switch one := v.holders.oneHost(e.Holder, all); {
	case one && !before:
		v.say(slog.LevelInfo, "those that answer for the VIP are link-layer addresses of one host", "holders", all)
	case before && !one:
		v.say(slog.LevelWarn, "those that answer for the VIP are link-layer addresses of one host no more", "holders", all)
	}
	if r.Unwell {
		v.checked(time.Now(), e, &r)
	}
	return r.Unwell
}

// ask checks the service at the VIP.
func (v *watch) ask(ctx context.Context, server Endpoint) CheckResult {
	r := v.cfg.Checker.Check(ctx, server)
	if ctx.Err() == nil {
		v.cfg.Hooks.Checked(v.target.String(), r.Outcome)
	}
	return r
}

// try gives the entry to another holder, and keeps it there if the service proves
// itself. While it is tried, all traffic to the VIP goes there.
func (v *watch) try(ctx context.Context, h neigh.LLAddr, e *Evidence) bool {
	if !v.budgets.checks.AllowN(e.Now, 1) {
		return false
	}
	if !v.accepts(ctx, h) {
		v.attempts.failed(h, time.Now())
		return true
	}
	incumbent, silent := e.Holder, e.Unicast != Answered
	paused, begun := v.release(), time.Now()
	r, named, checked := v.trial(ctx, h, incumbent, silent)
	if checked && named == incumbent && !silent { // announced again in the middle of it, which says nothing about the other
		r, named, checked = v.trial(ctx, h, incumbent, silent)
	}
	now := time.Now()
	switch {
	case checked && named == h && r.Served && (v.cfg.OnConflict != Verified || r.Verified || v.clientsTrust(ctx, h)):
		v.moved(now, h, e)
		return false
	case checked && named != h && named != incumbent && !v.round.heard(named):
		return false // a third host has been announced meanwhile, and is newer than the round
	}
	v.giveBack(incumbent)
	back := time.Now()
	if paused != nil {
		v.guard(paused.held, paused.rejected)
	}
	v.closeMade(begun, back.Add(-kernelTick))
	if ctx.Err() != nil || !checked || r.Unknown { // which says nothing about the other
		return false
	}
	v.attempts.failed(h, now)
	v.holders.reject(h)
	return true
}

// trial gives the entry to a holder and checks the service. It returns the holder that the
// entry names afterwards, and false if the service was not checked: the entry could not be
// written, or the incumbent, which was silent, answered again.
func (v *watch) trial(ctx context.Context, h, incumbent neigh.LLAddr, silent bool) (r CheckResult, named neigh.LLAddr, checked bool) {
	if ctx.Err() != nil || !v.give(h) {
		return r, named, false
	}
	checking, cancel := context.WithCancel(ctx)
	defer cancel()
	asking, end := context.WithCancel(ctx)
	done := make(chan CheckResult, 1)
	go func() {
		defer end()
		done <- v.ask(checking, v.target.endpoint())
	}()
	back := silent && v.answersAgain(asking, incumbent)
	if back {
		cancel()
	}
	r = <-done
	if back {
		return r, named, false
	}
	v.holders.checked(time.Now(), &r)
	v.log.Debug("trial of another holder", "lladdr", h, "outcome", r.Outcome, "verified", r.Verified, "err", r.Err)
	return r, v.named(), true
}

// clientsTrust reports whether the clients on this node are served by a holder whose
// certificate is of the right CA, and for a name that only they know: they verify
// it themselves. An impostor gets no further than the handshake.
func (v *watch) clientsTrust(ctx context.Context, h neigh.LLAddr) bool {
	v.closeStuck(time.Now(), v.attempts.began)
	for deadline := time.Now().Add(trustWithin); time.Now().Before(deadline); {
		if !pace.Sleep(ctx, trustWithin/12) || v.named() != h {
			return false
		}
		all, err := v.cfg.Sockets.List(v.target.Port)
		if err != nil {
			return false
		}
		if v.connections.update(time.Now(), v.ours(all)); v.connections.progress {
			return true
		}
	}
	return false
}

// answersAgain asks a holder that was silent until it answers, or ctx is done.
func (v *watch) answersAgain(ctx context.Context, incumbent neigh.LLAddr) bool {
	for ctx.Err() == nil {
		switch v.hear(ctx, incumbent, 1, missGap) {
		case Answered:
			return true
		case CannotAsk:
			return false
		}
	}
	return false
}

// accepts reports whether the kernel takes answers of a host for the VIP: what
// packet sockets hear may be dropped by the node's firewall. An answer confirms
// the entry even where it does not change it (__neigh_update in
// net/core/neighbour.c). Of an entry that has failed the kernel asks everybody.
func (v *watch) accepts(ctx context.Context, h neigh.LLAddr) bool {
	entry, err := v.reread()
	if err == nil && !entry.State.Valid() {
		err = v.cfg.Table.Use(v.key())
	}
	asked := time.Now()
	if err != nil || v.hear(ctx, h, 2, missGap) != Answered {
		return false
	}
	entry, err = v.cfg.Table.Get(v.key())
	return err == nil && entry.State.Valid() && (entry.LLAddr == h || entry.Confirmed <= time.Since(asked)+kernelTick)
}

// kernelTick is the resolution of the kernel's ages (USER_HZ).
const kernelTick = 10 * time.Millisecond

// moved notes that the entry names another holder by the watch's doing, keeps it
// there against those that answered and do not serve, and frees clients from their
// connections to the old one.
func (v *watch) moved(now time.Time, h neigh.LLAddr, e *Evidence) {
	cause := Stale
	switch {
	case e.Unicast == Answered || v.round.heard(e.Holder):
		cause = Zombie
	case v.tracker.trouble == Silent:
		cause = WasSilent
	}
	began, proven := v.attempts.began, e.Provable
	rejected := slices.DeleteFunc(v.round.lladdrs(), func(o neigh.LLAddr) bool { return o == h || !v.holders.failed(o) })
	v.happened(v.tracker.Names(now, h, cause, began))
	v.holders.changed(now, e.Holder, h)
	v.attempts.repaired()
	v.round, v.check = Round{}, Check{}
	if proven {
		v.holders.prove(h)
		v.verified, v.verdict = now, Verdict{StateWorks, CheckServed}
		v.happened(v.tracker.Works(now))
		v.release()
		if len(rejected) > 0 {
			v.keep(h, rejected)
		}
	}
	v.closeStuck(now, began)
}

// giveBack has the entry name the incumbent again after a trial. Where there was none,
// the kernel is to ask everybody again.
func (v *watch) giveBack(incumbent neigh.LLAddr) {
	if incumbent != (neigh.LLAddr{}) {
		v.give(incumbent)
	} else if err := v.cfg.Table.SetState(v.key(), neigh.Failed); err != nil && !errors.Is(err, neigh.ErrGone) {
		v.log.Debug("giving up the entry", "err", err)
	}
}

// give has the entry name a holder, unless it does, or is gone or somebody else's.
func (v *watch) give(h neigh.LLAddr) bool {
	if h != v.kept.lladdr {
		v.kept = kept{}
	}
	entry, err := v.reread()
	switch {
	case err == nil && (entry.LLAddr != h || !entry.State.Valid()):
		err = v.cfg.Table.Give(entry.Key, h, entry.Flags)
	case err == nil:
		err = v.cfg.Table.Use(entry.Key)
	}
	if err != nil && !errors.Is(err, neigh.ErrGone) {
		v.log.Debug("writing the entry", "lladdr", h, "err", err)
	}
	return err == nil
}

// reread reads the entry again, just before it is touched. The error is
// shield.ErrChanged where it is somebody else's.
func (v *watch) reread() (neigh.Entry, error) {
	entry, err := v.cfg.Table.Get(v.key())
	if err == nil && v.reason(&entry).Foreign() {
		err = shield.ErrChanged
	}
	return entry, err
}

// named returns the holder that the entry names now; the zero LLAddr is none.
func (v *watch) named() neigh.LLAddr {
	if e, err := v.cfg.Table.Get(v.key()); err == nil && e.State.Valid() {
		return e.LLAddr
	}
	return neigh.LLAddr{}
}

// freeClients frees clients from their connections to the old holder where the kernel
// gave the entry to another one while the VIP was in trouble.
func (v *watch) freeClients(e *Evidence) {
	if !v.attempts.began.IsZero() && v.tracker.since.After(v.attempts.began) && !e.HandsOff {
		v.closeStuck(e.Now, v.attempts.began)
	}
}

// closeMade closes the connections that were made in a trial that came to nothing, and
// on which nothing was received: they are with the host that was tried, and if it hangs,
// their owners would wait for it until their time-outs.
func (v *watch) closeMade(since, until time.Time) {
	closed, err := v.destroy(func(s *neigh.Socket) bool {
		is := made(s, time.Now(), since, until)
		if is {
			delete(v.connections.known, s.Cookie) // it is not the server that has ended it
		}
		return is
	})
	v.log.Debug("closed connections to the host that was tried", "closed", closed, "err", err)
}

// closeStuck closes the connections on which nothing was received since the
// trouble began: they are with the old holder, and their owners would wait for it
// until their time-outs.
func (v *watch) closeStuck(now, began time.Time) {
	closed, failed := v.destroy(func(s *neigh.Socket) bool { return stuck(s, now, began) })
	if failed != nil {
		v.say(slog.LevelInfo, "connections to the old holder are left to their owners", "closed", closed, "err", failed)
	} else if closed > 0 {
		v.say(slog.LevelInfo, "closed this node's connections to the old holder", "closed", closed)
	}
	v.connections.reconnecting(now, reconnectIn)
}

// destroy closes those of this host's connections to the VIP that which picks. It
// returns how many, and the last error.
func (v *watch) destroy(which func(*neigh.Socket) bool) (closed int, failed error) {
	all, failed := v.cfg.Sockets.List(v.target.Port)
	for _, s := range v.ours(all) {
		if !which(&s) {
			continue
		}
		if err := v.cfg.Sockets.Destroy(&s); err == nil {
			closed++
		} else if failed = err; errors.Is(err, neigh.ErrUnsupported) || errors.Is(err, neigh.ErrPermission) {
			break
		}
	}
	return closed, failed
}
