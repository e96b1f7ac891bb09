package sweep

import (
	"context"
	"errors"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/shield"
)

// Job is an entry that is to be verified, as the scan saw it.
type Job struct {
	Entry   neigh.Entry
	Link    neigh.Link
	NextHop bool

	age   time.Duration // the greatest of its used, updated and resolved ages
	left  time.Duration // until it is due
	crowd bool          // many others were due as well
}

// Outcome is what came of a verification.
type Outcome struct {
	Method Method
	Err    error
	// Holders are the distinct link-layer addresses that answered for the
	// entry. Nil where the kernel asks, and its answer is not waited for.
	Holders []neigh.LLAddr
	// Late says that this adds to an outcome that was reported before: more holders have
	// answered since.
	Late bool
}

// Verifier has entries verified in place: they are asked for afresh and stay
// usable meanwhile.
type Verifier interface {
	// Verify starts to verify the jobs. It hands each outcome to report, once,
	// from any goroutine, and may return before all are reported. One that is Late
	// may follow. It ends early when ctx is done.
	Verify(ctx context.Context, jobs []Job, report func(*Job, Outcome))
	// Wait returns when everything that was started has been reported.
	Wait()
}

// Method is how an entry was renewed.
type Method uint8

// The methods.
const (
	ByDelete    Method = iota + 1 // removed while idle
	ByBroadcast                   // asked for by broadcast, every answer heard
	ByStale                       // set to NUD_STALE and used, as a packet would: the kernel verifies it
	ByProbe                       // set to NUD_PROBE: the kernel verifies it by unicast at once
)

// String returns the name used in metric labels and logs.
func (m Method) String() string {
	switch m {
	case ByDelete:
		return "delete"
	case ByBroadcast:
		return "broadcast"
	case ByStale:
		return "stale"
	case ByProbe:
		return "probe"
	}
	return "unknown"
}

var (
	errChanged = shield.ErrChanged
	// errUnanswered says that nobody answered. The entry is left to the kernel.
	errUnanswered = errors.New("nobody answered")
	// errUndecided says that others answered, but not the holder that the entry names,
	// and not one of them alone each time. The entry is left to the kernel.
	errUndecided = errors.New("others answered, and not one alone each time")
)

// InPlace verifies entries with nothing but CAP_NET_ADMIN, by turning the
// kernel's own state machine (RFC 4861 section 7.3.3, neigh_timer_handler in
// net/core/neighbour.c). The entry keeps its link-layer address and goes on
// carrying packets at every step.
type InPlace struct {
	Table  Table
	Scope  *policy.Scope
	Timing policy.Timing
}

// Verify implements Verifier. All outcomes are reported when it returns.
func (v *InPlace) Verify(ctx context.Context, jobs []Job, report func(*Job, Outcome)) {
	var hung error // the kernel does not answer: waiting again for each entry would stop the loop
	for i := range jobs {
		if err := ctx.Err(); err != nil {
			report(&jobs[i], Outcome{Method: ByStale, Err: errChanged})
			continue
		}
		m, err := ByStale, hung
		if hung == nil {
			m, err = v.verify(&jobs[i])
		}
		if errors.Is(err, neigh.ErrTimeout) {
			hung = err
		}
		report(&jobs[i], Outcome{Method: m, Err: err})
	}
}

// Wait implements Verifier.
func (v *InPlace) Wait() {}

func (v *InPlace) verify(j *Job) (Method, error) {
	e, err := shield.Reread(v.Table, v.Scope, j.Entry.Key, &j.Link, j.NextHop)
	if err != nil {
		return ByStale, err
	}
	idle := j.Link.Suppresses && e.State == neigh.Stale
	if err := shield.Raise(v.Table, &e); err != nil || !idle && !v.Timing.Unconfirmed(&e, &j.Link) {
		return ByStale, err
	}
	// Nothing has vouched for the entry within the interval, which is shorter
	// than the kernel's own cycle of base_reachable_time and
	// delay_first_probe_time, or nobody uses it: a next hop, or any entry behind a
	// bridge that answers for others. By way of NUD_DELAY the answer would be 5 s
	// late, and there the requests for all that were due together would come together.
	return ByProbe, v.Table.SetState(e.Key, neigh.Probe)
}
