package sweep

import (
	"errors"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
)

// Method is how an entry was renewed.
type Method string

// The methods.
const (
	ByDelete Method = "delete" // removed while idle
	ByStale  Method = "stale"  // set to NUD_STALE: the next packet makes the kernel verify it
	ByProbe  Method = "probe"  // set to NUD_PROBE: the kernel verifies it by unicast at once
)

// Methods lists all methods.
var Methods = [...]Method{ByDelete, ByStale, ByProbe}

// errChanged says that an entry, read again before it was touched, called for
// another verdict.
var errChanged = errors.New("entry changed since the scan")

// InPlace verifies entries with nothing but CAP_NET_ADMIN, by turning the
// kernel's own state machine (RFC 4861 section 7.3.3, neigh_timer_handler in
// net/core/neighbour.c). The entry keeps its link-layer address and goes on
// carrying packets at every step.
type InPlace struct {
	Table  Table
	Scope  *policy.Scope
	Timing policy.Timing
}

// Verify has the kernel ask for seen again. It returns errChanged where the
// entry is no longer what the scan saw.
func (v *InPlace) Verify(seen *neigh.Entry, link *neigh.Link, nextHop bool) (Method, error) {
	e, err := v.Table.Get(seen.Key)
	if err != nil {
		return ByStale, err
	}
	if v.Scope.Decide(&e, link, nextHop).Action != policy.Verify {
		return ByStale, errChanged
	}
	unconfirmed := v.Timing.Overdue(&e, neigh.Confirmed)
	switch {
	case nextHop:
		return v.nextHop(&e, unconfirmed)
	case unconfirmed && !v.Timing.Overdue(&e, neigh.Used):
		// Packets flow, but nothing that came back has vouched for the entry
		// within the interval: it is shorter than the kernel's own cycle of
		// base_reachable_time and delay_first_probe_time, and by way of
		// NUD_STALE the answer would be 5 s late.
		return ByProbe, v.Table.SetState(e.Key, neigh.Probe)
	}
	return ByStale, v.Table.SetState(e.Key, neigh.Stale)
}

// nextHop verifies an entry that must be right even while no packet flows. It
// does what the next packet would do.
func (v *InPlace) nextHop(e *neigh.Entry, unconfirmed bool) (Method, error) {
	if e.State != neigh.Stale {
		if err := v.Table.SetState(e.Key, neigh.Stale); err != nil {
			return ByStale, err
		}
	}
	if err := v.Table.Use(e.Key); err != nil {
		return ByStale, err
	}
	if unconfirmed {
		return ByProbe, v.Table.SetState(e.Key, neigh.Probe)
	}
	return ByStale, nil
}
