package sweep

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// The table cannot be read for a while. When it can be again, the agent still
// knows how long ago it asked for each entry, and what came due meanwhile is
// dealt with by the first scan.
func TestClocksOutliveAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		young := talking("10.0.0.1", eth0, 10*time.Second)
		old := aged("10.0.0.2", eth0, neigh.Stale, 200*time.Second)
		table := newFake(young, old)
		var broken atomic.Bool
		table.dumpErr = func(int) error {
			if broken.Load() {
				return errors.New("broken")
			}
			return nil
		}
		s := sweeper(table)
		s.random = func() float64 { return 0 } // nobody is due early
		startSettled(t, s)
		time.Sleep(period)
		broken.Store(true)
		time.Sleep(100 * time.Second)
		if s.Ready(time.Now()) == nil {
			t.Fatal("ready in an outage")
		}
		if log := table.log(); len(log) > 0 {
			t.Errorf("in the outage: %+v", log)
		}
		broken.Store(false)
		time.Sleep(period)
		if got := of(table.log(), old.Key); len(got) != 1 || got[0] != "delete" {
			t.Errorf("what came due in the outage: %q, want it deleted", got)
		}
		time.Sleep(calmPeriods * period) // the next report is without it
		want := 10*time.Second + time.Second + 2*period + 100*time.Second
		got := s.Report().Devices[0].Families[0].Oldest[neigh.Resolved]
		if got < want || got > want+2*period {
			t.Errorf("the clock of the other one says %v, want %v", got, want)
		}
	})
}
