package solicit

import (
	"net/netip"
	"sync"
	"testing"
	"time"
)

// Asks that overlap use a Conn each, and the next ones use the same again: opening
// and closing packet sockets ten times a second would cost more than all else.
func TestPoolKeepsWhatOverlaps(t *testing.T) {
	s := newSegment(t)
	p := NewPool(func(netip.Addr, int) (netip.Addr, error) { return netip.MustParseAddr("10.0.0.1"), nil })
	overlap := func(n int) {
		t.Helper()
		var wg sync.WaitGroup
		for range n {
			wg.Go(func() {
				err := s.a.Do(func() error {
					return p.Ask(t.Context(), s.port.Index, []Target{{Addr: netip.MustParseAddr("10.0.0.9")}}, 300*time.Millisecond, func(Answer) {})
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	overlap(5)
	kept := make(map[*Conn]bool)
	for _, c := range p.idle[s.port.Index] {
		kept[c.Conn] = true
	}
	if len(kept) != 5 {
		t.Errorf("%d are kept of 5 that overlapped", len(kept))
	}
	overlap(5)
	for _, c := range p.idle[s.port.Index] {
		if !kept[c.Conn] {
			t.Error("a Conn was opened although 5 were idle")
		}
	}
	overlap(maxKept + 3)
	if n := len(p.idle[s.port.Index]); n != maxKept {
		t.Errorf("%d are kept, want %d", n, maxKept)
	}
	// What nobody has used for long is closed by the next one, whatever its device.
	old := p.idle[s.port.Index]
	for i := range old[:maxKept-1] {
		old[i].since = time.Now().Add(-2 * maxIdle)
	}
	overlap(1)
	if n := len(p.idle[s.port.Index]); n != 1 {
		t.Errorf("%d are kept for longer than %v", n-1, maxIdle)
	}
	if !old[0].closed.Load() {
		t.Error("one that is not kept is not closed")
	}
	p.Close()
	overlap(2)
	if len(p.idle) != 0 {
		t.Errorf("%d devices have any after Close", len(p.idle))
	}
}
