package sweep

import (
	"cmp"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
)

// A device with a long base_reachable_time: the confirmed age of a new entry is
// above the interval from the first moment on. It lives as long as any other.
func TestNewEntryIsNotRenewedAtBirth(t *testing.T) {
	for _, tt := range []struct {
		name     string
		interval time.Duration
		base     time.Duration
	}{
		{"default", 300 * time.Second, 0},
		{"200 s", 300 * time.Second, 200 * time.Second},
		{"30 min, short interval", 10 * time.Second, 30 * time.Minute},
		{"as long as the interval", 300 * time.Second, 150 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				table := newFake()
				link := table.topology.Links[eth0]
				link.BaseReachable[0] = tt.base
				table.topology.Links[eth0] = link
				timing := policy.NewTiming(tt.interval, tt.interval/15)
				s := sweeper(table, func(c *Config) { c.Timing, c.ScanPeriod = timing, tt.interval/15 })
				startSettled(t, s)
				head := 2 * cmp.Or(tt.base, 30*time.Second)
				born := func(addr string) *fakeEntry {
					e := aged(addr, eth0, neigh.Stale, 0)
					e.confirmed = e.confirmed.Add(-head)
					table.add(e)
					return e
				}
				e := born("10.0.0.2")
				hop := born("10.0.0.3")
				table.nextHop(hop.Key, true)
				lives := timing.Threshold() // of the default, the confirmed age has come so far
				if head < timing.Threshold() {
					lives -= head
				}
				for waited := time.Duration(0); waited < lives-time.Second; waited += time.Second {
					time.Sleep(time.Second)
					if log := table.log(); len(log) > 0 {
						t.Fatalf("after %v: %+v", waited, log)
					}
					if n := s.Report().Overdue; n != 0 {
						t.Fatalf("%d overdue entries after %v", n, waited)
					}
				}
				time.Sleep(time.Second + tt.interval - timing.Threshold())
				if did := of(table.log(), e.Key); !slices.Equal(did, []string{"delete"}) {
					t.Errorf("in the end: did %q", did)
				}
				if did := of(table.log(), hop.Key); len(did) == 0 || did[0] != "use" {
					t.Errorf("in the end, next hop: did %q", did)
				}
				if n := s.Report().Overdue; n != 0 {
					t.Errorf("%d overdue entries in the end", n)
				}
			})
		})
	}
}
