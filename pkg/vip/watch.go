package vip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/report"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/shield"
)

const (
	// A holder is silent that misses three requests this far apart.
	misses  = 3
	missGap = 300 * time.Millisecond
	// While an entry is held against others, the holder is asked sooner and has
	// less time, because meanwhile it may be the wrong one that is kept.
	heldMisses  = 2
	heldMissGap = 200 * time.Millisecond

	// placeEvery is how often the way to a VIP is looked up, unless something is
	// suspicious.
	placeEvery = 30 * time.Second
	// everybodyEvery is how often everybody is asked for a VIP that works, before
	// jitter: to see whether several answer, and to renew its entry.
	everybodyEvery = time.Minute

	// newsEvery is how often another holder in the entry starts the attempts to
	// repair it over.
	newsEvery = time.Minute
	// calmAfter is how long a VIP must have worked for attempts and checks to be made
	// at once again.
	calmAfter = 2 * time.Minute

	// logLines and logEarn bound the log lines about one VIP: so many at once,
	// and one more in every logEarn.
	logLines = 20
	logEarn  = 10 * time.Second
)

// watch is the loop over one VIP. All but the atomics belong to its goroutine.
type watch struct {
	cfg    *Config
	budget *budget
	again  func() // looks for VIPs now
	// sayBlind says once for all VIPs that nobody can be asked.
	sayBlind func()
	target   target
	log      *slog.Logger
	cancel   context.CancelFunc
	done     chan struct{}

	status  atomic.Pointer[report.VIP]
	claimed atomic.Pointer[neigh.Key]
	told    atomic.Pointer[[]neigh.Socket] // the connections to the VIP by the last round, until they are looked up

	tracker     Tracker
	connections connections
	silence     backoff // of attempts to find a holder
	backoff     backoff // of attempts to find one that serves
	calm        backoff // of checks that found nothing wrong
	news        time.Time
	place       neigh.Place
	placed      time.Time // when; zero: look again
	arrived     bool      // on link, or on another device: the connections have not been listed since
	began       time.Time // when the present trouble was first noticed; zero: there is none
	verified    time.Time
	looked      time.Time // when the last look ended
	everybody   time.Time // when everybody is to be asked next
	askedAt     time.Time // when everybody was asked last
	proven      map[neigh.LLAddr]bool
	hold        *hold
	contested   time.Time     // when a hold was last given up
	heldOut     chan struct{} // the entry was taken by a rejected holder, and put back
	blind       bool          // CAP_NET_RAW is missing
	handsOff    bool          // nothing is to be sent to everybody, or changed

	lines      float64 // of the log, spent
	linesAt    time.Time
	suppressed int
}

func newWatch(w *Watcher, t target) *watch {
	return &watch{
		cfg: &w.cfg, budget: &w.budget, again: w.suspicious, sayBlind: w.sayBlind, target: t,
		log:      w.cfg.Log.With("vip", t.addr),
		verified: time.Now(),
		done:     make(chan struct{}), heldOut: make(chan struct{}, 1), proven: make(map[neigh.LLAddr]bool),
	}
}

func (v *watch) start(ctx context.Context) {
	ctx, v.cancel = context.WithCancel(ctx)
	go func() {
		defer close(v.done)
		v.run(ctx)
	}()
}

func (v *watch) stop() {
	v.cancel()
	<-v.done
}

func (v *watch) run(ctx context.Context) {
	defer v.release()
	defer v.claimed.Store(nil)
	v.askedAt = time.Now()
	v.everybody = v.askedAt.Add(jitter(v.everybodyEvery()))
	// Nodes that start together do not look together.
	timer := time.NewTimer(time.Duration(rand.Float64() * float64(v.cfg.Interval))) //nolint:gosec // nothing to guess
	defer timer.Stop()
	for {
		heldOut := false
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-v.heldOut:
			if v.hold == nil || time.Since(v.looked) < v.cfg.Interval/4 {
				continue // it is over, or was asked a moment ago
			}
			heldOut = true
		}
		if ctx.Err() != nil {
			return
		}
		start := time.Now()
		v.look(ctx, heldOut)
		v.looked = time.Now()
		v.publish()
		timer.Reset(max(0, time.Until(v.next(start))))
	}
}

// next returns when to look again after having looked at start.
func (v *watch) next(start time.Time) time.Time {
	next := start.Add(v.cfg.Interval)
	for _, t := range []time.Time{v.connections.next(), v.everybody} {
		// Not sooner than makes sense: what is due already was dealt with, or is
		// put off.
		if t.After(start) && t.Before(next) {
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
func (v *watch) key() neigh.Key { return neigh.Key{Addr: v.target.addr, Index: v.place.Link.Index} }

// look looks at the VIP once, and deals with what it sees.
func (v *watch) look(ctx context.Context, heldOut bool) {
	now := time.Now()
	if !v.locate(now) {
		v.claimed.Store(nil)
		v.release()
		return
	}
	v.endHold(now)
	e, mine, err := v.read(now)
	if err != nil {
		v.log.Debug("reading the entry", "err", err)
		return
	}
	if v.handsOff = v.cfg.DryRun || v.blind || !mine; v.handsOff {
		v.claimed.Store(nil)
		v.release()
	}
	v.observe(now)
	if !e.State.Valid() && (mine || e.LLAddr.Len() == 0) { // somebody else's may be PERMANENT
		v.claimed.Store(nil)
		v.unresolved(ctx, &e)
		return
	}
	if v.tracker.In(Silent) && !v.silence.due(now) && !v.justConfirmed(&e) {
		return
	}
	tries, gap := misses, missGap
	if heldOut {
		tries, gap = heldMisses, heldMissGap
	}
	heard, err := v.reachable(ctx, e.LLAddr, tries, gap)
	now = time.Now()
	why := v.connections.suspect(now)
	if why == "" && v.tracker.In(Failing) && !v.connections.progress {
		why = "it did not serve" // and nothing says that it does
	}
	switch {
	case ctx.Err() != nil:
		return
	case err == nil && !heard:
		v.trouble(now.Add(-time.Duration(tries) * gap))
		v.find(ctx, &e)
	case why != "":
		v.trouble(now)
		v.investigate(ctx, why)
	case err == nil:
		v.works(now)
		v.silence.helped()
		// An agent that has just started finds the entry as old as it is.
		if !now.Before(v.everybody) || v.cfg.Timing.Due(&e, 0) {
			v.askEverybody(ctx)
		}
	case v.blind && len(v.connections.known) > 0: // as far as can be told
		v.works(now)
	}
	v.claim(err == nil)
}

// justConfirmed reports whether the kernel has had an answer since the last look
// or so.
func (v *watch) justConfirmed(e *neigh.Entry) bool {
	return e.State == neigh.Reachable && e.Confirmed < v.cfg.Interval*3/2
}

// locate finds out how the VIP is reached, and reports whether it is on link.
func (v *watch) locate(now time.Time) bool {
	if now.Sub(v.placed) < placeEvery && v.began.IsZero() && v.tracker.Where() == OnLink {
		return true
	}
	p, err := v.cfg.Table.Place(v.target.addr)
	where, reason := OnLink, ""
	switch {
	case err != nil && !errors.Is(err, neigh.ErrGone):
		v.log.Debug("finding the way to the VIP", "err", err)
		return v.tracker.Where() == OnLink
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
	if where == OnLink && v.tracker.Where() == OnLink && p.Link.Index != v.place.Link.Index {
		v.tracker = Tracker{} // another device: what was known is about another entry
		v.release()
	}
	v.arrived = v.arrived || where == OnLink && v.tracker.Where() != OnLink
	v.place, v.placed = p, now
	if where != OnLink {
		v.began = time.Time{}
		v.helped()
	}
	v.happened(v.tracker.Place(where, reason))
	return where == OnLink
}

// read reads the entry and notes whom it names. It reports false where the
// entry is somebody else's. Of one that does not exist it returns the zero State.
func (v *watch) read(now time.Time) (e neigh.Entry, mine bool, err error) {
	e, err = v.cfg.Table.Get(v.key())
	switch {
	case errors.Is(err, neigh.ErrGone):
		e = neigh.Entry{Key: v.key()}
	case err != nil:
		return e, false, err
	default:
		if r := v.verdict(&e).Reason; r.Foreign() {
			v.tracker.Names(now, e.LLAddr, Announced, time.Time{})
			v.happened(v.tracker.Pin(r.String()))
			return e, false, nil
		}
	}
	v.happened(v.tracker.Pin(""))
	if !e.State.Valid() {
		return e, true, nil
	}
	if v.hold != nil && v.hold.rejects(e.LLAddr) {
		// The guard is about to see it, or has no notifications.
		v.write(v.hold.held)
		e.LLAddr = v.hold.held
		return e, true, nil
	}
	if v.hold != nil && e.LLAddr != v.hold.held {
		v.release() // nor is it about whoever this is
	}
	if holder, _ := v.tracker.Holder(); holder != e.LLAddr {
		// Not by us. News is worth a fresh look, whatever was tried before, but not
		// again and again: anybody can make news.
		if now.Sub(v.news) > newsEvery {
			v.helped()
			v.calm.helped()
			v.news = now
		}
		v.happened(v.tracker.Names(now, e.LLAddr, Announced, v.began))
	}
	return e, true, nil
}

// verdict is the policy's, for an entry that is in use whatever its state.
func (v *watch) verdict(e *neigh.Entry) policy.Verdict {
	return v.cfg.Scope.Decide(e, &v.place.Link, true)
}

// tell tells of the connections there are. To list them is to walk through all
// sockets of the machine: it is done for all VIPs at once.
func (v *watch) tell(sockets []neigh.Socket) {
	if mine := v.ours(sockets); len(mine) > 0 {
		v.told.Store(&mine)
	}
}

// ours picks the connections to the VIP.
func (v *watch) ours(sockets []neigh.Socket) (mine []neigh.Socket) {
	for i := range sockets {
		if sockets[i].Remote.Addr() == v.target.addr {
			mine = append(mine, sockets[i])
		}
	}
	return mine
}

// observe takes in the connections to the VIP: those that are known, and those
// that it was told of, are looked up one by one. All are listed when that shows
// too little: one that was known is gone, or none is left, the VIP does not work, or
// it has just come to where it is.
func (v *watch) observe(now time.Time) {
	var look []neigh.Socket
	for _, k := range v.connections.known {
		look = append(look, k.Socket)
	}
	known := len(look)
	if told := v.told.Swap(nil); told != nil {
		for _, s := range *told {
			if v.connections.known[s.Cookie] == nil && len(look) < maxKnown {
				look = append(look, s)
			}
		}
	}
	lacking := known == 0
	var sockets []neigh.Socket
	for i := range look {
		s, err := v.cfg.Sockets.Get(&look[i])
		if err == nil {
			sockets = append(sockets, s)
			continue
		}
		lacking = lacking || i < known
		if !errors.Is(err, neigh.ErrGone) {
			break // the next may wait as long
		}
	}
	if lacking && v.connections.established || v.arrived || !v.began.IsZero() {
		all, err := v.cfg.Sockets.List(v.cfg.Port)
		if err != nil {
			v.log.Debug("listing connections", "err", err)
			return
		}
		sockets, v.arrived = v.ours(all), false
	}
	v.connections.update(now, sockets)
}

// reachable asks one holder, and reports whether it has answered one of so many
// requests. An error means that it could not be asked.
func (v *watch) reachable(ctx context.Context, lladdr neigh.LLAddr, tries int, gap time.Duration) (bool, error) {
	if v.blind {
		return false, neigh.ErrPermission
	}
	q := shield.Question{Addr: v.target.addr, LLAddr: lladdr}
	for range tries {
		heard, err := v.ask(ctx, q, gap, func(r shield.Reply) bool { return r.LLAddr == lladdr })
		if heard || err != nil {
			return heard, err
		}
	}
	return false, nil
}

// ask asks once. It ends early, and reports true, when enough says so of an
// answer.
func (v *watch) ask(ctx context.Context, q shield.Question, window time.Duration, enough func(shield.Reply) bool) (bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := false
	err := v.cfg.Solicitor.Ask(ctx, v.place.Link.Index, []shield.Question{q}, window, func(r shield.Reply) {
		if v.cfg.Hooks.Answered != nil {
			v.cfg.Hooks.Answered(r.RTT)
		}
		if !done && enough(r) {
			done = true
			cancel()
		}
	})
	if done || err == nil {
		return done, nil
	}
	if errors.Is(err, neigh.ErrPermission) && !v.blind {
		v.blind = true
		v.sayBlind()
	}
	if ctx.Err() == nil {
		v.log.Debug("asking for the VIP", "err", err)
		v.placed = time.Time{} // the device may have gone
	}
	return false, err
}

// trouble notes that something is wrong, since the given time at the latest.
func (v *watch) trouble(since time.Time) {
	if v.began.IsZero() {
		v.began = since
		v.again()
	}
}

// works notes that the VIP works.
func (v *watch) works(now time.Time) {
	v.verified, v.began = now, time.Time{}
	for _, b := range []*backoff{&v.backoff, &v.calm} { // not at once: a server may come and go
		if now.Sub(b.next) > calmAfter {
			b.helped()
		}
	}
	v.happened(v.tracker.Works(now))
	v.publish() // what comes next may take a while
}

// helped starts all attempts over.
func (v *watch) helped() {
	v.silence.helped()
	v.backoff.helped()
}

// claim takes the entry over from the sweep, or gives it back where it would not
// be renewed.
func (v *watch) claim(able bool) {
	var key *neigh.Key
	able = able && time.Since(v.askedAt) < 2*v.everybodyEvery()
	if able && !v.handsOff && !v.blind && !v.tracker.In(Silent) && v.tracker.Where() == OnLink {
		k := v.key()
		key = &k
	}
	v.claimed.Store(key)
}

// publish makes what is known visible.
func (v *watch) publish() {
	holder, _ := v.tracker.Holder()
	s := &report.VIP{
		Addr: v.target.addr, Source: string(v.target.source), Holders: v.tracker.Holders(),
		OnLink: v.tracker.Where() == OnLink, HeldHere: v.tracker.Where() == Here, Pinned: v.tracker.Pinned(), Verified: v.verified,
	}
	if s.OnLink {
		s.Device, s.LLAddr = v.place.Link.Name, holder.String()
	}
	v.status.Store(s)
}

// happened logs and counts a change.
func (v *watch) happened(c Change, ok bool) {
	if !ok {
		return
	}
	if v.cfg.Hooks.Happened != nil {
		v.cfg.Hooks.Happened(v.target.addr, c.Event)
	}
	if c.Event == Moved && c.Cause != Announced && v.cfg.Hooks.Repaired != nil {
		v.cfg.Hooks.Repaired(v.target.addr, c.Cause, c.Took)
	}
	if !v.mayLog(time.Now()) {
		v.suppressed++
		return
	}
	level := slog.LevelWarn
	switch c.Event {
	case Moved, Recovered, HeldHere:
		level = slog.LevelInfo
	case Contested:
		level = slog.LevelError
	}
	args := []any{"event", c.Event.String(), "device", v.place.Link.Name}
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
	add("reason", c.Reason, c.Reason != "")
	add("suppressed", v.suppressed, v.suppressed > 0)
	v.suppressed = 0
	v.log.Log(context.Background(), level, "vip "+c.Event.String(), args...)
}

// mayLog bounds the log lines.
func (v *watch) mayLog(now time.Time) bool {
	if !v.linesAt.IsZero() {
		v.lines = max(0, v.lines-now.Sub(v.linesAt).Seconds()/logEarn.Seconds())
	}
	v.linesAt = now
	if v.lines+1 > logLines {
		return false
	}
	v.lines++
	return true
}
