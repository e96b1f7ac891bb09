package vip

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/shield"
)

// maxTrials is how many other holders are tried on one occasion. Each may cost
// the traffic to the VIP as long as a check takes.
const maxTrials = 4

// contestedFor is how long no other holder is tried after a hold had to be given
// up.
const contestedFor = time.Minute

// unresolved deals with a VIP whose entry does not exist or holds no address.
func (v *watch) unresolved(ctx context.Context, e *neigh.Entry) {
	v.release()
	now := time.Now()
	switch {
	case e.State == neigh.Incomplete && v.began.IsZero(): // the kernel is asking
		v.trouble(now)
	case e.State == neigh.Incomplete, e.State == neigh.Failed:
		v.trouble(now)
		v.find(ctx, e)
	case !v.handsOff && !now.Before(v.everybody): // nobody uses it, but who holds it is of interest
		v.everybody = now.Add(jitter(v.everybodyEvery()))
		v.find(ctx, e)
	case !v.tracker.In(Silent): // ask whom was last known to hold it
		holder, _ := v.tracker.Holder()
		if holder == (neigh.LLAddr{}) {
			return
		}
		switch heard, err := v.reachable(ctx, holder, misses, missGap); {
		case err != nil:
		case heard:
			v.works(time.Now())
		default:
			v.trouble(now)
			v.find(ctx, e)
		}
	}
}

// find asks everybody for a VIP whose holder is silent, and gives the entry to
// the first that answers. There is no shield: there is no holder to protect, and
// the kernel may move the entry by itself.
//
// A holder that does not hear unicast requests is found not to be silent, and
// asked like this again and again, at the pace of a silent one.
func (v *watch) find(ctx context.Context, e *neigh.Entry) {
	now := time.Now()
	silent := v.tracker.In(Silent)
	if v.handsOff {
		if v.silence.due(now) {
			v.silence.failed(now)
			v.lost()
		}
		return
	}
	tries, cause := misses, Stale
	if silent { // once is enough: it has been asked for all the time
		tries, cause = 1, WasSilent
	}
	if !v.silence.due(now) || !v.budget.take(now, tries) {
		return
	}
	var holders []neigh.LLAddr
	var err error
	for range tries {
		_, err = v.ask(ctx, shield.Question{Addr: v.target.addr}, missGap, func(r shield.Reply) bool {
			// While the entry is held, the holder has a word in this.
			if len(holders) == 0 && r.LLAddr != e.LLAddr && v.hold == nil {
				v.write(r.LLAddr)
			}
			if !slices.Contains(holders, r.LLAddr) {
				holders = append(holders, r.LLAddr)
			}
			return false // there may be others
		})
		if err != nil || len(holders) > 0 {
			break
		}
	}
	now = time.Now()
	if err == nil {
		v.asked(now)
	}
	switch {
	case ctx.Err() != nil:
		return
	case len(holders) == 0:
		v.silence.failed(now)
		v.again()
		v.lost()
		return
	}
	v.happened(v.tracker.Answered(holders))
	known, _ := v.tracker.Holder()
	switch {
	case slices.Contains(holders, e.LLAddr): // it was not silent after all
		v.write(e.LLAddr)
		v.works(now)
		v.silence.failed(now)
		return
	case e.State == neigh.None && slices.Contains(holders, known): // nor this
		v.works(now)
		v.silence.failed(now)
		return
	}
	v.release()
	if e.State == neigh.None { // there is no entry that could have moved
		v.tracker.Names(now, holders[0], cause, v.began)
		v.works(now)
		return
	}
	if !v.write(holders[0]) { // the kernel may have taken another answer than the first
		v.silence.failed(now)
		return
	}
	v.follow(now, holders[0], cause)
	if len(holders) > 1 {
		v.investigate(ctx, "several hosts answer")
	}
}

// lost notes that nobody answers.
func (v *watch) lost() {
	since := v.began
	if since.IsZero() {
		since = time.Now()
	}
	v.happened(v.tracker.Trouble(Silent, since, ""))
}

// follow notes that the entry now names another holder by our own doing.
func (v *watch) follow(now time.Time, holder neigh.LLAddr, cause Cause) {
	v.happened(v.tracker.Names(now, holder, cause, v.began))
	v.works(now)
	v.helped()
}

// write gives the entry to a holder, unless it has it, or the entry is gone or
// somebody else's.
func (v *watch) write(holder neigh.LLAddr) bool {
	e, err := v.cfg.Table.Get(v.key())
	switch {
	case err == nil && v.verdict(&e).Reason.Foreign():
		err = shield.ErrChanged
	case err == nil && (e.LLAddr != holder || !e.State.Valid()):
		err = v.cfg.Table.Replace(e.Key, holder, e.Flags)
	}
	if err == nil { // the one age that this leaves: the next time to ask is put off as if all had restarted
		err = v.cfg.Table.Use(e.Key)
	}
	if err != nil && !errors.Is(err, neigh.ErrGone) {
		v.log.Debug("writing the entry", "lladdr", holder, "err", err)
	}
	return err == nil
}

// investigate finds out whether a VIP works whose holder answers, but to which
// connections are suspect, and if it does not, whether another holder does.
func (v *watch) investigate(ctx context.Context, why string) {
	now := time.Now()
	if !v.backoff.due(now) || !v.calm.due(now) || !v.budget.take(now, 1) {
		return
	}
	incumbent, _ := v.tracker.Holder()
	if v.cfg.Checker != nil {
		r := v.check(ctx)
		now = time.Now()
		switch {
		case ctx.Err() != nil:
			return
		case r.Unknown:
			v.calm.failed(now)
			v.log.Warn("the VIP cannot be checked", "err", r.Err)
			return
		case r.Served:
			v.calm.failed(now)
			v.connections.excuse(now)
			v.prove(incumbent)
			v.works(now)
			return
		}
		delete(v.proven, incumbent)
		v.trouble(now) // of a holder that has just been found there was none yet
		v.happened(v.tracker.Trouble(Failing, v.began, fmt.Sprintf("%s; check: %s", why, r.Result)))
		v.log.Debug("check of the VIP", "lladdr", incumbent, "result", r.Result, "err", r.Err)
		v.release()
	}
	if v.handsOff || !v.budget.take(now, 1) {
		v.failed(now)
		return
	}
	q, ok := v.everybodyAnswers(ctx)
	now = time.Now()
	switch {
	case ctx.Err() != nil, !ok && v.began.IsZero(): // settled by the answers
		return
	case ok && v.cfg.Checker == nil:
		v.connections.excuse(now)
	case ok && v.mayFollow() && v.try(ctx, q):
		return
	}
	v.failed(time.Now())
}

// failed notes an attempt that did not help. A name may resolve to something
// else by now.
func (v *watch) failed(now time.Time) {
	v.backoff.failed(now)
	v.again()
}

// mayFollow reports whether another holder may be tried at all.
func (v *watch) mayFollow() bool {
	return v.cfg.Checker != nil && v.cfg.OnConflict != Report && time.Since(v.contested) >= contestedFor
}

// check checks the service behind the entry as it is.
func (v *watch) check(ctx context.Context) Verdict {
	r := v.cfg.Checker.Check(ctx, netip.AddrPortFrom(v.target.addr, v.cfg.Port), v.target.name)
	if ctx.Err() == nil && v.cfg.Hooks.Checked != nil {
		v.cfg.Hooks.Checked(v.target.addr, r.Result)
	}
	return r
}

// everybodyAnswers asks everybody under the shield and notes who answers. The
// entry stays with its holder if that one answers, and else goes to the first
// that does. It reports false if nobody could be asked, or the question is
// settled by the answers.
func (v *watch) everybodyAnswers(ctx context.Context) (*shield.Inquiry, bool) {
	asker := &shield.Asker{
		Table: v.cfg.Table, Solicitor: v.cfg.Solicitor, Scope: v.cfg.Scope, Answered: v.cfg.Hooks.Answered,
		Window: shield.WindowFor(v.cfg.Timing.Lead),
	}
	q := &shield.Inquiry{Key: v.key(), Link: &v.place.Link, NextHop: true}
	err := asker.Raise(q)
	if err == nil {
		err = asker.Ask(ctx, q.Key.Index, map[netip.Addr]*shield.Inquiry{q.Key.Addr: q})
	}
	now := time.Now()
	if err != nil {
		v.log.Debug("asking everybody for the VIP", "err", err)
	} else {
		v.asked(now)
	}
	switch {
	case q.IncumbentHeard():
		err = asker.Hold(q, q.Incumbent.LLAddr)
	case !q.Complete, len(q.Holders) == 0:
		return q, false // the next look finds it silent
	default:
		if err = asker.Hold(q, q.Holders[0]); err == nil {
			v.trouble(now)
			v.follow(now, q.Holders[0], Stale)
		}
	}
	v.happened(v.tracker.Answered(q.Holders))
	return q, err == nil && q.IncumbentHeard()
}

// asked notes that everybody was asked.
func (v *watch) asked(now time.Time) {
	v.askedAt, v.everybody = now, now.Add(jitter(v.everybodyEvery()))
	if v.cfg.Hooks.Resolved != nil {
		v.cfg.Hooks.Resolved(v.key(), now)
	}
}

// askEverybody asks who holds a VIP that works: it renews the entry, and shows
// whether several do.
func (v *watch) askEverybody(ctx context.Context) {
	now := time.Now()
	if v.handsOff || !v.budget.take(now, 1) {
		return
	}
	q, ok := v.everybodyAnswers(ctx)
	if !ok || v.hold == nil {
		return
	}
	if slices.ContainsFunc(q.Holders, v.hold.rejects) {
		v.hold.quiet = 0
	} else if v.hold.quiet++; v.hold.quiet >= quietRounds {
		v.log.Info("nobody else answers for the VIP any more, its entry is not held")
		v.release()
	}
}

// trial gives the entry to a holder and checks the service. It returns whom the
// entry names afterwards, and false if it was not made.
func (v *watch) trial(ctx context.Context, h neigh.LLAddr) (r Verdict, named neigh.LLAddr, ok bool) {
	if ctx.Err() != nil || !v.budget.take(time.Now(), 1) || !v.write(h) {
		return r, named, false
	}
	r = v.check(ctx)
	v.log.Debug("trial of another holder", "lladdr", h, "result", r.Result, "verified", r.Verified, "err", r.Err)
	return r, v.named(), true
}

// try gives the entry to one after another of the other holders, and keeps it
// with the first that proves itself. While it does, all traffic to the VIP goes
// there; a holder that does not serve is given up within the time of a check.
func (v *watch) try(ctx context.Context, q *shield.Inquiry) bool {
	incumbent := q.Incumbent.LLAddr
	others := slices.DeleteFunc(slices.Clone(q.Holders), func(h neigh.LLAddr) bool { return h == incumbent })
	rand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] }) //nolint:gosec // nothing to guess
	// One that has served before is no stranger that floods us with answers.
	slices.SortStableFunc(others, func(a, b neigh.LLAddr) int { return btoi(v.proven[b]) - btoi(v.proven[a]) })
	for _, h := range others[:min(len(others), maxTrials)] {
		r, named, ok := v.trial(ctx, h)
		if ok && named == incumbent { // announced again in the middle of it, which says nothing about the other
			r, named, ok = v.trial(ctx, h)
		}
		if !ok {
			break
		}
		switch {
		case !slices.Contains(q.Holders, named):
			return false // it has been announced meanwhile, and is newer than what the round knows
		case named != h, !r.Served, v.cfg.OnConflict == Verified && !r.Verified:
			continue
		}
		now := time.Now()
		v.prove(h)
		v.follow(now, h, Zombie)
		v.keep(h, slices.DeleteFunc(slices.Clone(q.Holders), func(o neigh.LLAddr) bool { return o == h }))
		v.closeAll()
		return true
	}
	if len(others) > 0 {
		v.write(incumbent)
	}
	return false
}

// reconnectIn is how long the owners of closed connections are given to make new
// ones.
const reconnectIn = 10 * time.Second

// prove notes that a holder serves.
func (v *watch) prove(holder neigh.LLAddr) {
	if len(v.proven) >= maxKnown {
		clear(v.proven)
	}
	v.proven[holder] = true
}

// named returns whom the entry names now; the zero LLAddr is nobody.
func (v *watch) named() neigh.LLAddr {
	if e, err := v.cfg.Table.Get(v.key()); err == nil && e.State.Valid() {
		return e.LLAddr
	}
	return neigh.LLAddr{}
}

// closeAll closes the connections to the VIP: they are with the old holder, and
// their owners would wait for it until their time-outs.
func (v *watch) closeAll() {
	all, err := v.cfg.Sockets.List(v.cfg.Port)
	closed := 0
	for i := range all {
		if all[i].Remote.Addr() != v.target.addr {
			continue
		}
		if err = v.cfg.Sockets.Destroy(&all[i]); err == nil {
			closed++
		} else if errors.Is(err, neigh.ErrUnsupported) || errors.Is(err, neigh.ErrPermission) {
			break
		}
	}
	v.log.Info("closed this node's connections to the old holder", "closed", closed, "err", err)
	// Their owners connect anew.
	v.connections = connections{established: true, patience: time.Now().Add(reconnectIn)}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
