package vip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/shield"
)

const (
	// A holder that misses three requests this far apart is silent.
	misses  = 3
	missGap = 300 * time.Millisecond
	// wayEvery is how often the way to a VIP is looked up, unless something is
	// suspicious.
	wayEvery = 30 * time.Second
)

// way is how a VIP is reached.
type way struct {
	neigh.Place
	at      time.Time // when it was looked up; zero: look again
	arrived bool      // it has changed, and the connections have not been listed since
}

// gather collects the evidence about the VIP. It reports false where there is
// none: the VIP is not on link, or the entry cannot be read.
func (v *watch) gather(ctx context.Context) (*Evidence, bool) {
	now := v.began
	e := &Evidence{Now: now, Began: now, Where: v.locate(now)}
	if e.Where != OnLink {
		v.elsewhere(ctx, e)
		v.record(e, Judge(e))
		return e, false
	}
	v.endHold(now)
	if !v.read(e) {
		return e, false
	}
	v.observe(now)
	if v.connections.progress {
		v.holders.heard = now
	}
	e.Unicast = v.askHolder(ctx, e)
	e.Now = time.Now()
	v.holders.looked(e.Now, v.cfg.Interval)
	switch e.Unicast {
	case Answered:
		v.holders.answers(e.Now)
		v.holders.unheard, v.holders.deaf = time.Time{}, false
	case Unanswered: // what counts is what was received meanwhile
		v.way.at = time.Time{} // from a server on this host, if the VIP has come to it
		if v.holders.unheard.IsZero() {
			v.holders.unheard = now
		}
		v.observe(e.Now)
		if v.connections.progress {
			v.holders.answers(e.Now)
			v.holders.deaf = true
		}
	}
	e.TCP.Progress = v.connections.progress
	v.complete(e)
	return e, true
}

// complete puts into the evidence what is remembered.
func (v *watch) complete(e *Evidence) {
	e.Holder = v.tracker.holder
	e.Silence, e.Unheard = e.Now.Sub(v.holders.heard), v.holders.unheard
	e.TCP.Wanted, e.TCP.Suspect = len(v.connections.known) > 0, v.connections.suspect(e.Now)
	e.Round, e.Check = v.round, v.check
	e.Unproven, e.Rival, e.Deaf = 0, v.holders.rival, v.holders.deaf
	if !v.holders.unproven.IsZero() {
		e.Unproven = max(1, e.Now.Sub(v.holders.unproven))
	}
	e.Provable = v.cfg.Checker != nil && v.cfg.OnConflict != Report && v.holders.provable(e.Now)
}

// locate finds out how the VIP is reached.
func (v *watch) locate(now time.Time) Where {
	was := v.tracker.where
	if now.Sub(v.way.at) < wayEvery && v.attempts.began.IsZero() && was == OnLink {
		return OnLink
	}
	p, err := v.cfg.Table.Place(v.target.Addr, v.target.Bound)
	where, reason := OnLink, ""
	switch {
	case err != nil && !errors.Is(err, neigh.ErrGone):
		v.log.Debug("finding the way to the VIP", "err", err)
		return was
	case err != nil:
		where, reason = Behind, err.Error()
	case p.Here:
		where = Here
	case p.Local:
		where, reason = Behind, "local on a device without address resolution"
	case p.Gateway.IsValid():
		where, reason = Behind, fmt.Sprintf("behind %s", p.Gateway)
	case p.Link.Loopback || p.Link.NoARP || p.Link.PointToPoint:
		where, reason = Behind, fmt.Sprintf("%s does not resolve addresses", p.Link.Name)
	}
	if where != was {
		v.verified = now
	}
	changed := where != was || where == OnLink && p.Link.Index != v.way.Link.Index
	if changed { // what was found out is about another entry
		v.claimed.Store(nil)
		v.release()
		v.line.close()
		v.tracker, v.holders, v.round, v.check = Tracker{}, newHolders(now), Round{}, Check{}
	}
	v.way = way{Place: p, at: now, arrived: v.way.arrived || changed}
	v.happened(v.tracker.Place(where, reason))
	return where
}

// elsewhere deals with a VIP that is no neighbour's. Where this host has it, its
// own server is checked through it now and then.
func (v *watch) elsewhere(ctx context.Context, e *Evidence) {
	if e.Where != Here || v.cfg.Checker == nil || e.Now.Sub(v.check.At) < servingEvery {
		return
	}
	r := v.ask(ctx, v.target.endpoint())
	if ctx.Err() != nil {
		return
	}
	if v.check.At.IsZero() || r.Served != v.check.Served {
		v.say(slog.LevelInfo, "checked the server on this host through the VIP", "served", r.Served, "outcome", r.Outcome, "err", r.Err)
	}
	v.check = Check{At: e.Now, CheckResult: r}
}

// read reads the entry and notes the holder it names. It reports false where that is
// not known.
func (v *watch) read(e *Evidence) bool {
	entry, err := v.cfg.Table.Get(v.key())
	switch {
	case errors.Is(err, neigh.ErrGone):
		entry = neigh.Entry{Key: v.key()}
	case err != nil:
		v.log.Debug("reading the entry", "err", err)
		return false
	}
	reason := policy.Resolving
	if err == nil {
		reason = v.reason(&entry)
	}
	e.HandsOff = v.cfg.DryRun || reason.Foreign()
	if e.HandsOff {
		v.release()
	}
	e.Entry = entry.State
	e.Due = entry.State.Valid() && v.cfg.Timing.Due(&entry, &v.way.Link, 0)
	if entry.LLAddr != (neigh.LLAddr{}) && (entry.State.Valid() || e.HandsOff) {
		v.names(e.Now, &entry, reason.Foreign())
	}
	pin := ""
	if reason == policy.IsPermanent || reason == policy.IsNoARP {
		pin = reason.String()
	}
	v.happened(v.tracker.Pin(pin))
	return true
}

// names notes the holder that the entry names, if somebody else than the watch has changed
// it. No move of an entry that belongs to somebody else is reported.
func (v *watch) names(now time.Time, entry *neigh.Entry, foreign bool) {
	if v.hold != nil && v.hold.rejects(entry.LLAddr) {
		// The guard is about to see it, or has no notifications.
		v.give(v.hold.held)
		return
	}
	if v.hold != nil && entry.LLAddr != v.hold.held {
		v.release() // the entry names a host that is neither held nor rejected
	}
	before := v.tracker.holder
	if before == entry.LLAddr {
		return
	}
	if c := v.tracker.Names(now, entry.LLAddr, Announced, v.attempts.began); !foreign {
		v.happened(c)
	}
	if before != (neigh.LLAddr{}) || v.holders.known(entry.LLAddr) {
		v.holders.changed(now, before, entry.LLAddr)
		v.round, v.check = Round{}, Check{}
		v.attempts.askSoon()
	}
}

// askHolder asks the holder by unicast.
func (v *watch) askHolder(ctx context.Context, e *Evidence) Hearing {
	holder := v.tracker.holder
	if holder == (neigh.LLAddr{}) || e.Entry == neigh.Incomplete {
		if !v.line.open() {
			return CannotAsk
		}
		return NotAsked
	}
	tries, window := v.tries()
	if v.way.Link.Suppresses {
		tries *= 2 // what follows cannot be undone
	}
	return v.hear(ctx, holder, tries, window)
}

// tries returns how often a holder that does not answer is asked, and for how long each
// answer is waited for. One that is known to be silent is asked in every look: then once
// is enough, but its answer may take as long as that of several requests.
func (v *watch) tries() (int, time.Duration) {
	if v.verdict.State == StateSilent {
		return 1, misses * missGap
	}
	return misses, missGap
}

// hear asks one host for the VIP, so many times, and waits for each answer.
func (v *watch) hear(ctx context.Context, h neigh.LLAddr, tries int, window time.Duration) Hearing {
	for range tries {
		heard := false
		err := v.line.ask(ctx, h, window, func(r shield.Reply) bool {
			heard = r.LLAddr == h
			return heard
		})
		switch {
		case heard:
			return Answered
		case err != nil:
			return CannotAsk
		}
	}
	return Unanswered
}

// observe takes in the connections to the VIP: those that are known, and those
// that the Watcher passed on, are looked up one by one. All are listed when that shows
// too little: one that was known is gone, or none is left, the VIP does not work, or
// it has just come to where it is.
func (v *watch) observe(now time.Time) {
	var look []neigh.Socket
	for _, k := range v.connections.known {
		look = append(look, k.Socket)
	}
	known := len(look)
	if listed := v.listed.Swap(nil); listed != nil {
		for _, s := range *listed {
			if v.connections.known[s.Cookie] == nil && len(look) < maxKnown {
				look = append(look, s)
			}
		}
	}
	missing := known == 0
	var sockets []neigh.Socket
	for i := range look {
		s, err := v.cfg.Sockets.Get(&look[i])
		if err == nil {
			sockets = append(sockets, s)
			continue
		}
		missing = missing || i < known
		if !errors.Is(err, neigh.ErrGone) {
			break // the next may wait as long
		}
	}
	if missing && v.connections.established || v.way.arrived || !v.attempts.began.IsZero() {
		all, err := v.cfg.Sockets.List(v.target.Port)
		if err != nil {
			v.log.Debug("listing connections", "err", err)
			v.connections.progress = false
			return
		}
		sockets, v.way.arrived = v.ours(all), false
	}
	v.connections.update(now, sockets)
	if v.connections.established {
		v.connected.Store(true)
	}
	if at := v.refusedAt.Swap(nil); at != nil {
		v.connections.refused = *at
	}
}

// pass hands the watch the connections to the VIP among those listed. Listing walks
// through all sockets of the machine, so it is done for all VIPs at once.
func (v *watch) pass(sockets []neigh.Socket) {
	if ours := v.ours(sockets); len(ours) > 0 {
		v.listed.Store(&ours)
	}
}

// ours picks the connections to the VIP.
func (v *watch) ours(sockets []neigh.Socket) (ours []neigh.Socket) {
	for i := range sockets {
		if v.target.has(&sockets[i]) {
			ours = append(ours, sockets[i])
		}
	}
	return ours
}
