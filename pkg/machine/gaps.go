package machine

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Gaps finds the time for which this machine was suspended. CLOCK_BOOTTIME counts it,
// and CLOCK_MONOTONIC, by which Go and the kernel's own ages of entries go, does not.
//
// The wall clock is not used. NTP sets it forward on all nodes at once, and all of
// them would ask for everything. So a freeze that the kernel does not notice (a
// virtual machine stopped by its hypervisor) is not counted: all ages go on from
// where they stood. It is safe for concurrent use.
type Gaps struct {
	read func() clocks

	mu    sync.Mutex
	last  clocks
	total time.Duration
}

// clocks are readings of CLOCK_MONOTONIC and CLOCK_BOOTTIME.
type clocks struct{ monotonic, boot time.Duration }

// NewGaps starts with none.
func NewGaps() *Gaps { return newGaps(readClocks) }

func newGaps(read func() clocks) *Gaps { return &Gaps{read: read, last: read()} }

// Total returns the sum of all gaps so far.
func (g *Gaps) Total() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.read()
	gap := now.boot - g.last.boot - (now.monotonic - g.last.monotonic)
	if gap >= time.Millisecond { // less than that is between the two readings
		g.total += gap
	}
	g.last = now
	return g.total
}

func readClocks() clocks {
	read := func(id int32) time.Duration {
		var t unix.Timespec
		_ = unix.ClockGettime(id, &t) // both exist since 2.6.39; zeros mean no gaps
		return time.Duration(t.Nano())
	}
	return clocks{monotonic: read(unix.CLOCK_MONOTONIC), boot: read(unix.CLOCK_BOOTTIME)}
}
