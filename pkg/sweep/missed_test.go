package sweep

import (
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// The machine is suspended: neither Go's clock nor the kernel's ages count the
// time. What was verified before it has not been
// verified for as long, and is asked for with the first scan after it.
func TestSuspensionCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inUse := talking("10.0.0.1", eth0, 0)
		idle := aged("10.0.0.2", eth0, neigh.Stale, 0)
		others := aged("10.0.0.3", eth0, neigh.Permanent, 0)
		table := newFake(inUse, idle, others)
		var missed atomic.Int64
		var text strings.Builder
		s := sweeper(table, func(c *Config) {
			c.Missed = func() time.Duration { return time.Duration(missed.Load()) }
			c.Log = slog.New(slog.NewTextHandler(&text, nil))
		})
		s.random = func() float64 { return 0 } // nobody is due early
		stop := startSettled(t, s)
		time.Sleep(10 * period)
		if log := table.log(); len(log) > 0 {
			t.Fatalf("before it: %+v", log)
		}
		missed.Store(int64(interval - 10*period))
		time.Sleep(period)
		if got := of(table.log(), inUse.Key); len(got) == 0 {
			t.Error("the entry in use was not verified")
		}
		if got := of(table.log(), idle.Key); len(got) != 1 || got[0] != "delete" {
			t.Errorf("the idle entry: %q, want it deleted", got)
		}
		if got := of(table.log(), others.Key); len(got) > 0 {
			t.Errorf("somebody else's entry: %q", got)
		}
		// Once: the clocks have restarted.
		done := len(table.log())
		time.Sleep(10 * period)
		if log := table.log(); len(log) != done {
			t.Errorf("after it: %+v", log[done:])
		}
		stop()
		if got := strings.Count(text.String(), "this machine was suspended"); got != 1 {
			t.Errorf("said %d times:\n%s", got, text.String())
		}
	})
}
