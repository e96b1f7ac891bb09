package sweep

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/pace"
)

// br0 is a bridge that answers for others.
const br0 = 20

func withBridge(b *bench) *bench {
	b.table.topology.Links[br0] = neigh.Link{Index: br0, Name: "br0", Uplink: true, Suppresses: true}
	return b
}

// The bridge would answer a broadcast itself, in the neighbour's name.
func TestNoBroadcastWhereABridgeAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := withBridge(newBench(talking("10.0.0.2", eth0, 0), talking("10.0.1.2", br0, 0)))
		got := b.verify(t.Context(), t, b.jobs())
		for k, o := range got {
			if want := map[int]Method{eth0: ByBroadcast, br0: ByStale}[k.Index]; o.Method != want {
				t.Errorf("%s by %s, want %s", k.Addr, o.Method, want)
			}
		}
		for _, a := range b.solicitor.log() {
			if a.device != eth0 {
				t.Errorf("asked %+v", a)
			}
		}
		if want := []neigh.Key{{Addr: netip.MustParseAddr("10.0.1.2"), Index: br0}}; !slices.Equal(b.fallback.jobs, want) {
			t.Errorf("left to the kernel: %v, want %v", b.fallback.jobs, want)
		}
	})
}

// Behind such a bridge no valid entry is deleted, though nobody uses it: the kernel
// verifies it, and what fails then is deleted. All ages stay within the interval.
func TestIdleEntriesWhereABridgeAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		idle, silent, plain := aged("10.0.1.2", br0, neigh.Stale, time.Minute), aged("10.0.1.3", br0, neigh.Stale, 2*time.Minute), aged("10.0.0.2", eth0, neigh.Stale, time.Minute)
		silent.silent = true
		// Its neighbour has asked for us now and then, which confirms nothing.
		asked := aged("10.0.1.4", br0, neigh.Stale, 0)
		asked.confirmed, asked.updated = asked.confirmed.Add(-interval/2), asked.updated.Add(-interval/2)
		b := withBridge(newBench(idle, silent, plain, asked, talking("10.0.1.5", br0, 0)))
		s := sweeper(b.table, func(c *Config) { c.Verifier = b.Broadcast })
		start(t, s)
		for end := time.Now().Add(10 * interval); time.Now().Before(end) && !t.Failed(); {
			time.Sleep(time.Second)
			b.table.checkAges(t, interval)
			if r := s.Report(); r != nil {
				for _, d := range r.Devices {
					if oldest := d.Families[0].Oldest; oldest[neigh.Resolved] > interval || r.Overdue > 0 {
						t.Errorf("at %v on %s: %v, %d overdue", time.Since(b.table.made), d.Name, oldest, r.Overdue)
					}
				}
			}
		}
		log := b.table.log()
		for _, e := range []*fakeEntry{idle, asked} {
			did := of(log, e.Key)
			if slices.Contains(did, "delete") || len(did) < 10 || len(did) > 33 {
				t.Errorf("%s: did %q, want it verified in each interval", e.Addr, did)
			}
		}
		if did := of(log, silent.Key); !slices.Equal(did, []string{"use", "probe", "delete"}) {
			t.Errorf("a neighbour that is gone: did %q", did)
		}
		if did := of(log, plain.Key); !slices.Equal(did, []string{"delete"}) {
			t.Errorf("an idle entry on another device: did %q", did)
		}
		if asks := b.solicitor.log(); len(asks) != 0 {
			t.Errorf("asked by broadcast: %+v", asks)
		}
	})
}

// The kernel asks again each second for who does not answer. With that, no second has
// more solicitations than an uplink may carry, whether or not something has vouched for
// the entries not long ago.
func TestRetriesOfTheKernelArePaced(t *testing.T) {
	for _, confirmed := range []time.Duration{time.Minute, interval} {
		t.Run(confirmed.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const n = 60
				b := withBridge(newBench())
				for i := range n {
					e := aged(fmt.Sprintf("10.0.1.%d", i+2), br0, neigh.Stale, interval)
					e.silent, e.confirmed = true, time.Now().Add(-confirmed)
					b.table.add(e)
				}
				s := sweeper(b.table, func(c *Config) { c.Verifier = b.Broadcast })
				stop := start(t, s)
				time.Sleep(interval / 2)
				stop()
				most, sum := b.withKernel(neigh.Probe.String(), 0).peak(b.table.made, interval, time.Second)
				if sum != n*kernelTries {
					t.Fatalf("%d requests, want %d for each of %d neighbours that are gone", sum, kernelTries, n)
				}
				if most > pace.PerSecond {
					t.Errorf("%d requests in a second, want %d at most", most, pace.PerSecond)
				}
			})
		})
	}
}
