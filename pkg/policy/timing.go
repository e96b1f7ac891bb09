package policy

import (
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// unconfirmedAge is where the kernel starts the confirmed age of an entry that
// was never confirmed: 2 x base_reachable_time (neigh_create), which is 30 s
// unless somebody turned the sysctl.
const unconfirmedAge = 60 * time.Second

// kernelVerdict is how long the kernel takes to declare an entry in NUD_PROBE
// failed: ucast_solicit (3) probes, retrans_time (1 s) apart, and some margin.
const kernelVerdict = 3500 * time.Millisecond

// minGrace is the least Grace. A large table takes longer to scan than the
// shortest scan periods are.
const minGrace = 100 * time.Millisecond

// Timing says when entries are due.
type Timing struct {
	// Interval bounds every age of a learned entry.
	Interval time.Duration
	// Lead is how long before Interval an entry becomes due, so that it is
	// renewed in time although scans are periodic and work is paced.
	Lead time.Duration
	// Grace is how long before Interval an entry that the kernel is probing is
	// given up, because its neighbour has not answered.
	Grace time.Duration
}

// NewTiming returns the timing for an interval that is watched every
// scanPeriod. The lead holds all that may happen to an entry before its age
// restarts: one scan that comes just too early, the kernel's verdict on a
// neighbour that does not answer, and two scans that find out. Intervals below
// 7 s have no room for the kernel's verdict and get half of themselves.
func NewTiming(interval, scanPeriod time.Duration) Timing {
	return Timing{
		Interval: interval,
		Lead:     min(interval/2, kernelVerdict+3*scanPeriod),
		Grace:    max(2*scanPeriod, minGrace),
	}
}

// Threshold is the age at which an entry is due.
func (t Timing) Threshold() time.Duration { return t.Interval - t.Lead }

// Overdue reports whether the kernel's age of e on clock c has reached the
// threshold.
func (t Timing) Overdue(e *neigh.Entry, c neigh.Clock) bool {
	return t.reached(e, c, t.Threshold())
}

// reached reports whether the kernel's age of e on clock c has reached limit.
//
// The confirmed age of an entry that was never confirmed starts at 60 s. An
// interval no longer than that would make every new entry due at birth, so
// there it does not count.
func (t Timing) reached(e *neigh.Entry, c neigh.Clock, limit time.Duration) bool {
	switch c {
	case neigh.Used:
		return e.Used >= limit
	case neigh.Updated:
		return e.Updated >= limit
	case neigh.Confirmed:
		return e.Confirmed >= limit && !t.exempt(e)
	}
	return false
}

// exempt recognises an entry whose present link-layer address was never
// confirmed: its confirmed age leads both other ages by the head start.
func (t Timing) exempt(e *neigh.Entry) bool {
	return t.Interval <= unconfirmedAge && e.Confirmed >= max(e.Used, e.Updated)+unconfirmedAge-time.Second
}

// Exceeded reports whether the kernel's age of e on any clock is above the
// interval: what is never to be seen.
func (t Timing) Exceeded(e *neigh.Entry) bool {
	limit := t.Interval + time.Nanosecond
	return t.reached(e, neigh.Used, limit) || t.reached(e, neigh.Confirmed, limit) || t.reached(e, neigh.Updated, limit)
}

// Left returns for how long e, which the kernel is not probing, is not due yet. It
// is 0 or negative for one that is.
func (t Timing) Left(e *neigh.Entry, resolved time.Duration) time.Duration {
	age := max(resolved, e.Used, e.Updated)
	if !t.exempt(e) {
		age = max(age, e.Confirmed)
	}
	return t.Threshold() - age
}

// Due reports whether e is to be renewed now: any age of the kernel's, or the
// age of the agent's own clock, has reached the threshold. An entry in
// NUD_PROBE is being verified already and is due only when the bound itself is
// near.
func (t Timing) Due(e *neigh.Entry, resolved time.Duration) bool {
	limit := t.Threshold()
	if e.State == neigh.Probe {
		limit, resolved = t.Interval-t.Grace, 0
	}
	return resolved >= limit || t.reached(e, neigh.Used, limit) ||
		t.reached(e, neigh.Confirmed, limit) || t.reached(e, neigh.Updated, limit)
}
