package vip

import (
	"math/rand/v2"
	"sync"
	"time"
)

// steps are how long a watch waits between two attempts while nothing helps,
// before jitter. Of N nodes that lose a VIP at once, all have made the second
// attempt within ten seconds, and no more than N/20 a second make the third.
var steps = [...]time.Duration{3 * time.Second, 20 * time.Second, time.Minute}

// backoff spaces out the attempts to repair one VIP.
type backoff struct {
	step int
	next time.Time
}

// due reports whether another attempt may be made.
func (b *backoff) due(now time.Time) bool { return !now.Before(b.next) }

// failed notes an attempt that did not help.
func (b *backoff) failed(now time.Time) {
	b.next = now.Add(jitter(steps[b.step]))
	b.step = min(b.step+1, len(steps)-1)
}

// helped starts over.
func (b *backoff) helped() { *b = backoff{} }

// jitter returns a random duration around d, from half of it to one and a half.
func jitter(d time.Duration) time.Duration {
	return d/2 + time.Duration(rand.Float64()*float64(d)) //nolint:gosec // nothing to guess
}

const (
	// allowance is how many broadcasts and checks one node may have made at
	// once: some for each of maxVIPs.
	allowance = 6 * maxVIPs
	// refill is how long it takes to earn another one.
	refill = 2 * time.Second
)

// budget bounds the broadcasts and checks of all watches of a node together.
type budget struct {
	mu    sync.Mutex
	spent float64
	at    time.Time
}

// take spends n, or reports that so much is not there.
func (b *budget) take(now time.Time, n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.at.IsZero() {
		b.spent = max(0, b.spent-now.Sub(b.at).Seconds()/refill.Seconds())
	}
	b.at = now
	if b.spent+float64(n) > allowance {
		return false
	}
	b.spent += float64(n)
	return true
}
