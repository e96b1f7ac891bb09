package vip

import (
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

const (
	// A successor comes 4 to 20 s after the death of its predecessor: kube-vip's
	// lease takes 5 s, or 15 in cluster-api-provider-vsphere, keepalived 3.6. So
	// everybody is asked every askEarly while the trouble is young, and then less
	// often.
	askEarly  = 5 * time.Second
	askLate   = 15 * time.Second
	youngFor  = 2 * time.Minute
	askAtOnce = time.Second // the least time between two requests, whatever is announced

	// Everybody is asked for the first time within firstWithin, at random: who is there
	// beside the holder has to be known before the holder stands still for a moment.
	// Nodes that start together ask no more often than in an outage (askEarly).
	firstWithin = 10 * time.Second

	// The service of a holder without a rival is checked within lonelySpread, at random:
	// the check only informs people. Of N nodes no more than N/30 a second make one; N/40
	// on average, as some seconds have more than others. And it takes less than 50 s from
	// the beginning of a trouble until a check has refuted it, which is what the alert
	// ArpCacheCleanerVIPUnhealthy waits for: the check may take 4 s.
	lonelySpread = 40 * time.Second
	lonelyEvery  = 35 * time.Second

	// A server that said that it cannot serve, and whose clients are answered again after
	// they were not, is checked between recoverFirst and recoverLast, at random. That its
	// clients are answered proves nothing: what they get may be errors. Before
	// recoverFirst is over, a request that is not answered after all is suspect again.
	recoverFirst = unansweredFor
	recoverLast  = 10 * time.Second

	// againFirst is how long a holder that did not prove itself is not tried again:
	// traffic may be with it for as long as a check takes. It doubles each time, up to
	// againLast.
	againFirst = 10 * time.Second
	againLast  = time.Minute

	// maxKnown bounds what is remembered about hosts and connections.
	maxKnown = 16
)

// attempts says when the next attempts to repair one VIP may be made. It is pure.
type attempts struct {
	began    time.Time // of the present trouble; zero: there is none
	renews   time.Time // everybody is to be asked although all is well
	asked    time.Time // everybody was asked last
	asks     time.Time // everybody may be asked again
	checks   time.Time // a service without a rival may be checked again
	compares time.Time // hosts that answer beside the holder may be compared with it
	stalled  bool      // clients of a server that says that it cannot serve were not answered
	recovers time.Time // and are again: it is to be checked then; zero: they are not
	tried    map[neigh.LLAddr]tried
}

// tried is a holder that did not prove itself.
type tried struct {
	again time.Time     // when it may be tried again
	wait  time.Duration // how long that was
}

// newAttempts returns those of a watch that begins. By its first round it only learns
// who is there. Whether they are one host is found out by a check, and said, no sooner
// than in the next: nodes that start together are to check spread over the time between
// two rounds.
func newAttempts(now time.Time, every time.Duration) attempts {
	return attempts{renews: now.Add(random(min(firstWithin, every))), compares: now.Add(max(firstWithin, every/2))}
}

// trouble notes that the VIP does not work, since the given time at the latest.
func (a *attempts) trouble(since time.Time) {
	a.began = since
	if !a.checks.After(since) { // else one is due already: trouble that comes and goes puts it off no further
		a.checks = since.Add(random(lonelySpread))
	}
}

// over notes that the VIP works.
func (a *attempts) over() { a.began, a.stalled, a.recovers = time.Time{}, false, time.Time{} }

// repaired notes that the entry has moved to a holder that serves: the next trouble is
// another one.
func (a *attempts) repaired() { *a = attempts{renews: a.renews, asked: a.asked, checks: a.checks} }

// askedAt notes that everybody was asked. every is the time between two rounds
// while all is well, before jitter: those put off no attempt.
func (a *attempts) askedAt(now time.Time, every time.Duration) {
	a.asked, a.renews = now, now.Add(jitter(every))
	if a.began.IsZero() {
		return
	}
	step := askLate
	if now.Sub(a.began) < youngFor {
		step = askEarly
	}
	a.asks = now.Add(step*4/5 + random(step/5))
}

// askSoon has everybody asked soon: somebody has announced the VIP, or has its entry.
func (a *attempts) askSoon() { a.asks = earlier(a.asks, a.asked.Add(askAtOnce)) }

// checkedAt notes that the service of a holder without a rival was checked.
func (a *attempts) checkedAt(now time.Time) {
	a.checks, a.recovers = now.Add(lonelyEvery+random(lonelySpread-lonelyEvery)), time.Time{}
}

// clients notes what the connections say of a server that says that it cannot serve.
func (a *attempts) clients(now time.Time, tcp *TCP) {
	switch {
	case tcp.Suspect != "":
		a.stalled, a.recovers = true, time.Time{}
	case a.stalled && tcp.Progress:
		a.stalled, a.recovers = false, now.Add(recoverFirst+random(recoverLast-recoverFirst))
	}
}

// mayCheck reports whether the service of a holder without a rival may be checked.
func (a *attempts) mayCheck(now time.Time) bool {
	return !now.Before(a.checks) || !a.recovers.IsZero() && !now.Before(a.recovers)
}

// failed notes that a holder did not prove itself.
func (a *attempts) failed(h neigh.LLAddr, now time.Time) {
	wait := min(max(2*a.tried[h].wait, againFirst), againLast)
	if a.tried == nil || len(a.tried) >= maxKnown {
		a.tried = make(map[neigh.LLAddr]tried)
	}
	a.tried[h] = tried{now.Add(wait), wait}
}

// again allows a holder that did not prove itself to be tried at once.
func (a *attempts) again(h neigh.LLAddr) { delete(a.tried, h) }

// mayTry reports whether a holder may be tried.
func (a *attempts) mayTry(h neigh.LLAddr, now time.Time) bool { return !now.Before(a.tried[h].again) }

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// random returns a random duration below d.
func random(d time.Duration) time.Duration {
	return time.Duration(rand.Float64() * float64(d)) //nolint:gosec // nothing to guess
}

// jitter returns a random duration around d, from half of it to one and a half.
func jitter(d time.Duration) time.Duration { return d/2 + random(d) }

// budgets bound what is done about one VIP: some at once, and then so much a second.
// Each VIP has its own, so that a flood of answers for one delays no other's repair.
type budgets struct {
	broadcasts, checks, comparisons *rate.Limiter
}

func newBudgets() budgets {
	return budgets{
		broadcasts: rate.NewLimiter(1, 2*misses*misses),
		checks:     rate.NewLimiter(rate.Every(10*time.Second), 2*maxTrials),
		// Whoever answers as a new host each time has everybody compare.
		comparisons: rate.NewLimiter(rate.Every(compareEvery/2), 2),
	}
}

// once says one thing once for all VIPs of a Watcher.
type once struct{ said sync.Map }

func (o *once) do(what string, say func()) {
	if _, before := o.said.LoadOrStore(what, true); !before {
		say()
	}
}
