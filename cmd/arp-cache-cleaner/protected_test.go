package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/kernel"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/pace"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/shield"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/sweep"
)

// openTable opens the table of a lab host.
func openTable(t *testing.T, h *lab.Host) *kernel.Table {
	t.Helper()
	var table *kernel.Table
	if err := h.Do(func() (err error) {
		table, err = kernel.Open()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(table.Close)
	return table
}

// hostSolicitor asks from a lab host, whoever calls it: packet sockets belong to
// the namespace of the thread that opens them.
type hostSolicitor struct {
	host *lab.Host
	solicitor
}

func (s *hostSolicitor) Ask(ctx context.Context, device int, q shield.Question, window time.Duration, reply func(shield.Reply)) error {
	return s.host.Do(func() error { return s.solicitor.Ask(ctx, device, q, window, reply) })
}

func (s *hostSolicitor) Overhear(device int, addr netip.Addr, until time.Time, hear func(shield.Overheard)) error {
	return s.host.Do(func() error { return s.solicitor.Overhear(device, addr, until, hear) })
}

// A thousand passes, to each of which everything is due, over one real entry of
// every kind that somebody else owns.
func TestProtectedThroughAThousandPasses(t *testing.T) {
	t.Parallel()
	passes := 1000
	if testing.Short() {
		passes = 100
	}
	l := lab.Start(t)
	sw := l.Switch()
	node, peer := l.Host("node"), l.Host("peer")
	port := node.Plug(sw, "eth0", nodeMAC, "10.0.0.1/24", "2001:db8::1/64")
	peer.Plug(sw, "eth0", peerMAC, "10.0.0.2/24", "10.0.0.3/24")
	node.Batch(strings.Join(protected, "\n"))
	node.IP("neigh add proxy 10.0.0.120 dev eth0")
	node.IP("neigh add proxy 2001:db8::120 dev eth0")

	table := openTable(t, node)
	scope := &policy.Scope{}
	timing := policy.NewTiming(2*time.Second, 100*time.Millisecond)
	asker := &hostSolicitor{node, newSolicitor(table)}
	t.Cleanup(asker.Close)
	inPlace := &sweep.InPlace{Table: table, Scope: scope, Timing: timing}
	broadcast := &sweep.Broadcast{Table: table, Solicitor: asker, Pacer: &pace.Pacer{}, Scope: scope, Timing: timing, Fallback: inPlace, Log: slog.New(slog.DiscardHandler)}
	sweepers := map[bool]*sweep.Sweeper{}
	for byBroadcast, v := range map[bool]sweep.Verifier{false: inPlace, true: broadcast} {
		sweepers[byBroadcast] = sweep.New(sweep.Config{
			Table: table, Verifier: v, Scope: scope, Timing: timing, ScanPeriod: 100 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
		})
	}
	watch := func() map[neigh.Key]neigh.Entry {
		found := make(map[neigh.Key]neigh.Entry)
		if err := table.Dump(func(e *neigh.Entry) {
			if e.Index == port.Index && (isProtected(e.Addr.String()) || e.State == neigh.NoARP) {
				found[e.Key] = *e
			}
		}); err != nil {
			t.Fatal(err)
		}
		return found
	}
	before := watch()
	if len(before) < len(protected) {
		t.Fatalf("%d protected entries to begin with, want %d at least", len(before), len(protected))
	}
	stop := monitor(t, node)
	var deleted, verified int
	for pass := range passes {
		// What is the agent's own, so that each pass has something to do.
		node.Batch(fmt.Sprintf("neigh replace 10.0.0.%d lladdr 02:00:00:00:00:50 dev eth0 nud stale\n"+
			"neigh replace 2001:db8::%x lladdr 02:00:00:00:00:50 dev eth0 nud stale\n"+
			"neigh replace 10.0.0.2 lladdr %s dev eth0 nud reachable", 130+pass%100, 0x1000+pass%100, peerMAC))
		sum, err := sweepers[pass%50 == 0].Once(t.Context())
		if err != nil || sum.Failed > 0 {
			t.Fatalf("pass %d: %v, %v", pass, sum, err)
		}
		deleted, verified = deleted+sum.Deleted, verified+sum.Verified
		after := watch()
		for k, was := range before {
			is, ok := after[k]
			if !ok {
				t.Fatalf("pass %d: %s is gone, it was %+v", pass, k.Addr, was)
			}
			if is.Flags != was.Flags || is.FlagsExt != was.FlagsExt || is.Protocol != was.Protocol || was.FlagsExt == 0 && is.LLAddr != was.LLAddr {
				t.Fatalf("pass %d: %s is %+v, it was %+v", pass, k.Addr, is, was)
			}
			// Every write restarts this age, and so does the kernel when it changes
			// the state by itself: of managed entries, and of reachable ones in time.
			if is.State == was.State && is.FlagsExt == 0 && is.Updated < was.Updated {
				t.Fatalf("pass %d: %s was written to: %+v, it was %+v", pass, k.Addr, is, was)
			}
			if aged := was.State == neigh.Reachable && is.State == neigh.Stale; is.State != was.State && !aged && is.FlagsExt == 0 {
				t.Fatalf("pass %d: %s went from %v to %v", pass, k.Addr, was.State, is.State)
			}
			before[k] = is
		}
	}
	for line := range strings.Lines(stop()) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Deleted" && isProtected(f[1]) {
			t.Errorf("%s", line)
		}
	}
	for _, proxy := range []string{"10.0.0.120", "2001:db8::120"} {
		if shown := node.IP("neigh show proxy") + node.IP("-6 neigh show proxy"); !strings.Contains(shown, proxy) {
			t.Errorf("the proxy entry %s is gone:\n%s", proxy, shown)
		}
	}
	if deleted < passes || verified < passes {
		t.Errorf("%d entries deleted and %d verified in %d passes: the passes did nothing", deleted, verified, passes)
	}
}
