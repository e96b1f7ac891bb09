package policy

import (
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

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
// neighbour that does not answer, and two scans that find out. Nothing that is
// younger than the interval without the lead can be due, so scans may be far apart:
// a fifteenth of the interval makes the lead a fifth of it. Intervals below 12 s have no
// room for the kernel's verdict then, and get half of themselves.
func NewTiming(interval, scanPeriod time.Duration) Timing {
	return Timing{
		Interval: interval,
		Lead:     min(interval/2, kernelVerdict+3*scanPeriod),
		Grace:    max(2*scanPeriod, minGrace),
	}
}

// Threshold is the age at which an entry is due.
func (t Timing) Threshold() time.Duration { return t.Interval - t.Lead }

// Unconfirmed reports whether nothing has vouched for e, an entry on link, for as long
// as the threshold.
func (t Timing) Unconfirmed(e *neigh.Entry, link *neigh.Link) bool {
	return e.Confirmed >= t.Threshold() && !t.exempt(e, link)
}

// age returns the greatest of the kernel's ages of e, an entry on link, that count.
func (t Timing) age(e *neigh.Entry, link *neigh.Link) time.Duration {
	age := max(e.Used, e.Updated)
	if e.Confirmed > age && !t.exempt(e, link) {
		age = e.Confirmed
	}
	return age
}

// exempt reports whether the confirmed age of e does not count: it has a head start
// (UnconfirmedAge) that alone reaches the threshold, so that every new entry would be
// due at birth. Its other ages, and the agent's own clock, have it renewed in time.
//
// An entry that was never confirmed is known by its confirmed age, which leads both
// others by at least the head start: they may restart, and it does not. One that was
// confirmed once can look like that only after it has been overdue, and is renewed
// by its other ages as well. The head start is that of the present base_reachable_time:
// after a sysctl or a router advertisement has changed that, an entry that is older
// than the change may be renewed early, once.
func (t Timing) exempt(e *neigh.Entry, link *neigh.Link) bool {
	start := link.UnconfirmedAge(e.Addr)
	return start >= t.Threshold() && e.Confirmed >= max(e.Used, e.Updated)+start-time.Second
}

// Exceeded reports whether the kernel's age of e, an entry on link, on any clock is
// above the interval: what is never to be seen.
func (t Timing) Exceeded(e *neigh.Entry, link *neigh.Link) bool { return t.age(e, link) > t.Interval }

// Left returns for how long e, an entry on link, is not due yet; it is 0 or negative
// for one that is. An entry is due when any age of the kernel's, or that of the agent's
// own clock (resolved), has reached the threshold. One in NUD_PROBE is being verified
// already: it is due only when the bound itself is near.
func (t Timing) Left(e *neigh.Entry, link *neigh.Link, resolved time.Duration) time.Duration {
	if e.State == neigh.Probe {
		return t.Interval - t.Grace - t.age(e, link)
	}
	return t.Threshold() - max(resolved, t.age(e, link))
}

// Due reports whether e, an entry on link, is to be renewed now.
func (t Timing) Due(e *neigh.Entry, link *neigh.Link, resolved time.Duration) bool {
	return t.Left(e, link, resolved) <= 0
}
