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
				a := &Asker{Table: table, Solicitor: s, Scope: &policy.Scope{}, Pace: func(context.Context, int) error {
					turns++
					return nil
				}}
				q := inquiry()
				q.Incumbent, q.tries = *table.entry, 1
				if tt.heard == nil && !tt.nobody {
					tt.heard = answer(1)
				}
				for _, r := range tt.heard {
					q.Hear(r)
				}
				late := make(chan *Late, 1)
				if err := a.Late(q, func(l *Late) { late <- l }); err != nil || time.Until(s.until) != LateFor(Window) {
					t.Fatalf("%v, listening for %v", err, time.Until(s.until))
				}
				before := len(q.Holders)
				done := make(chan struct{})
				go func() {
					for _, e := range tt.events {
						time.Sleep(e.in)
						if e.names > 0 {
							table.mu.Lock()
							table.entry.LLAddr, table.entry.State = mac(e.names), e.state
							table.mu.Unlock()
						}
						s.overheard(Overheard{Reply{Addr: key.Addr, LLAddr: mac(e.lladdr), Override: !e.weak}, e.announced})
					}
					close(done)
				}()
				began := time.Now()
				select {
				case l := <-late:
					if holders := l.Attend(t.Context()); (holders != nil) != tt.more || tt.more && (len(holders) <= before || !slices.Equal(holders, q.Holders)) {
						t.Errorf("more holders: %v (%v)", holders, q.Holders)
					}
				case <-time.After(time.Until(s.until)):
					if tt.more {
						t.Error("there is nobody late")
					}
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
			})
		})
	}
}

// late has late answers to an inquiry for mac(1)'s entry attended to.
func late(t *testing.T, a *Asker, q *Inquiry) *Late {
	t.Helper()
	late := make(chan *Late, 1)
	if err := a.Late(q, func(l *Late) { late <- l }); err != nil {
		t.Fatal(err)
	}
	a.Solicitor.(*fakeSolicitor).overheard(Overheard{Reply: answer(2)[0]})
	return <-late
}

// Nobody waits for late answers any more when the agent stops; where they cannot be
// heard, the error names the address.
func TestAttendIsCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSolicitor{}
		a := &Asker{Table: &fakeTable{entry: entry(neigh.Reachable)}, Solicitor: s, Scope: &policy.Scope{}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		q := inquiry()
		q.Incumbent = *entry(neigh.Reachable)
		began := time.Now()
		if late(t, a, q).Attend(ctx); time.Since(began) != time.Second {
			t.Errorf("it took %v", time.Since(began))
		}
		s.overErr = errFake
		if err := a.Late(q, func(*Late) {}); !errors.Is(err, errFake) || !strings.Contains(err.Error(), key.Addr.String()) {
			t.Errorf("%v", err)
		}
	})
}

// Short intervals leave less time for late answers, and a flood of them is dropped.
func TestLateAnswersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSolicitor{}
		a := &Asker{Table: &fakeTable{entry: entry(neigh.Reachable)}, Solicitor: s, Scope: &policy.Scope{}, Window: 100 * ms}
		q := inquiry()
		q.Incumbent = *entry(neigh.Reachable)
		l := late(t, a, q)
		for i := range 10 * maxLate {
			s.overheard(Overheard{Reply: answer(byte(3 + i%200))[0]})
		}
		began := time.Now()
		if holders := l.Attend(t.Context()); len(holders) != maxLate || time.Since(began) != LateFor(100*ms) {
			t.Errorf("%d holders after %v", len(holders), time.Since(began))
		}
	})
}

// In Neighbor Discovery a late answer may come before anybody listens.
func TestLateAnswerBeforeAnybodyListens(t *testing.T) {
	for addr, want := range map[string]byte{"fe80::1": 1, "10.0.0.2": 2} {
		synctest.Test(t, func(t *testing.T) {
			table := &fakeTable{entry: entry(neigh.Reachable)}
			s := &fakeSolicitor{answers: [][]Reply{answer(1)}}
			a := &Asker{Table: table, Solicitor: s, Scope: &policy.Scope{}}
			q := inquiry()
			q.Incumbent, q.Key.Addr, q.tries = *table.entry, netip.MustParseAddr(addr), 1
			q.Hear(answer(1)[0])
			table.entry.LLAddr = mac(2)
			s.answers[0][0].Addr = q.Key.Addr
			if err := a.Late(q, func(l *Late) { go l.Attend(t.Context()) }); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			if table.entry.LLAddr != mac(want) {
				t.Errorf("%s: the entry names %s, want %s", addr, table.entry.LLAddr, mac(want))
			}
		})
	}
}
