package sweep

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
)

// What somebody else claims is left to him, and its age is counted from when he says
// that he had it asked for. Once he gives it back it is renewed like any other.
func TestClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		claimed, other := talking("10.0.0.1", eth0, 0), talking("10.0.0.2", eth0, 0)
		table := newFake(claimed, other)
		table.nextHop(claimed.Key, true) // so that it is reported one by one
		var claims atomic.Pointer[[]neigh.Key]
		claims.Store(&[]neigh.Key{claimed.Key})
		s := sweeper(table)
		s.LeaveTo(func() []neigh.Key { return *claims.Load() })
		stop := startSettled(t, s)
		time.Sleep(2 * interval)
		if got := of(table.log(), claimed.Key); len(got) > 0 {
			t.Errorf("the claimed entry: %q", got)
		}
		if got := of(table.log(), other.Key); len(got) == 0 {
			t.Error("the other entry was not renewed: the setup renews nothing")
		}
		s.Renewed(claimed.Key, time.Now())
		time.Sleep(2 * period)
		r := s.Report()
		if n := r.Kept[policy.Watched]; n != 1 {
			t.Errorf("%d entries kept as claimed, want 1", n)
		}
		if age := r.Entries[0].Ages[neigh.Resolved]; age > 2*period {
			t.Errorf("asked for %v ago by the report, want %v at most", age, 2*period)
		}
		claims.Store(new([]neigh.Key))
		time.Sleep(2 * interval)
		if got := of(table.log(), claimed.Key); len(got) == 0 {
			t.Error("the entry that was given back was not renewed")
		}
		stop()
	})
}
