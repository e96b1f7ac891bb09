package shield

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
)

const ms = time.Millisecond

var (
	key     = neigh.Key{Addr: netip.MustParseAddr("10.0.0.2"), Index: 2}
	link    = neigh.Link{Index: 2, Name: "eth0"}
	errFake = errors.New("fault")
)

func mac(n byte) neigh.LLAddr {
	a, _ := neigh.LLAddrFrom([]byte{2, 0, 0, 0, 0, n})
	return a
}

// fakeTable has one entry at most, and writes down what is done to it.
type fakeTable struct {
	mu                     sync.Mutex
	entry                  *neigh.Entry
	did                    []string
	getErr, setErr, useErr error
}

func (f *fakeTable) Get(neigh.Key) (neigh.Entry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.getErr != nil:
		return neigh.Entry{}, f.getErr
	case f.entry == nil:
		return neigh.Entry{}, neigh.ErrGone
	}
	return *f.entry, nil
}

func (f *fakeTable) SetState(_ neigh.Key, s neigh.State) error {
	if f.setErr != nil {
		return f.setErr
	}
	f.did = append(f.did, s.String())
	f.entry.State = s
	return nil
}

func (f *fakeTable) Use(neigh.Key) error {
	if f.useErr != nil {
		return f.useErr
	}
	f.did = append(f.did, "use")
	if f.entry.State == neigh.Stale {
		f.entry.State = neigh.Delay
	}
	return nil
}

func (f *fakeTable) Give(_ neigh.Key, lladdr neigh.LLAddr, flags neigh.Flags) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.did = append(f.did, "give "+lladdr.String())
	f.entry.LLAddr, f.entry.State, f.entry.Flags = lladdr, neigh.Delay, flags
	return nil
}

// fakeSolicitor answers the n-th Ask with answers[n].
type fakeSolicitor struct {
	answers [][]Reply
	errs    []error
	slow    time.Duration
	hear    func(n int, r Reply) // ahead of the reply
	asked   int
	byName  int // of them, those that asked mac(1) alone

	overheard func(Overheard)
	until     time.Time
	overErr   error
}

func (s *fakeSolicitor) Overhear(_ int, _ netip.Addr, until time.Time, hear func(Overheard)) error {
	s.until, s.overheard = until, hear
	return s.overErr
}

func (s *fakeSolicitor) Ask(ctx context.Context, _ int, q Question, window time.Duration, reply func(Reply)) error {
	n := s.asked
	s.asked++
	if q.LLAddr == mac(1) {
		s.byName++
	}
	if n < len(s.errs) && s.errs[n] != nil {
		return s.errs[n]
	}
	if n < len(s.answers) {
		for _, r := range s.answers[n] {
			if s.hear != nil {
				s.hear(n, r)
			}
			reply(r)
		}
	}
	t := time.NewTimer(window + s.slow)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func entry(state neigh.State) *neigh.Entry {
	return &neigh.Entry{Key: key, LLAddr: mac(1), State: state}
}

func answer(n ...byte) (all []Reply) {
	for _, i := range n {
		all = append(all, Reply{Addr: key.Addr, LLAddr: mac(i), RTT: ms, Override: true})
	}
	return all
}

func inquiry() *Inquiry { return &Inquiry{Key: key, Link: &link, NextHop: true} }

func TestRaise(t *testing.T) {
	foreign := entry(neigh.Reachable)
	foreign.Flags = neigh.FlagExtLearned
	tests := []struct {
		name    string
		entry   *neigh.Entry
		fault   func(*fakeTable)
		want    string
		wantErr error
	}{
		{name: "reachable", entry: entry(neigh.Reachable), want: "stale use"},
		{name: "delay", entry: entry(neigh.Delay), want: "stale use"},
		{name: "stale", entry: entry(neigh.Stale), want: "use"},
		{name: "the kernel is probing it", entry: entry(neigh.Probe), wantErr: ErrChanged},
		{name: "failed", entry: entry(neigh.Failed), wantErr: ErrChanged},
		{name: "incomplete", entry: entry(neigh.Incomplete), wantErr: ErrChanged},
		{name: "permanent", entry: entry(neigh.Permanent), wantErr: ErrChanged},
		{name: "somebody else's", entry: foreign, wantErr: ErrChanged},
		{name: "gone", wantErr: neigh.ErrGone},
		{name: "it cannot be read", entry: entry(neigh.Reachable), fault: func(f *fakeTable) { f.getErr = errFake }, wantErr: errFake},
		// The kernel may have changed it all the same, and lost the answer.
		{name: "it cannot be changed", entry: entry(neigh.Reachable), fault: func(f *fakeTable) { f.setErr = errFake }, want: "use", wantErr: errFake},
		{name: "gone as it is changed", entry: entry(neigh.Reachable), fault: func(f *fakeTable) { f.setErr = neigh.ErrGone }, wantErr: neigh.ErrGone},
		{name: "it cannot be used", entry: entry(neigh.Reachable), fault: func(f *fakeTable) { f.useErr = errFake }, want: "stale", wantErr: errFake},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			table := &fakeTable{entry: tt.entry}
			if tt.fault != nil {
				tt.fault(table)
			}
			a := &Asker{Table: table, Scope: &policy.Scope{}}
			q := inquiry()
			err := a.Raise(q)
			if got := strings.Join(table.did, " "); got != tt.want || !errors.Is(err, tt.wantErr) {
				t.Errorf("%q and %v, want %q and %v", got, err, tt.want, tt.wantErr)
			}
			if err == nil && q.Incumbent.LLAddr != mac(1) {
				t.Errorf("the incumbent is %s", q.Incumbent.LLAddr)
			}
		})
	}
}

func TestAsk(t *testing.T) {
	tests := []struct {
		name      string
		solicitor fakeSolicitor
		during    func(*fakeTable)
		window    time.Duration
		asked     int
		byName    int
		holders   []byte
		complete  bool
		did       []string // beyond the first shield
		err       error
	}{
		{name: "the incumbent answers", solicitor: fakeSolicitor{answers: [][]Reply{answer(1)}}, asked: 1, holders: []byte{1}, complete: true},
		{name: "two of its answers are lost", solicitor: fakeSolicitor{answers: [][]Reply{nil, answer(2), nil, answer(2, 1)}}, asked: 4, byName: 1, holders: []byte{2, 1}, complete: true, did: []string{"stale", "use"}},
		{name: "another answers", solicitor: fakeSolicitor{answers: [][]Reply{answer(2), nil, answer(2), nil, answer(2)}}, asked: 5, byName: 2, holders: []byte{2}, complete: true, did: []string{"stale", "use", "stale", "use"}},
		{name: "another answers, and the incumbent by name", solicitor: fakeSolicitor{answers: [][]Reply{answer(2), answer(1)}}, asked: 2, byName: 1, holders: []byte{2, 1}, complete: true},
		{name: "another answers, and the incumbent by name at last", solicitor: fakeSolicitor{answers: [][]Reply{answer(2), nil, answer(2), answer(1)}}, asked: 4, byName: 2, holders: []byte{2, 1}, complete: true, did: []string{"stale", "use"}},
		{name: "two others answer, and the incumbent by name", solicitor: fakeSolicitor{answers: [][]Reply{answer(2, 3), answer(1)}}, asked: 2, byName: 1, holders: []byte{2, 3, 1}, complete: true},
		{name: "nobody answers at first, then another", solicitor: fakeSolicitor{answers: [][]Reply{nil, answer(2), nil, answer(2)}}, asked: 4, byName: 1, holders: []byte{2}, complete: true, did: []string{"stale", "use"}},
		{name: "another answers at last", solicitor: fakeSolicitor{answers: [][]Reply{nil, nil, answer(2)}}, asked: 3, holders: []byte{2}, complete: true, did: []string{"stale", "use"}},
		{name: "asking by name fails", solicitor: fakeSolicitor{answers: [][]Reply{answer(2)}, errs: []error{nil, errFake}}, asked: 2, byName: 1, holders: []byte{2}, err: errFake},

		{name: "nobody answers", asked: 3, complete: true, did: []string{"stale", "use"}},
		{name: "nobody answers, in a short window", window: 100 * ms, asked: 3, complete: true},
		{name: "slow sending", solicitor: fakeSolicitor{slow: 400 * ms}, asked: 3, complete: true, did: []string{"stale", "use", "stale", "use"}},
		{name: "answers for what was not asked", solicitor: fakeSolicitor{answers: [][]Reply{{{Addr: netip.MustParseAddr("10.0.0.9"), LLAddr: mac(9)}}, answer(1)}}, asked: 2, holders: []byte{1}, complete: true},
		{name: "it cannot be sent", solicitor: fakeSolicitor{errs: []error{nil, errFake}}, asked: 2, err: errFake},
		{name: "the entry moved before the shield is raised again", during: func(f *fakeTable) { f.entry.LLAddr = mac(5) }, asked: 3, complete: true},
		{name: "it became somebody else's by then", during: func(f *fakeTable) { f.entry.State = neigh.Permanent }, asked: 3, complete: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				table := &fakeTable{entry: entry(neigh.Reachable)}
				rtts := 0
				a := &Asker{Table: table, Solicitor: &tt.solicitor, Scope: &policy.Scope{}, Window: tt.window, Answered: func(Reply) { rtts++ }}
				q := inquiry()
				if err := a.Raise(q); err != nil {
					t.Fatal(err)
				}
				if tt.during != nil {
					tt.during(table)
				}
				table.did = nil
				err := a.Ask(t.Context(), q)
				if !errors.Is(err, tt.err) || tt.solicitor.asked != tt.asked || tt.solicitor.byName != tt.byName || q.Complete != tt.complete {
					t.Errorf("asked %d times, %d of them by name, complete %v, %v", tt.solicitor.asked, tt.solicitor.byName, q.Complete, err)
				}
				var holders []byte
				for _, h := range q.Holders {
					holders = append(holders, h.Bytes()[5])
				}
				if !slices.Equal(holders, tt.holders) || q.IncumbentHeard() != slices.Contains(tt.holders, 1) {
					t.Errorf("holders %v, want %v", holders, tt.holders)
				}
				if !slices.Equal(table.did, tt.did) {
					t.Errorf("did %q, want %q", table.did, tt.did)
				}
				if tt.holders != nil && rtts == 0 {
					t.Error("no round-trip time")
				}
			})
		})
	}
}

// Every try but the first waits for its turn, and the shield is up again after a
// long wait.
func TestTriesWaitForTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := &fakeTable{entry: entry(neigh.Reachable)}
		s := &fakeSolicitor{}
		turns := 0
		a := &Asker{Table: table, Solicitor: s, Scope: &policy.Scope{}, Pace: func(ctx context.Context, device int) error {
			if device != 2 || turns+1 != s.asked {
				t.Errorf("turn %d on device %d after %d tries", turns, device, s.asked)
			}
			turns++
			table.did = append(table.did, "turn")
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After([]time.Duration{0, 700 * ms, time.Second}[turns]):
				return nil
			}
		}}
		q := inquiry()
		if err := errors.Join(a.Raise(q), a.Ask(t.Context(), q)); err != nil || !q.Complete {
			t.Fatal(err, q.Complete)
		}
		if got, want := strings.Join(table.did, " "), "stale use turn stale use turn stale use"; got != want {
			t.Errorf("did %q, want %q", got, want)
		}

		q, turns, s.asked = inquiry(), 0, 0
		ctx, cancel := context.WithTimeout(t.Context(), Window+100*ms)
		defer cancel()
		err := errors.Join(a.Raise(q), a.Ask(ctx, q))
		if !errors.Is(err, context.DeadlineExceeded) || q.Complete || s.asked != 1 {
			t.Errorf("while it waits for its turn: complete %v after %d tries, %v", q.Complete, s.asked, err)
		}
	})
}

// An Ask that is cut short says so, even if its Solicitor does not.
func TestAskIsCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		table := &fakeTable{entry: entry(neigh.Reachable)}
		s := &fakeSolicitor{answers: [][]Reply{answer(2)}, hear: func(int, Reply) { cancel() }}
		q := inquiry()
		a := &Asker{Table: table, Solicitor: s, Scope: &policy.Scope{}}
		err := errors.Join(a.Raise(q), a.Ask(ctx, q))
		if !errors.Is(err, context.Canceled) || q.Complete {
			t.Errorf("complete %v, %v", q.Complete, err)
		}
	})
}

// Where locktime is 0, the incumbent is put back as soon as both have answered.
func TestIncumbentIsPutBack(t *testing.T) {
	for _, order := range [][]byte{{1, 2}, {2, 1}} {
		synctest.Test(t, func(t *testing.T) {
			table := &fakeTable{entry: entry(neigh.Reachable)}
			s := &fakeSolicitor{answers: [][]Reply{answer(order...)}}
			s.hear = func(_ int, r Reply) { table.entry.LLAddr, table.entry.State = r.LLAddr, neigh.Reachable }
			a := &Asker{Table: table, Solicitor: s, Scope: &policy.Scope{}}
			q := inquiry()
			if err := errors.Join(a.Raise(q), a.Ask(t.Context(), q)); err != nil {
				t.Fatal(err)
			}
			if table.entry.LLAddr != mac(1) {
				t.Errorf("answers %v: the entry names %s", order, table.entry.LLAddr)
			}
			// No answer that only we have heard makes an entry NUD_REACHABLE.
			if order[1] == 2 && table.entry.State != neigh.Delay {
				t.Errorf("put back as %s", table.entry.State)
			}
		})
	}
}

// A host that broadcasts do not reach keeps its entry against one that answers them all.
// Where locktime is 0, the entry is with the other for no longer than it takes to write
// it; where the incumbent is gone, it is the other's to have after the last try. Linux answers what is not multicast without the Override flag.
func TestIncumbentIsAskedByName(t *testing.T) {
	byName := Reply{Addr: key.Addr, LLAddr: mac(1), RTT: ms}
	for _, there := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			table := &fakeTable{entry: entry(neigh.Reachable)}
			s := &fakeSolicitor{answers: [][]Reply{answer(2), nil, answer(2), nil, answer(2)}}
			if there {
				s.answers[1] = []Reply{byName}
			}
			s.hear = func(_ int, r Reply) {
				if r.Override {
					table.entry.LLAddr, table.entry.State = r.LLAddr, neigh.Reachable
				}
			}
			a := &Asker{Table: table, Solicitor: s, Scope: &policy.Scope{}}
			q := inquiry()
			began := time.Now()
			if err := errors.Join(a.Raise(q), a.Ask(t.Context(), q)); err != nil {
				t.Fatal(err)
			}
			want, asked, gives, waits := mac(2), Tries+2, Tries, Tries+2
			if there { // its answer is not waited beyond
				want, asked, gives, waits = mac(1), 2, 1, 1
			}
			gave := slices.DeleteFunc(table.did, func(do string) bool { return !strings.HasPrefix(do, "give") })
			if h, ok := q.Holder(); h != want || !ok || table.entry.LLAddr != mac(1) || s.asked != asked {
				t.Errorf("there=%v: it is to name %s (%v), and names %s after asking %d times; want %s after %d", there, h, ok, table.entry.LLAddr, s.asked, want, asked)
			}
			if len(gave) != gives || gave[0] != "give "+mac(1).String() {
				t.Errorf("there=%v: %q", there, gave)
			}
			if took := time.Since(began); took != time.Duration(waits)*Window {
				t.Errorf("there=%v: it took %v", there, took)
			}
		})
	}
}

// pausing is a segment on which mac(2) answers everybody, and mac(1) from a time on.
type pausing struct {
	fakeSolicitor
	from time.Time
}

func (s *pausing) Ask(ctx context.Context, device int, q Question, window time.Duration, reply func(Reply)) error {
	var now []Reply
	if q.LLAddr == (neigh.LLAddr{}) {
		now = answer(2)
	}
	if !time.Now().Before(s.from) {
		now = append(now, answer(1)...)
	}
	s.answers, s.asked = [][]Reply{now}, 0
	return s.fakeSolicitor.Ask(ctx, device, q, window, reply)
}

// A virtual machine that migrates, or a router that fails over, is silent for some
// seconds. A duplicate of its address must not get the entry for that. Where there is
// less time, less is waited.
func TestHolderThatStandsStill(t *testing.T) {
	for _, tt := range []struct {
		lead, silent time.Duration
		keeps        bool
		took         time.Duration
	}{
		{time.Minute, 400 * time.Millisecond, true, Window}, // asked by name
		{time.Minute, 4 * time.Second, true, Patience/2 + Window},
		{time.Minute, 8 * time.Second, true, Patience + Window},
		{time.Minute, time.Hour, false, Patience + Window},
		{10 * time.Second, 4 * time.Second, true, 7500*time.Millisecond/2 + Window}, // the same
		{5 * time.Second, 4 * time.Second, false, 3750*time.Millisecond + Window},
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			table := &fakeTable{entry: entry(neigh.Reachable)}
			a := &Asker{Table: table, Solicitor: &pausing{from: began.Add(tt.silent)}, Scope: &policy.Scope{}, Patience: PatienceFor(tt.lead)}
			q := inquiry()
			if err := errors.Join(a.Raise(q), a.Ask(t.Context(), q)); err != nil {
				t.Fatal(err)
			}
			want := mac(2)
			if tt.keeps {
				want = mac(1)
			}
			if h, ok := q.Holder(); h != want || !ok {
				t.Errorf("silent for %v, with a lead of %v: it is to name %s (%v), want %s", tt.silent, tt.lead, h, ok, want)
			}
			if took := time.Since(began); took != tt.took {
				t.Errorf("silent for %v, with a lead of %v: it took %v, want %v", tt.silent, tt.lead, took, tt.took)
			}
		})
	}
}

// A proxy that the entry names is not put back where the kernel has moved the entry
// to the owner, whoever answers first.
func TestProxyIsNotPutBack(t *testing.T) {
	proxy, owner := Reply{Addr: key.Addr, LLAddr: mac(1), RTT: ms}, answer(2)[0]
	for _, replies := range [][]Reply{{proxy, owner}, {owner, proxy}} {
		synctest.Test(t, func(t *testing.T) {
			table := &fakeTable{entry: entry(neigh.Reachable)}
			s := &fakeSolicitor{answers: [][]Reply{replies}}
			s.hear = func(_ int, r Reply) {
				if r.Override {
					table.entry.LLAddr, table.entry.State = r.LLAddr, neigh.Reachable
				}
			}
			a := &Asker{Table: table, Solicitor: s, Scope: &policy.Scope{}}
			q := inquiry()
			if err := errors.Join(a.Raise(q), a.Ask(t.Context(), q)); err != nil {
				t.Fatal(err)
			}
			if table.entry.LLAddr != mac(2) || len(table.did) > 4 || replies[0] == proxy && len(table.did) != 2 {
				t.Errorf("the entry names %s after %q", table.entry.LLAddr, table.did)
			}
		})
	}
}

// Whom an entry should name, by the answers to its tries. The entry names mac(1).
func TestHolder(t *testing.T) {
	strong := func(n byte) Reply { return Reply{LLAddr: mac(n), Override: true} } // ARP, or ND with Override
	weak := func(n byte) Reply { return Reply{LLAddr: mac(n)} }
	type tries = [][]Reply
	thrice := func(r ...Reply) tries { return tries{r, r, r} }
	tests := []struct {
		name  string
		tries tries
		cut   bool // the last try was not the last
		want  byte // 0: the answers do not tell
	}{
		{name: "nobody", tries: thrice()},
		{name: "the incumbent", tries: tries{{strong(1)}}, want: 1},
		{name: "the incumbent, so far", tries: tries{{strong(1)}}, cut: true, want: 1},
		{name: "the incumbent at the last try", tries: tries{{strong(2)}, {strong(2)}, {strong(2), strong(1)}}, want: 1},
		{name: "the incumbent and several others", tries: tries{{strong(2), strong(3), strong(1)}}, want: 1},
		{name: "one other, each time", tries: thrice(strong(2)), want: 2},
		{name: "one other, each time and often", tries: thrice(strong(2), strong(2), strong(2)), want: 2},
		{name: "one other, so far", tries: tries{{strong(2)}, {strong(2)}}, cut: true},
		{name: "one other, who missed a try", tries: tries{{strong(2)}, nil, {strong(2), strong(2)}}},
		{name: "two others, each time", tries: thrice(strong(2), strong(3))},
		{name: "two others, one of them once", tries: tries{{strong(2)}, {strong(2), strong(3)}, {strong(2)}}},

		{name: "a proxy that is the incumbent, alone", tries: tries{{weak(1)}}, want: 1},
		{name: "a proxy that is the incumbent, then the owner", tries: tries{{weak(1), strong(2)}}, want: 2},
		{name: "the owner, then a proxy that is the incumbent", tries: tries{{strong(2), weak(1)}}, want: 2},
		{name: "a proxy that is the incumbent, and two owners", tries: tries{{weak(1), strong(2), strong(3)}}},
		{name: "two proxies", tries: tries{{weak(2), weak(1)}}, want: 1},
		{name: "the incumbent, and a proxy", tries: tries{{weak(2), strong(1)}}, want: 1},
		{name: "the incumbent, who answered the kernel's unicast as well", tries: tries{{weak(1), strong(2), strong(1)}}, want: 1},
		{name: "a proxy alone, each time", tries: thrice(weak(2))},
		{name: "another owner beside a proxy, each time", tries: thrice(weak(2), strong(3)), want: 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			q := inquiry()
			q.Incumbent, q.Complete = *entry(neigh.Delay), !tt.cut
			for _, replies := range tt.tries {
				q.tries++
				for _, r := range replies {
					q.Hear(r)
				}
			}
			var want neigh.LLAddr
			if tt.want > 0 {
				want = mac(tt.want)
			}
			if got, ok := q.Holder(); got != want || ok != (tt.want > 0) {
				t.Errorf("got %s, %v; want %s", got, ok, want)
			}
		})
	}
}

func TestHold(t *testing.T) {
	named := func(n byte, state neigh.State) *neigh.Entry {
		e := entry(state)
		e.LLAddr, e.Flags = mac(n), neigh.FlagRouter
		return e
	}
	managed := named(2, neigh.Reachable)
	managed.FlagsExt = neigh.FlagManaged
	tests := []struct {
		name   string
		entry  *neigh.Entry
		lladdr byte
		want   string
		err    error
	}{
		{name: "it is there", entry: named(1, neigh.Stale), lladdr: 1},
		{name: "one that answered is there", entry: named(2, neigh.Reachable), lladdr: 1, want: "give " + mac(1).String()},
		{name: "the incumbent gives way", entry: named(1, neigh.Delay), lladdr: 2, want: "give " + mac(2).String()},
		{name: "it has failed meanwhile", entry: named(1, neigh.Failed), lladdr: 1, want: "give " + mac(1).String()},
		{name: "one that did not answer has been announced", entry: named(7, neigh.Stale), lladdr: 1, err: ErrChanged},
		{name: "permanent", entry: named(2, neigh.Permanent), lladdr: 1, err: ErrChanged},
		{name: "managed", entry: managed, lladdr: 1, err: ErrChanged},
		{name: "gone", lladdr: 1, err: neigh.ErrGone},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			table := &fakeTable{entry: tt.entry}
			a := &Asker{Table: table, Scope: &policy.Scope{}}
			q := inquiry()
			q.Incumbent, q.Holders = *entry(neigh.Reachable), []neigh.LLAddr{mac(2)}
			if err := a.Hold(q, mac(tt.lladdr)); !errors.Is(err, tt.err) {
				t.Errorf("%v, want %v", err, tt.err)
			}
			if got := strings.Join(table.did, " "); got != tt.want {
				t.Errorf("did %q, want %q", got, tt.want)
			}
			if tt.want != "" && table.entry.Flags != neigh.FlagRouter {
				t.Error("the flags are lost")
			}
		})
	}
}
