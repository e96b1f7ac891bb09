package shield

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
)

// event is what happens after an inquiry, the given time after the one before.
type event struct {
	in        time.Duration
	lladdr    byte        // who answers or announces itself; 0: nobody
	announced bool        // it is an announcement
	weak      bool        // a Neighbor Advertisement without Override
	names     byte        // what the entry names by then; 0: what it did
	state     neigh.State // and its state
}

func TestAttend(t *testing.T) {
	const late = 700 * ms
	moved := event{in: late, lladdr: 2, names: 2, state: neigh.Reachable}
	here, gone := [][]Reply{answer(1)}, [][]Reply(nil)
	back, given := "give "+mac(1).String(), "give "+mac(2).String()
	weak := Reply{Addr: key.Addr, LLAddr: mac(1), RTT: ms}
	tests := []struct {
		name   string
		heard  []Reply   // by the inquiry; nil: the incumbent
		nobody bool      // not even that
		byName [][]Reply // what the incumbent answers afterwards
		events []event
		did    []string
		lladdr byte
		more   bool
		took   time.Duration // 0: as long as it may take
	}{
		{name: "nobody is late", lladdr: 1},
		{name: "a late answer has moved the entry", byName: here, events: []event{moved}, did: []string{back}, lladdr: 1, more: true},
		{name: "a late answer, within locktime", events: []event{{in: late, lladdr: 2}}, lladdr: 1, more: true},
		{name: "the incumbent answers again", events: []event{{in: late, lladdr: 1}}, lladdr: 1},
		{name: "one that was in time answers again, late", heard: answer(1, 2), byName: here, events: []event{moved}, did: []string{back}, lladdr: 1},
		{name: "twice late", byName: here, events: []event{moved, moved}, did: []string{back, back}, lladdr: 1, more: true},
		{name: "two are late", byName: here, events: []event{moved, {in: ms, lladdr: 3, names: 3, state: neigh.Reachable}}, did: []string{back, back}, lladdr: 1, more: true},
		{name: "more often than they were asked", byName: here, events: slices.Repeat([]event{{in: 100 * ms, lladdr: 2, names: 2, state: neigh.Reachable}}, 8),
			did: slices.Repeat([]string{back}, maxUndone), lladdr: 2, more: true},
		{name: "too late", events: []event{{in: lateWindows*Window + ms, lladdr: 2, names: 2, state: neigh.Reachable}}, lladdr: 2},

		// What is newer than the inquiry stays.
		{name: "another announces itself", events: []event{{in: late, lladdr: 2, announced: true, names: 2, state: neigh.Stale}}, lladdr: 2, took: late},
		{name: "another announces itself to this host alone", events: []event{{in: late, lladdr: 2, announced: true, names: 2, state: neigh.Reachable}}, lladdr: 2, took: late},
		{name: "another announces itself, and answers late", events: []event{{in: late, lladdr: 2, announced: true, names: 2, state: neigh.Stale}, moved}, lladdr: 2, took: late},
		{name: "another answers late, and announces itself", byName: here, events: []event{moved, {in: 100 * ms, lladdr: 2, announced: true, names: 2, state: neigh.Stale}},
			did: []string{back}, lladdr: 2, more: true, took: late + 100*ms},
		{name: "an administrator has moved it, and another answers late", events: []event{{in: late, lladdr: 2, names: 7, state: neigh.Reachable}}, lladdr: 7, more: true},
		{name: "it was given to the one that is late", events: []event{{in: late, lladdr: 2, names: 2, state: neigh.Delay}}, lladdr: 2, more: true},
		{name: "it was pinned to the one that is late", events: []event{{in: late, lladdr: 2, names: 2, state: neigh.Permanent}}, lladdr: 2, more: true},
		{name: "it has failed", events: []event{{in: late, lladdr: 2, names: 1, state: neigh.Failed}}, lladdr: 1, more: true},
		{name: "the incumbent has gone", byName: gone, events: []event{moved}, did: []string{back, given}, lladdr: 2, more: true, took: late + thereTries*Window},
		{name: "the incumbent has gone, and a third is late", byName: gone, events: []event{moved, {in: 1100 * ms, lladdr: 3, names: 3, state: neigh.Reachable}},
			did: []string{back, given}, lladdr: 3, more: true, took: late + thereTries*Window},
		{name: "the first answer of the incumbent's is lost", byName: [][]Reply{nil, answer(1)}, events: []event{moved}, did: []string{back}, lladdr: 1, more: true},

		// The owner has the entry, and not a proxy.
		{name: "the owner is later than a proxy", heard: []Reply{weak}, events: []event{moved}, lladdr: 2, more: true},
		{name: "a proxy is later than the owner", events: []event{{in: late, lladdr: 2, weak: true}}, lladdr: 1, more: true},

		// The incumbent was not heard.
		{name: "another is late where nobody answered", nobody: true, byName: gone, events: []event{moved}, did: []string{back, given}, lladdr: 2, more: true, took: late + thereTries*Window},
		{name: "another is late where broadcasts do not reach the incumbent", nobody: true, byName: here, events: []event{moved}, did: []string{back}, lladdr: 1, more: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				table := &fakeTable{entry: entry(neigh.Reachable)}
				s := &fakeSolicitor{answers: tt.byName}
				turns := 0
				a := &Asker{Table: table, Solicitor: s, Scope: &policy.Scope{}, Pace: func(context.Context, int, int) error {
					turns++
					return nil
				}}
				q := inquiry()
				q.Incumbent, q.tries = *table.entry, 1
				l, err := a.Late(q)
				if err != nil {
					t.Fatal(err)
				}
				if tt.heard == nil && !tt.nobody {
					tt.heard = answer(1)
				}
				for _, r := range tt.heard {
					q.Hear(r)
				}
				done := make(chan struct{})
				go func() {
					for _, e := range tt.events {
						time.Sleep(e.in)
						if e.names > 0 {
							table.entry.LLAddr, table.entry.State = mac(e.names), e.state
						}
						s.overheard(Overheard{Reply{Addr: key.Addr, LLAddr: mac(e.lladdr), Override: !e.weak}, e.announced})
					}
					close(done)
				}()
				began := time.Now()
				if more := l.Attend(t.Context()); more != tt.more {
					t.Errorf("more holders: %v (%v)", more, q.Holders)
				}
				if took, want := time.Since(began), tt.took; took != want && (want > 0 || took != lateWindows*Window && s.asked == 0) {
					t.Errorf("it took %v, want %v", took, want)
				}
				<-done // what comes afterwards is nobody's business
				if table.entry.LLAddr != mac(tt.lladdr) || !slices.Equal(table.did, tt.did) {
					t.Errorf("the entry names %s after %q; want %s after %q", table.entry.LLAddr, table.did, mac(tt.lladdr), tt.did)
				}
				if s.asked != s.byName || s.asked != turns || s.asked > thereTries {
					t.Errorf("asked %d times, %d of them by name, in %d turns", s.asked, s.byName, turns)
				}
				if l.Stop(); s.overheard != nil {
					t.Error("still listening")
				}
			})
		})
	}
}

// Nobody waits for late answers any more when the agent stops; where they cannot be
// heard, the error names the address.
func TestAttendIsCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSolicitor{}
		a := &Asker{Table: &fakeTable{entry: entry(neigh.Reachable)}, Solicitor: s, Scope: &policy.Scope{}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		l, err := a.Late(inquiry())
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if more := l.Attend(ctx); more || time.Since(began) != time.Second {
			t.Errorf("more holders: %v, after %v", more, time.Since(began))
		}
		s.overErr = errFake
		if _, err := a.Late(inquiry()); !errors.Is(err, errFake) || !strings.Contains(err.Error(), key.Addr.String()) {
			t.Errorf("%v", err)
		}
	})
}

// Short intervals leave less time for late answers, and a flood of them is dropped.
func TestLateAnswersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSolicitor{}
		table := &fakeTable{entry: entry(neigh.Reachable)}
		a := &Asker{Table: table, Solicitor: s, Scope: &policy.Scope{}, Window: 100 * ms}
		q := inquiry()
		q.Incumbent = *table.entry
		l, _ := a.Late(q)
		for i := range 10 * maxLate {
			s.overheard(Overheard{Reply: Reply{Addr: netip.MustParseAddr("10.0.0.2"), LLAddr: mac(byte(2 + i%250)), Override: true}})
		}
		began := time.Now()
		if more := l.Attend(t.Context()); !more || len(q.Holders) > maxLate || time.Since(began) != lateWindows*100*ms {
			t.Errorf("%d holders after %v", len(q.Holders), time.Since(began))
		}
	})
}
