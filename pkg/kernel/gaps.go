package kernel

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// leap is by how much the wall clock must be ahead of itself for that to be a
// gap. Below are the corrections of a clock that is merely wrong.
const leap = 10 * time.Second

// Gaps finds the time that passed while this machine stood still: suspended, or
// a virtual machine frozen for a snapshot. CLOCK_MONOTONIC, by which Go and the
// kernel's own ages of entries go, counts none of it.
//
// CLOCK_BOOTTIME counts what the kernel knows of, which is suspension. Of a
// freeze the kernel learns nothing, and all that tells is that the wall clock is
// set forward afterwards, by the hypervisor's tools or by NTP. A clock that is
// set forward for another reason looks the same: then everything is asked for
// once more, which costs little. It is safe for concurrent use.
type Gaps struct {
	read func() clocks

	mu    sync.Mutex
	last  clocks
	total time.Duration
}

// clocks are readings of CLOCK_MONOTONIC, CLOCK_BOOTTIME and CLOCK_REALTIME.
type clocks struct{ monotonic, boot, wall time.Duration }

// NewGaps starts with none.
func NewGaps() *Gaps { return newGaps(readClocks) }

func newGaps(read func() clocks) *Gaps { return &Gaps{read: read, last: read()} }

// Total returns the sum of all gaps so far.
func (g *Gaps) Total() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.read()
	ran := now.monotonic - g.last.monotonic
	gap := max(0, now.boot-g.last.boot-ran)
	if ahead := now.wall - g.last.wall - ran; ahead >= leap {
		gap = max(gap, ahead)
	}
	if gap < time.Millisecond { // the clocks are not read at the same time
		gap = 0
	}
	g.last = now
	g.total += gap
	return g.total
}

func readClocks() clocks {
	read := func(id int32) time.Duration {
		var t unix.Timespec
		_ = unix.ClockGettime(id, &t) // these three exist since 2.6.39; zeros mean no gaps
		return time.Duration(t.Nano())
	}
	return clocks{monotonic: read(unix.CLOCK_MONOTONIC), boot: read(unix.CLOCK_BOOTTIME), wall: read(unix.CLOCK_REALTIME)}
}
