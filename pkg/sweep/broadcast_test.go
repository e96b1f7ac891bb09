package sweep

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/pace"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/shield"
)

const ms = time.Millisecond

// answer is one answer to a solicitation.
type answer struct {
	lladdr byte
	delay  time.Duration
	from   int  // the first try that it answers, counted from 0
	weak   bool // a Neighbor Advertisement without Override
	byName bool // broadcasts do not reach it, or its answers to them are lost until from
	late   bool // it comes when nobody waits for it any more
}

// ask is one call of the Solicitor.
type ask struct {
	device int
	shield.Question
	window time.Duration
	at     time.Time
}

// fakeSolicitor is a segment: it answers, and so tells the kernel as well.
type fakeSolicitor struct {
	table   *fakeTable
	answers map[netip.Addr][]answer
	stray   *shield.Reply                      // heard with every solicitation, and asked for by nobody
	err     func(n int) error                  // what the n-th Ask ends with, having heard nothing
	during  func(n int)                        // runs as soon as the n-th is sent
	deaf    bool                               // the kernel hears nothing
	slow    time.Duration                      // what an Ask takes beyond its window
	quiet   bool                               // an Ask that is cut short returns no error
	unasked func(n int, addr netip.Addr) error // why the n-th Ask has no address to ask from

	mu    sync.Mutex
	asks  []ask
	tries map[netip.Addr]int
	overs map[netip.Addr][]over
}

// over is one call of Overhear.
type over struct {
	until time.Time
	hear  func(shield.Overheard)
}

// Overhear implements shield.Solicitor.
func (s *fakeSolicitor) Overhear(_ int, addr netip.Addr, until time.Time, hear func(shield.Overheard)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.overs == nil {
		s.overs = make(map[netip.Addr][]over)
	}
	s.overs[addr] = append(s.overs[addr], over{until, hear})
	return nil
}

// say has everybody who listens, and the kernel, hear a late answer or an announcement.
func (s *fakeSolicitor) say(device int, o shield.Overheard) {
	k := neigh.Key{Addr: o.Addr, Index: device}
	if o.Announced {
		s.table.update(k, func(e *fakeEntry) { e.LLAddr, e.State, e.updated = o.LLAddr, neigh.Stale, time.Now() })
	} else {
		s.table.answer(k, o.LLAddr, o.Override)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, over := range s.overs[o.Addr] {
		if !time.Now().After(over.until) {
			over.hear(o)
		}
	}
}

func (s *fakeSolicitor) Ask(ctx context.Context, device int, q shield.Question, window time.Duration, reply func(shield.Reply)) error {
	s.mu.Lock()
	s.asks = append(s.asks, ask{device, q, window, time.Now()})
	n := len(s.asks)
	if s.tries == nil {
		s.tries = make(map[netip.Addr]int)
	}
	type due struct {
		shield.Reply
		forward bool // it is for an entry of ours
	}
	var dues []due
	if s.unasked != nil {
		if why := s.unasked(n, q.Addr); why != nil {
			s.mu.Unlock()
			return why
		}
	}
	byName := q.LLAddr != neigh.LLAddr{}
	do := map[bool]string{false: "ask", true: "name"}[byName]
	s.table.note(do, neigh.Key{Addr: q.Addr, Index: device})
	for _, a := range s.answers[q.Addr] {
		if byName && a.byName && q.LLAddr == mac(a.lladdr) || !byName && (!a.byName || a.from > 0) && s.tries[q.Addr] >= a.from {
			r := shield.Reply{Addr: q.Addr, LLAddr: mac(a.lladdr), RTT: a.delay, Override: !a.weak}
			if a.late {
				time.AfterFunc(a.delay, func() { s.say(device, shield.Overheard{Reply: r}) })
				continue
			}
			dues = append(dues, due{r, true})
		}
	}
	if !byName {
		s.tries[q.Addr]++
	}
	s.mu.Unlock()
	if s.err != nil {
		if err := s.err(n); err != nil {
			return err
		}
	}
	if s.during != nil {
		s.during(n)
	}
	if s.stray != nil {
		dues = append(dues, due{*s.stray, false})
	}
	slices.SortStableFunc(dues, func(a, b due) int { return int(a.RTT - b.RTT) })
	sent := time.Now()
	for _, d := range dues {
		if d.RTT > window {
			break
		}
		if !pace.Sleep(ctx, time.Until(sent.Add(d.RTT))) {
			return s.cut(ctx)
		}
		if d.forward && !s.deaf {
			s.table.answer(neigh.Key{Addr: d.Addr, Index: device}, d.LLAddr, d.Override)
		}
		reply(d.Reply)
	}
	if !pace.Sleep(ctx, time.Until(sent.Add(window+s.slow))) {
		return s.cut(ctx)
	}
	return nil
}

// cut is how an Ask ends whose context is done: with its error, or with what
// was heard by then.
func (s *fakeSolicitor) cut(ctx context.Context) error {
	if s.quiet {
		return nil
	}
	return ctx.Err()
}

// set changes who answers for addr.
func (s *fakeSolicitor) set(addr netip.Addr, answers ...answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[addr] = answers
}

func (s *fakeSolicitor) log() []ask {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asks)
}

// note writes down what happens to an entry beside the table.
func (f *fakeTable) note(do string, k neigh.Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ops = append(f.ops, op{do: do, key: k, at: time.Since(f.made), dump: f.dumps, batch: f.batches})
}

// counting is a Fallback that counts what it is given.
type counting struct {
	Verifier
	mu   sync.Mutex
	jobs []neigh.Key
}

func (c *counting) Verify(ctx context.Context, jobs []Job, report func(*Job, Outcome)) {
	c.mu.Lock()
	for i := range jobs {
		c.jobs = append(c.jobs, jobs[i].Entry.Key)
	}
	c.mu.Unlock()
	c.Verifier.Verify(ctx, jobs, report)
}

// bench is a Broadcast with all that it touches.
type bench struct {
	*Broadcast
	table     *fakeTable
	solicitor *fakeSolicitor
	fallback  *counting
	log       strings.Builder
	settled   time.Time // when verify was told the last outcome
	late      map[neigh.Key]Outcome
}

func newBench(entries ...*fakeEntry) *bench {
	b := &bench{table: newFake(entries...)}
	b.table.locktime = time.Second // the kernel's default for ARP
	b.solicitor = &fakeSolicitor{table: b.table, answers: make(map[netip.Addr][]answer)}
	scope, timing := &policy.Scope{}, policy.NewTiming(interval, period)
	b.fallback = &counting{Verifier: &InPlace{Table: b.table, Scope: scope, Timing: timing}}
	b.Broadcast = &Broadcast{
		Table: b.table, Solicitor: b.solicitor, Scope: scope, Timing: timing, Fallback: b.fallback, Pacer: new(pace.Pacer),
		Log: slog.New(slog.NewTextHandler(&b.log, nil)),
	}
	return b
}

// jobs returns a job for every entry, as a scan would see it now.
func (b *bench) jobs() (jobs []Job) {
	_ = b.table.Dump(func(e *neigh.Entry) {
		_, hop := b.table.topology.NextHops[e.Key]
		jobs = append(jobs, Job{Entry: *e, Link: b.table.topology.Links[e.Index], NextHop: hop})
	})
	return jobs
}

// verify has the jobs verified and waits. Whatever happens, each of them is
// reported exactly once.
func (b *bench) verify(ctx context.Context, t *testing.T, jobs []Job) map[neigh.Key]Outcome {
	t.Helper()
	var mu sync.Mutex
	got, times := make(map[neigh.Key]Outcome), make(map[neigh.Key]int)
	b.late = make(map[neigh.Key]Outcome)
	b.Verify(ctx, jobs, func(j *Job, o Outcome) {
		mu.Lock()
		defer mu.Unlock()
		if o.Late {
			b.late[j.Entry.Key] = o
			return
		}
		got[j.Entry.Key] = o
		times[j.Entry.Key]++
		b.settled = time.Now()
	})
	b.Wait()
	mu.Lock()
	defer mu.Unlock()
	for i := range jobs {
		if n := times[jobs[i].Entry.Key]; n != 1 {
			t.Errorf("%s was reported %d times", jobs[i].Entry.Addr, n)
		}
	}
	if len(times) != len(jobs) {
		t.Errorf("%d outcomes of %d jobs", len(times), len(jobs))
	}
	return got
}

// inDelay returns an entry on eth0 that carries packets and that nothing has
// confirmed for the given time. The kernel does nothing to it meanwhile.
func inDelay(addr string, confirmed time.Duration) *fakeEntry {
	e := aged(addr, eth0, neigh.Delay, 0)
	e.confirmed = e.confirmed.Add(-confirmed)
	return e
}

func TestBroadcast(t *testing.T) {
	// What is done to an entry, in its order.
	shielded := []string{"stale", "use"}
	asked := []string{"stale", "use", "ask"}
	thrice := []string{"stale", "use", "ask", "ask", "stale", "use", "ask"} // the third try is 1 s after the shield
	// Each but the last that another answers has the incumbent asked by name.
	doubted := []string{"stale", "use", "ask", "name", "stale", "use", "ask", "name", "stale", "use", "ask"}
	back := "give 02:00:00:00:00:01"
	moved := []string{"stale", "use", "ask", back, "name", "stale", "use", "ask", back, "name", "stale", "use", "ask", back} // until the last try
	did := func(before []string, then ...string) []string { return slices.Concat(before, then) }
	addr := netip.MustParseAddr("10.0.0.2")

	overdue := func() *fakeEntry { return inDelay("10.0.0.2", interval) }
	stale := func() *fakeEntry { return aged("10.0.0.2", eth0, neigh.Stale, time.Minute) }

	type setup = func(*bench, *fakeEntry)
	before := func(change func(*fakeEntry)) setup { // the round
		return func(b *bench, e *fakeEntry) { b.table.update(e.Key, change) }
	}
	during := func(change func(*fakeEntry)) setup { // the first try
		return func(b *bench, e *fakeEntry) {
			b.solicitor.during = func(n int) {
				if n == 1 {
					b.table.update(e.Key, change)
				}
			}
		}
	}
	pin := func(e *fakeEntry) { e.State = neigh.Permanent }
	claim := func(e *fakeEntry) { e.Flags = neigh.FlagExtLearned }
	fail := func(e *fakeEntry) { e.State, e.LLAddr = neigh.Failed, neigh.LLAddr{} }
	vanish := func(b *bench, e *fakeEntry) { b.table.remove(e.Key) }
	noLocktime := func(b *bench, _ *fakeEntry) { b.table.locktime = 0 }
	deaf := func(b *bench, _ *fakeEntry) { b.solicitor.deaf = true }
	slow := func(b *bench, _ *fakeEntry) { b.solicitor.slow = 400 * ms }

	tests := []struct {
		name    string
		entry   func() *fakeEntry // nil: in use, confirmed a moment ago. It names mac(1)
		setup   setup
		answers []answer
		want    error
		did     []string
		lladdr  byte // in the end; 0: it has none, or is gone
		holders []byte
	}{
		{name: "incumbent answers", answers: []answer{{lladdr: 1, delay: ms}}, did: asked, lladdr: 1, holders: []byte{1}},
		{name: "incumbent answers twice", answers: []answer{{lladdr: 1, delay: ms}, {lladdr: 1, delay: 2 * ms}},
			did: asked, lladdr: 1, holders: []byte{1}},
		{name: "incumbent answers for an entry long unconfirmed", entry: overdue,
			answers: []answer{{lladdr: 1, delay: ms}}, did: asked, lladdr: 1, holders: []byte{1}},
		// An answer of the incumbent's may be lost: it has to miss three times.
		{name: "another answers", answers: []answer{{lladdr: 2, delay: ms}},
			did: did(doubted, "give 02:00:00:00:00:02"), lladdr: 2, holders: []byte{2}},
		{name: "another answers for an entry long unconfirmed", entry: overdue, answers: []answer{{lladdr: 2, delay: ms}},
			did: did(doubted, "give 02:00:00:00:00:02"), lladdr: 2, holders: []byte{2}},
		{name: "the incumbent answers for an entry long unconfirmed, and the node's firewall drops it", entry: overdue, setup: deaf,
			answers: []answer{{lladdr: 1, delay: ms}}, did: did(asked, "probe"), lladdr: 1, holders: []byte{1}},
		{name: "the incumbent answers, and the node's firewall drops it", setup: deaf,
			answers: []answer{{lladdr: 1, delay: ms}}, did: asked, lladdr: 1, holders: []byte{1}},
		{name: "another answers and the kernel has moved the entry", setup: noLocktime, answers: []answer{{lladdr: 2, delay: ms}},
			did: did(moved, "give 02:00:00:00:00:02"), lladdr: 2, holders: []byte{2}},
		{name: "broadcasts do not reach the incumbent", answers: []answer{{lladdr: 2, delay: ms}, {lladdr: 1, delay: ms, byName: true}},
			did: did(asked, "name"), lladdr: 1, holders: []byte{2, 1}},
		{name: "broadcasts do not reach the incumbent, and two others answer them", answers: []answer{{lladdr: 2, delay: ms}, {lladdr: 3, delay: ms}, {lladdr: 1, delay: ms, byName: true}},
			did: did(asked, "name"), lladdr: 1, holders: []byte{2, 3, 1}},
		{name: "broadcasts do not reach the incumbent, without locktime", setup: noLocktime, answers: []answer{{lladdr: 2, delay: ms}, {lladdr: 1, delay: 400 * ms, byName: true, weak: true}},
			did: did(asked, back, "name"), lladdr: 1, holders: []byte{2, 1}},
		{name: "nobody answers broadcasts", answers: []answer{{lladdr: 1, delay: ms, byName: true}}, want: errUnanswered, did: thrice, lladdr: 1},
		{name: "another answers, and the incumbent's first two answers are lost", answers: []answer{{lladdr: 2, delay: ms}, {lladdr: 1, delay: ms, from: 2}},
			did: doubted, lladdr: 1, holders: []byte{2, 1}},
		// What was announced meanwhile is newer than what the round knows.
		{name: "the incumbent answers, and the entry is moved by an announcement", setup: func(b *bench, e *fakeEntry) {
			during(func(e *fakeEntry) { e.LLAddr, e.updated = mac(9), time.Now() })(b, e)
		}, answers: []answer{{lladdr: 1, delay: ms}}, want: errChanged, did: asked, lladdr: 9},

		// The entry never moves while the holder it names answers.
		{name: "another, then the incumbent", answers: []answer{{lladdr: 2, delay: ms}, {lladdr: 1, delay: 400 * ms}},
			did: asked, lladdr: 1, holders: []byte{2, 1}},
		{name: "the incumbent, then another", answers: []answer{{lladdr: 1, delay: ms}, {lladdr: 2, delay: 400 * ms}},
			did: asked, lladdr: 1, holders: []byte{1, 2}},
		{name: "another, then the incumbent, without locktime", setup: noLocktime,
			answers: []answer{{lladdr: 2, delay: ms}, {lladdr: 1, delay: 400 * ms}}, did: did(asked, back), lladdr: 1, holders: []byte{2, 1}},
		{name: "the incumbent, then another, without locktime", setup: noLocktime,
			answers: []answer{{lladdr: 1, delay: ms}, {lladdr: 2, delay: 400 * ms}},
			did:     did(asked, "give 02:00:00:00:00:01"), lladdr: 1, holders: []byte{1, 2}},
		{name: "the incumbent and two others, without locktime", setup: noLocktime,
			answers: []answer{{lladdr: 1, delay: ms}, {lladdr: 3, delay: 100 * ms}, {lladdr: 2, delay: 200 * ms}},
			did:     did(asked, "give 02:00:00:00:00:01", "give 02:00:00:00:00:01"), lladdr: 1, holders: []byte{1, 3, 2}},

		// Of several others, none is believed: that, too, is the kernel's to judge.
		{name: "several others", answers: []answer{{lladdr: 3, delay: ms}, {lladdr: 2, delay: 2 * ms}},
			want: errUndecided, did: doubted, lladdr: 1, holders: []byte{3, 2}},
		{name: "several others, one of them once", answers: []answer{{lladdr: 3, delay: ms}, {lladdr: 2, delay: 2 * ms, from: 2}},
			want: errUndecided, did: doubted, lladdr: 1, holders: []byte{3, 2}},
		{name: "several others for an entry long unconfirmed", entry: overdue, answers: []answer{{lladdr: 3, delay: ms}, {lladdr: 2, delay: 2 * ms}},
			want: errUndecided, did: did(doubted, "probe"), lladdr: 1, holders: []byte{3, 2}},
		{name: "several others, without locktime", setup: noLocktime, answers: []answer{{lladdr: 3, delay: ms}, {lladdr: 2, delay: 2 * ms}},
			want: errUndecided, did: did(asked, back, back, "name", "stale", "use", "ask", back, back, "name", "stale", "use", "ask", back, back), lladdr: 1, holders: []byte{3, 2}},
		{name: "several others, and the incumbent's first two answers are lost", answers: []answer{{lladdr: 3, delay: ms}, {lladdr: 2, delay: ms}, {lladdr: 1, delay: 2 * ms, from: 2}},
			did: doubted, lladdr: 1, holders: []byte{3, 2, 1}},

		// Neighbor Advertisements without the Override flag.
		{name: "the owner beside a proxy that the entry names", setup: noLocktime, answers: []answer{{lladdr: 1, delay: ms, weak: true}, {lladdr: 2, delay: 2 * ms}},
			did: asked, lladdr: 2, holders: []byte{1, 2}},
		{name: "the owner, before a proxy that the entry names", setup: noLocktime, answers: []answer{{lladdr: 2, delay: ms}, {lladdr: 1, delay: 2 * ms, weak: true}},
			did: did(asked, back, "give 02:00:00:00:00:02"), lladdr: 2, holders: []byte{2, 1}},
		{name: "a proxy beside the owner, that the entry names", setup: noLocktime, answers: []answer{{lladdr: 1, delay: ms}, {lladdr: 2, delay: 2 * ms, weak: true}},
			did: asked, lladdr: 1, holders: []byte{1, 2}},
		{name: "a proxy, before the owner, that the entry names", setup: noLocktime, answers: []answer{{lladdr: 2, delay: ms, weak: true}, {lladdr: 1, delay: 2 * ms}},
			did: asked, lladdr: 1, holders: []byte{2, 1}},
		{name: "two proxies", setup: noLocktime, answers: []answer{{lladdr: 1, delay: ms, weak: true}, {lladdr: 2, delay: 2 * ms, weak: true}},
			did: asked, lladdr: 1, holders: []byte{1, 2}},
		{name: "two owners beside a proxy that the entry names", setup: noLocktime,
			answers: []answer{{lladdr: 1, delay: ms, weak: true}, {lladdr: 2, delay: 2 * ms}, {lladdr: 3, delay: 3 * ms}},
			want:    errUndecided, did: asked, lladdr: 3, holders: []byte{1, 2, 3}}, // by the kernel
		{name: "a proxy alone", setup: noLocktime, answers: []answer{{lladdr: 2, delay: ms, weak: true}},
			want: errUndecided, did: doubted, lladdr: 1, holders: []byte{2}},
		{name: "another owner beside a proxy", setup: noLocktime, answers: []answer{{lladdr: 2, delay: ms, weak: true}, {lladdr: 3, delay: 2 * ms}},
			did: did(moved, "give 02:00:00:00:00:03"), lladdr: 3, holders: []byte{2, 3}},

		// Nobody answers: that is the kernel's to judge.
		{name: "nobody answers", want: errUnanswered, did: thrice, lladdr: 1},
		{name: "nobody answers and the entry is overdue", entry: overdue, want: errUnanswered,
			did: did(thrice, "probe"), lladdr: 1},
		{name: "nobody answers for a stale next hop", entry: stale,
			setup: func(b *bench, e *fakeEntry) { b.table.nextHop(e.Key, true) }, want: errUnanswered,
			did: []string{"use", "ask", "ask", "stale", "use", "ask"}, lladdr: 1},
		{name: "too late to be heard", answers: []answer{{lladdr: 2, delay: 501 * ms}}, want: errUnanswered, did: thrice, lladdr: 1},

		{name: "first try lost", answers: []answer{{lladdr: 1, delay: ms, from: 1}}, did: did(asked, "ask"), lladdr: 1, holders: []byte{1}},
		{name: "first try lost, another answers the second", answers: []answer{{lladdr: 2, delay: ms, from: 1}},
			want: errUndecided, did: did(asked, "ask", "stale", "use", "name", "stale", "use", "ask"), lladdr: 1, holders: []byte{2}},
		{name: "two tries lost", answers: []answer{{lladdr: 1, delay: ms, from: 2}}, did: thrice, lladdr: 1, holders: []byte{1}},
		// 500 ms after it was shielded last, an answer at the end of the third
		// try still finds the entry in locktime.
		{name: "two tries lost, another answers late", answers: []answer{{lladdr: 2, delay: 499 * ms, from: 2}, {lladdr: 1, delay: 500 * ms, from: 2}},
			did: thrice, lladdr: 1, holders: []byte{2, 1}},
		{name: "slow tries are shielded each", setup: slow, want: errUnanswered,
			did: did(asked, "stale", "use", "ask", "stale", "use", "ask"), lladdr: 1},
		// The shield holds what the entry named at first, and nothing else.
		{name: "moved by itself before the third try", setup: func(b *bench, e *fakeEntry) {
			b.solicitor.during = func(n int) {
				if n == 2 {
					b.table.update(e.Key, func(e *fakeEntry) { e.LLAddr, e.updated = mac(9), time.Now() })
				}
			}
		}, want: errUnanswered, did: did(asked, "ask", "ask"), lladdr: 9},
		{name: "pinned before the third try", setup: func(b *bench, e *fakeEntry) {
			b.solicitor.during = func(n int) {
				if n == 2 {
					b.table.update(e.Key, pin)
				}
			}
		}, want: errChanged, did: did(asked, "ask", "ask"), lladdr: 1},

		{name: "answers for other addresses", setup: func(b *bench, _ *fakeEntry) {
			b.solicitor.stray = &shield.Reply{Addr: netip.MustParseAddr("10.0.0.3"), LLAddr: mac(3), RTT: ms}
		}, want: errUnanswered, did: thrice, lladdr: 1},

		// Somebody else's by now.
		{name: "pinned before the round", setup: before(pin), want: errChanged, lladdr: 1},
		{name: "claimed before the round", setup: before(claim), want: errChanged, lladdr: 1},
		{name: "idle before the round", setup: before(func(e *fakeEntry) { e.State = neigh.Stale }), want: errChanged, lladdr: 1},
		{name: "pinned, another answers", setup: during(pin), answers: []answer{{lladdr: 2, delay: ms}}, want: errChanged, did: did(asked, "name", "ask", "name", "ask"), lladdr: 1},
		{name: "pinned, the incumbent answers", setup: during(pin), answers: []answer{{lladdr: 1, delay: ms}}, want: errChanged, did: asked, lladdr: 1},
		{name: "pinned elsewhere, both answer", setup: during(func(e *fakeEntry) { e.State, e.LLAddr = neigh.Permanent, mac(9) }),
			answers: []answer{{lladdr: 1, delay: ms}, {lladdr: 2, delay: ms}}, want: errChanged, did: asked, lladdr: 9},
		{name: "claimed elsewhere, another answers", setup: func(b *bench, e *fakeEntry) {
			during(func(e *fakeEntry) { e.Flags, e.LLAddr = neigh.FlagExtLearned, mac(9) })(b, e)
		}, answers: []answer{{lladdr: 2, delay: ms}}, want: errChanged, did: did(asked, "name", "ask", "name", "ask"), lladdr: 2}, // by the kernel
		{name: "pinned, nobody answers", setup: during(pin), want: errChanged, did: did(asked, "ask", "ask"), lladdr: 1},

		// What the kernel gave up while another answers is given back to it.
		{name: "failed meanwhile, another answers", setup: during(fail), answers: []answer{{lladdr: 2, delay: ms}},
			did: did(asked, "name", "ask", "name", "ask", "give 02:00:00:00:00:02"), lladdr: 2, holders: []byte{2}},
		{name: "failed meanwhile, the incumbent answers", setup: during(fail), answers: []answer{{lladdr: 1, delay: ms}},
			did: did(asked, "give 02:00:00:00:00:01"), lladdr: 1, holders: []byte{1}},
		{name: "failed meanwhile, nobody answers", setup: during(fail), want: errChanged, did: did(asked, "ask", "ask")},

		{name: "gone before the round", setup: vanish, want: neigh.ErrGone},
		{name: "gone when it is shielded", setup: func(b *bench, e *fakeEntry) {
			b.table.before = func(call string, _ neigh.Key) {
				if call == "use" {
					b.table.remove(e.Key)
				}
			}
		}, want: neigh.ErrGone, did: shielded[:1]},
		{name: "gone, another answers", setup: func(b *bench, e *fakeEntry) {
			b.solicitor.during = func(int) { vanish(b, e) }
		}, answers: []answer{{lladdr: 2, delay: ms}}, want: neigh.ErrGone, did: did(asked, "name", "ask", "name", "ask")},
		{name: "gone, nobody answers", setup: func(b *bench, e *fakeEntry) {
			b.solicitor.during = func(int) { vanish(b, e) }
		}, want: neigh.ErrGone, did: did(asked, "ask", "ask")},

		{name: "probe is refused", entry: overdue, setup: func(b *bench, _ *fakeEntry) {
			b.table.before = func(call string, _ neigh.Key) {
				if call == "probe" {
					b.table.refuse = func(neigh.Key) error { return neigh.ErrPermission }
				}
			}
		}, want: neigh.ErrPermission, did: thrice, lladdr: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := inDelay("10.0.0.2", time.Second)
				if tt.entry != nil {
					e = tt.entry()
				}
				b := newBench(e)
				b.solicitor.answers[addr] = tt.answers
				jobs := b.jobs()
				if tt.setup != nil {
					tt.setup(b, e)
				}
				jobs[0].NextHop = len(b.table.topology.NextHops) > 0
				var rtts []time.Duration
				b.Answered = func(rtt time.Duration) { rtts = append(rtts, rtt) }

				got := b.verify(t.Context(), t, jobs)[e.Key]
				if !errors.Is(got.Err, tt.want) || (got.Err == nil) != (tt.want == nil) || got.Method != ByBroadcast {
					t.Errorf("got %+v, want %v", got, tt.want)
				}
				if did := of(b.table.log(), e.Key); !slices.Equal(did, tt.did) {
					t.Errorf("did  %q\nwant %q", did, tt.did)
				}
				var asked time.Duration
				for _, o := range b.table.log() {
					if o.do == "ask" || o.do == "name" {
						asked = o.at
					}
					// Packets must not wait for the end of the round.
					if len(tt.holders) > 1 && o.do == "give "+mac(1).String() && o.at-asked >= shield.Window {
						t.Errorf("put back %v after it was asked, want it at once", o.at-asked)
					}
				}
				var want neigh.LLAddr
				if tt.lladdr != 0 {
					want = mac(tt.lladdr)
				}
				if after, _ := b.table.Get(e.Key); after.LLAddr != want {
					t.Errorf("the entry names %s, want %s", after.LLAddr, want)
				}
				if tt.want == nil || errors.Is(tt.want, errUndecided) {
					var holders []neigh.LLAddr
					for _, h := range tt.holders {
						holders = append(holders, mac(h))
					}
					if !slices.Equal(got.Holders, holders) || len(rtts) < len(holders) {
						t.Errorf("holders %v after answers of %v, want %v", got.Holders, rtts, holders)
					}
				}
				for _, a := range b.solicitor.log() {
					want := shield.Question{Addr: addr}
					if a.LLAddr != (neigh.LLAddr{}) {
						want.LLAddr = mac(1)
					}
					if a.Question != want || a.device != eth0 || a.window != shield.Window {
						t.Errorf("asked %+v, want %v on eth0 for %v", a, want, shield.Window)
					}
				}
				if len(b.fallback.jobs) != 0 {
					t.Errorf("the fallback was given %v", b.fallback.jobs)
				}
			})
		})
	}
}

// The answer of another holder comes when nobody waits for it any more, and moves the
// entry: after locktime, or where it is 0. The entry is back at once, the outcome has
// not waited, and the other is counted among the holders. One that announces itself
// has the entry.
func TestLateSecondHolder(t *testing.T) {
	for _, tt := range []struct {
		name      string
		locktime  time.Duration
		delay     time.Duration
		announced bool
		incumbent []answer
		did       []string
		lladdr    byte
		outcome   error
		settled   time.Duration
		late      []byte
	}{
		{name: "without locktime", delay: 700 * ms, incumbent: []answer{{lladdr: 1, delay: ms}, {lladdr: 1, delay: ms, byName: true}},
			did: []string{"stale", "use", "ask", "give 02:00:00:00:00:01", "name"}, lladdr: 1, settled: 500 * ms, late: []byte{1, 2}},
		{name: "after locktime", locktime: time.Second, delay: 1200 * ms, incumbent: []answer{{lladdr: 1, delay: ms}, {lladdr: 1, delay: ms, byName: true}},
			did: []string{"stale", "use", "ask", "give 02:00:00:00:00:01", "name"}, lladdr: 1, settled: 500 * ms, late: []byte{1, 2}},
		{name: "within locktime", locktime: time.Second, delay: 700 * ms, incumbent: []answer{{lladdr: 1, delay: ms}},
			did: []string{"stale", "use", "ask"}, lladdr: 1, settled: 500 * ms, late: []byte{1, 2}},
		{name: "announced", locktime: time.Second, delay: 1200 * ms, announced: true, incumbent: []answer{{lladdr: 1, delay: ms}},
			did: []string{"stale", "use", "ask"}, lladdr: 2, settled: 500 * ms},
		{name: "the incumbent has gone", locktime: time.Second, delay: 1200 * ms, incumbent: []answer{{lladdr: 1, delay: ms}},
			did:    []string{"stale", "use", "ask", "give 02:00:00:00:00:01", "name", "name", "give 02:00:00:00:00:02"},
			lladdr: 2, settled: 500 * ms, late: []byte{1, 2}},
		{name: "nobody was in time", locktime: time.Second, delay: 3 * time.Second, outcome: errUnanswered,
			did:    []string{"stale", "use", "ask", "ask", "stale", "use", "ask", "give 02:00:00:00:00:01", "name", "name", "give 02:00:00:00:00:02"},
			lladdr: 2, settled: 1500 * ms, late: []byte{2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := inDelay("10.0.0.2", time.Second)
				b := newBench(e)
				b.table.locktime = tt.locktime
				b.solicitor.set(e.Addr, tt.incumbent...)
				time.AfterFunc(tt.delay, func() {
					b.solicitor.say(eth0, shield.Overheard{Reply: shield.Reply{Addr: e.Addr, LLAddr: mac(2), Override: true}, Announced: tt.announced})
				})
				began := time.Now()
				got := b.verify(t.Context(), t, b.jobs())[e.Key]
				if !errors.Is(got.Err, tt.outcome) || (got.Err == nil) != (tt.outcome == nil) || b.settled.Sub(began) != tt.settled {
					t.Errorf("%+v after %v", got, b.settled.Sub(began))
				}
				if did := of(b.table.log(), e.Key); !slices.Equal(did, tt.did) {
					t.Errorf("did  %q\nwant %q", did, tt.did)
				}
				if after, _ := b.table.Get(e.Key); after.LLAddr != mac(tt.lladdr) {
					t.Errorf("the entry names %s, want %s", after.LLAddr, mac(tt.lladdr))
				}
				var late []byte
				for _, h := range b.late[e.Key].Holders {
					late = append(late, h.Bytes()[5])
				}
				if !slices.Equal(late, tt.late) {
					t.Errorf("holders %v in the end, want %v", late, tt.late)
				}
				if !b.Broadcast.late.IsZero() || len(b.solicitor.overs[e.Addr]) != 1 {
					t.Errorf("somebody listens on: %v", b.solicitor.overs)
				}
			})
		})
	}
}

// Late answers make several holders, as others do, for as long as they come.
func TestLateHoldersAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := talking("10.0.0.2", eth0, 0)
		b := newBench(e)
		s := broadcasting(b)
		first := answer{lladdr: 1, delay: ms}
		for i, tt := range []struct {
			answers   []answer
			log       string // what is added to it
			contested int
		}{
			{[]answer{first, {lladdr: 2, delay: 900 * ms, late: true}}, "several holders answer", 1},
			{[]answer{first, {lladdr: 2, delay: 900 * ms, late: true}}, "", 1},
			{[]answer{first}, "", 1},
			{[]answer{first}, "", 1},
			{[]answer{first}, "one holder answers again", 0},
		} {
			b.log.Reset()
			b.solicitor.set(e.Addr, tt.answers...)
			b.table.update(e.Key, func(e *fakeEntry) { e.updated = time.Now().Add(-interval) })
			s.pass(t.Context()) // asks
			b.Wait()
			s.pass(t.Context()) // settles it, and reports
			got := b.log.String()
			if want := min(len(tt.log), 1); strings.Count(got, "\n") != want || !strings.Contains(got, tt.log) {
				t.Errorf("step %d: log:\n%s\nwant %d lines with %q", i, got, want, tt.log)
			}
			if d := s.Report().Devices; len(d) != 1 || d[0].Contested != tt.contested {
				t.Errorf("step %d: report %+v, want %d contested", i, d, tt.contested)
			}
		}
	})
}

// When the agent stops, nobody waits for late answers.
func TestLateAnswersDoNotDelayTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := inDelay("10.0.0.2", time.Second)
		b := newBench(e)
		b.solicitor.set(e.Addr, answer{lladdr: 1, delay: ms})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if b.verify(ctx, t, b.jobs()); time.Since(began) != time.Second || len(b.late) != 0 {
			t.Errorf("it took %v", time.Since(began))
		}
	})
}

// What is left to the kernel is counted by why, and was asked for afresh.
func TestLeftToTheKernelIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(inDelay("10.0.0.2", 0), inDelay("10.0.0.3", 0))
		b.solicitor.set(netip.MustParseAddr("10.0.0.3"), answer{lladdr: 2, delay: ms}, answer{lladdr: 3, delay: ms})
		counted := make(map[Result]int)
		s := sweeper(b.table, func(c *Config) {
			c.Verifier = b.Broadcast
			c.Events.Renewed = func(_ string, m Method, r Result, _ time.Duration) {
				if m != ByBroadcast {
					t.Errorf("by %s", m)
				}
				counted[r]++
			}
		})
		sum, err := s.Once(t.Context())
		if want := (Summary{Entries: 2, Unanswered: 1, Undecided: 1}); err != nil || sum != want {
			t.Errorf("%v, %v; want %v", sum, err, want)
		}
		if want := map[Result]int{Unanswered: 1, Undecided: 1}; !maps.Equal(counted, want) {
			t.Errorf("counted %v, want %v", counted, want)
		}
	})
}

// Where the interval is short, three tries must fit into its lead.
func TestBroadcastWindowOfShortIntervals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(inDelay("10.0.0.2", 0))
		b.Timing = policy.NewTiming(2*time.Second, 33*ms)
		b.verify(t.Context(), t, b.jobs())
		if took, want := b.settled.Sub(b.table.made), 750*ms; took != want {
			t.Errorf("three tries took %v, want %v", took, want)
		}
		// All of them within 0.8 s: one shield is enough.
		if did := of(b.table.log(), b.jobs()[0].Entry.Key); !slices.Equal(did, []string{"stale", "use", "ask", "ask", "ask"}) {
			t.Errorf("did %q", did)
		}
	})
}

// An interval of a few seconds leaves the kernel no time to verify by way of
// NUD_DELAY whom the entry was given to: it would be shielded again before.
func TestGivenEntryIsProbedAtShortIntervals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := inDelay("10.0.0.2", 0)
		b := newBench(e)
		b.Timing = policy.NewTiming(10*time.Second, time.Second)
		b.solicitor.set(e.Addr, answer{lladdr: 2, delay: ms})
		b.verify(t.Context(), t, b.jobs())
		did := of(b.table.log(), e.Key)
		if want := []string{"give 02:00:00:00:00:02", "probe"}; !slices.Equal(did[max(0, len(did)-2):], want) {
			t.Errorf("did %q, want %q in the end", did, want)
		}
	})
}

func TestGiveKeepsTheRouterFlag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := inDelay("fe80::1", 0)
		e.Flags = neigh.FlagRouter
		b := newBench(e)
		b.solicitor.set(e.Addr, answer{lladdr: 2, delay: ms})
		b.verify(t.Context(), t, b.jobs())
		if after, err := b.table.Get(e.Key); after.Flags != neigh.FlagRouter || after.LLAddr != mac(2) {
			t.Errorf("got %+v, %v; want a router at %s", after, err, mac(2))
		}
	})
}

// Only uplinks have a segment on which two may hold an address.
func TestOtherDevicesGoToTheFallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(talking("10.0.0.2", eth0, 0), talking("10.0.1.2", eth1, 0), talking("10.4.0.2", cali0, 0), talking("10.4.0.3", cali1, 0))
		got := b.verify(t.Context(), t, b.jobs())
		for k, o := range got {
			if want := map[bool]Method{true: ByBroadcast, false: ByStale}[k.Index <= eth1]; o.Method != want {
				t.Errorf("%s by %s, want %s", k.Addr, o.Method, want)
			}
		}
		devices := make(map[int]int)
		for _, a := range b.solicitor.log() {
			devices[a.device]++
			if !a.Addr.IsValid() {
				t.Errorf("asked %+v", a)
			}
		}
		if want := map[int]int{eth0: shield.Tries, eth1: shield.Tries}; !maps.Equal(devices, want) || len(b.fallback.jobs) != 2 {
			t.Errorf("asked on %v, %d to the fallback; want %v and 2", devices, len(b.fallback.jobs), want)
		}
		// Uplinks do not wait for each other.
		if took := b.settled.Sub(b.table.made); took != shield.Tries*shield.Window {
			t.Errorf("took %v, want %v", took, shield.Tries*shield.Window)
		}
	})
}

func TestBroadcastFallsBack(t *testing.T) {
	broken := errors.New("broken")
	tests := []struct {
		name      string
		err       error
		nth       int // the Ask that fails
		available bool
		asks      int // of the second time
		warnings  int
	}{
		{"not permitted", fmt.Errorf("opening a socket: %w", neigh.ErrPermission), 1, false, 0, 1},
		{"not permitted any more", fmt.Errorf("sending: %w", neigh.ErrPermission), 2, false, 0, 1},
		{"broken", broken, 1, true, shield.Tries, 0},
		{"broken at the last try", broken, 3, true, shield.Tries, 0},
	}
	for _, tt := range tests {
		for confirmed, method := range map[time.Duration]Method{0: ByStale, interval: ByProbe} {
			t.Run(fmt.Sprint(tt.name, " ", method), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := inDelay("10.0.0.2", confirmed)
					b := newBench(e)
					b.solicitor.err = func(n int) error {
						if n == tt.nth {
							return tt.err
						}
						return nil
					}
					if !b.Available() {
						t.Error("not available before anything was tried")
					}
					if o := b.verify(t.Context(), t, b.jobs())[e.Key]; o.Err != nil || o.Method != method {
						t.Errorf("%+v, want it verified by %s", o, method)
					}
					if asks := len(b.solicitor.log()); asks != tt.nth || len(b.fallback.jobs) != 1 || b.Available() != tt.available {
						t.Errorf("%d tries, %d entries to the fallback, available: %v", asks, len(b.fallback.jobs), b.Available())
					}
					time.Sleep(time.Second)
					b.table.update(e.Key, func(e *fakeEntry) { e.State = neigh.Delay })
					b.verify(t.Context(), t, b.jobs())
					if asks := len(b.solicitor.log()) - tt.nth; asks != tt.asks {
						t.Errorf("%d tries the next time, want %d", asks, tt.asks)
					}
					if got := strings.Count(b.log.String(), "CAP_NET_RAW"); got != tt.warnings || strings.Count(b.log.String(), "level=WARN") != tt.warnings {
						t.Errorf("%d warnings, want %d:\n%s", got, tt.warnings, b.log.String())
					}
				})
			})
		}
	}
}

// Every uplink finds out by itself, and several entries of each may be under way.
func TestMissingPermissionIsWarnedOfOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench()
		for i := range 20 {
			b.table.add(talking(fmt.Sprintf("10.0.0.%d", i), eth0, 0), talking(fmt.Sprintf("10.0.1.%d", i), eth1, 0))
		}
		b.solicitor.err = func(int) error { return neigh.ErrPermission }
		for range 2 {
			for k, o := range b.verify(t.Context(), t, b.jobs()) {
				if o.Err != nil || o.Method != ByStale {
					t.Errorf("%s: %+v", k.Addr, o)
				}
			}
		}
		const says = `level=WARN msg="CAP_NET_RAW is missing: entries are verified by the kernel's unicast alone, `
		if got := b.log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, says) {
			t.Errorf("want one line in the log, with %s:\n%s", says, got)
		}
	})
}

// Many entries are asked for one at a time, evenly, each at the moment when it was
// shielded: the shield does not last for as long as an entry may wait.
func TestEntriesAreAskedForOneByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 150
		b := newBench()
		for i := range n {
			e := talking(fmt.Sprintf("10.0.0.%d", i), eth0, 0)
			b.table.add(e)
			b.solicitor.answers[e.Addr] = []answer{{lladdr: 1, delay: ms}}
		}
		b.verify(t.Context(), t, b.jobs())
		for i, a := range b.solicitor.log() {
			if at, want := a.at.Sub(b.table.made), time.Duration(i)*gap; at != want {
				t.Errorf("one was asked for after %v, want %v", at, want)
			}
		}
		shielded := make(map[neigh.Key]time.Duration)
		for _, o := range b.table.log() {
			switch o.do {
			case "stale":
				shielded[o.key] = o.at
			case "ask":
				if at, ok := shielded[o.key]; !ok || o.at != at {
					t.Errorf("%s asked for at %v, shielded at %v (%v)", o.key.Addr, o.at, at, ok)
				}
			}
		}
		if len(shielded) != n || len(b.solicitor.log()) != n {
			t.Errorf("%d entries shielded, %d asked for, want %d", len(shielded), len(b.solicitor.log()), n)
		}
	})
}

// gap is the time between two solicitations on an uplink.
const gap = 105 * ms

// One that is answered is not asked for again with those that are not.
func TestOnlyIncumbentsThatMissedAreAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(inDelay("10.0.0.2", 0), inDelay("10.0.0.3", 0), inDelay("10.0.0.4", 0))
		b.solicitor.set(netip.MustParseAddr("10.0.0.2"), answer{lladdr: 1, delay: ms})
		b.solicitor.set(netip.MustParseAddr("10.0.0.3"), answer{lladdr: 2, delay: ms, from: 1})
		for k, o := range b.verify(t.Context(), t, b.jobs()) {
			if want := k.Addr.String() == "10.0.0.4"; errors.Is(o.Err, errUnanswered) != want {
				t.Errorf("%s: %+v", k.Addr, o)
			}
		}
		asked := make(map[string]int)
		for _, a := range b.solicitor.log() {
			asked[a.Addr.String()]++
		}
		if want := map[string]int{"10.0.0.2": 1, "10.0.0.3": 3 + 1, "10.0.0.4": 3}; !maps.Equal(asked, want) { // once by name
			t.Errorf("asked for %v, want %v", asked, want)
		}
	})
}

// An entry that cannot be asked for, for want of an address to ask from, is not
// to go unverified, and does not keep the others from being asked for. It may be so from the first try on, or from a later one.
func TestBroadcastWithoutSenderIsLeftToTheKernel(t *testing.T) {
	lost, kept := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")
	for _, from := range []int{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(inDelay(lost.String(), 0), inDelay(kept.String(), 0))
			b.solicitor.answers[kept] = []answer{{lladdr: 1, delay: ms, from: 2}}
			b.solicitor.unasked = func(n int, addr netip.Addr) error {
				if addr == lost && n >= from {
					return errors.New("prohibited")
				}
				return nil
			}
			for k, o := range b.verify(t.Context(), t, b.jobs()) {
				want := map[netip.Addr]Method{lost: ByStale, kept: ByBroadcast}[k.Addr]
				if o.Method != want || o.Err != nil {
					t.Errorf("without a sender from try %d on: %s: %+v, want it verified %s", from, k.Addr, o, want)
				}
			}
			asked := make(map[netip.Addr]int)
			for _, a := range b.solicitor.log() {
				asked[a.Addr]++
			}
			if want := map[netip.Addr]int{lost: from, kept: 3}; !maps.Equal(asked, want) {
				t.Errorf("without a sender from try %d on: asked for %v, want %v", from, asked, want)
			}
		})
	}
}

func TestBroadcastEndsWithItsContext(t *testing.T) {
	for _, quiet := range []bool{false, true} {
		t.Run(fmt.Sprint("quiet=", quiet), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench()
				b.solicitor.quiet = quiet
				for i := range 200 {
					e := inDelay(fmt.Sprintf("10.0.0.%d", i), interval)
					b.table.add(e)
					switch i % 3 {
					case 1:
						b.solicitor.answers[e.Addr] = []answer{{lladdr: 1, delay: ms}}
					case 2:
						b.solicitor.answers[e.Addr] = []answer{{lladdr: 2, delay: ms}}
					}
				}
				const after = shield.Window + 250*ms // in the second try of the first entries
				ctx, cancel := context.WithTimeout(t.Context(), after)
				defer cancel()
				got := b.verify(ctx, t, b.jobs())
				if took := time.Since(b.table.made); took != after {
					t.Errorf("took %v, want it to end after %v", took, after)
				}
				// What nobody was asked to the end for counts neither as answered
				// nor as unanswered: it is due again.
				for k, o := range got {
					if errors.Is(o.Err, errUnanswered) || o.Err == nil && len(o.Holders) == 0 {
						t.Errorf("%s: %+v", k.Addr, o)
					}
				}
				// Half heard is not heard: no incumbent has missed three tries yet.
				for _, o := range b.table.log() {
					if strings.HasPrefix(o.do, "replace") {
						t.Errorf("%s of %s", o.do, o.key.Addr)
					}
				}
				// One every 105 ms, second tries among them; 192 wait for the first.
				if asks := b.solicitor.log(); len(asks) != 8 {
					t.Errorf("%d tries, want 8", len(asks))
				}
			})
		})
	}
}

// Whatever the segment, the kernel and others do: every job is reported once,
// nothing is deleted, and an entry moves only to one that answered, and never
// while the holder it names answers.
func TestBroadcastHoldsInAllCases(t *testing.T) {
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			chance := func(percent int) bool { return r.IntN(100) < percent }
			b := newBench()
			b.table.locktime = time.Duration(r.IntN(2)) * time.Second
			b.solicitor.quiet = chance(50)
			foreign := make(map[neigh.Key]bool)
			for i := range 1 + r.IntN(150) {
				e := inDelay(fmt.Sprintf("10.0.0.%d", i), time.Duration(r.Int64N(int64(2*interval))))
				e.Index = []int{eth0, eth1, cali0}[r.IntN(3)]
				b.table.add(e)
				for range r.IntN(4) {
					b.solicitor.answers[e.Addr] = append(b.solicitor.answers[e.Addr],
						answer{lladdr: byte(1 + r.IntN(3)), delay: time.Duration(r.IntN(600)) * ms, from: r.IntN(4)})
				}
			}
			jobs := b.jobs()
			for _, j := range jobs {
				b.table.update(j.Entry.Key, func(e *fakeEntry) {
					if foreign[e.Key] = chance(5); foreign[e.Key] {
						e.State = neigh.Permanent
					}
				})
				if chance(5) {
					b.table.remove(j.Entry.Key)
				}
			}
			refused := errors.New("refused")
			b.table.refuse = func(k neigh.Key) error {
				if k.Addr.As4()[3]%20 == 7 {
					return refused
				}
				return nil
			}
			failing := r.IntN(20)
			b.solicitor.err = func(n int) error {
				if n == failing {
					return []error{neigh.ErrPermission, refused}[seed%2]
				}
				return nil
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+r.IntN(6000))*ms)
			defer cancel()
			got := b.verify(ctx, t, jobs)
			for _, o := range b.table.log() {
				switch {
				case o.do == "delete" || o.do == "probe" && o.oldest < threshold:
					t.Errorf("seed %d: %s of %s at age %v", seed, o.do, o.key.Addr, o.oldest)
				case foreign[o.key]:
					t.Errorf("seed %d: %s of %s, which is pinned", seed, o.do, o.key.Addr)
				}
			}
			for k, o := range got {
				e, err := b.table.Get(k)
				if err == nil && o.Err == nil && slices.Contains(o.Holders, mac(1)) && e.LLAddr != mac(1) {
					t.Errorf("seed %d: %s names %s although %s answered", seed, k.Addr, e.LLAddr, mac(1))
				}
				if err == nil && o.Err == nil && len(o.Holders) > 0 && !slices.Contains(o.Holders, e.LLAddr) {
					t.Errorf("seed %d: %s names %s, %v answered", seed, k.Addr, e.LLAddr, o.Holders)
				}
			}
		})
		if t.Failed() {
			return
		}
	}
}

// broadcasting returns a Sweeper of b's table that verifies by b.
func broadcasting(b *bench, change ...func(*Config)) *Sweeper {
	s := sweeper(b.table, append(change, func(c *Config) { c.Verifier, c.Log, c.Pace = b, b.Log, b.Pacer.Set })...)
	s.random = func() float64 { return 0 } // nothing is held back at start
	return s
}

// A host with two interfaces on the segment answers twice for ever: that is
// said once, and counted all the time.
func TestSeveralHolders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := talking("10.0.0.2", eth0, 0)
		b := newBench(e)
		s := broadcasting(b)
		both := []answer{{lladdr: 1, delay: ms}, {lladdr: 2, delay: 2 * ms}}
		for i, tt := range []struct {
			answers   []answer
			log       string // what is added to it
			contested int
		}{
			{[]answer{{lladdr: 1, delay: ms}}, "", 0},
			{both, "several holders answer", 1},
			{both, "", 1},
			{[]answer{both[1], {lladdr: 1, delay: 3 * ms}}, "", 1}, // in another order
			{nil, "", 1}, // nothing new
			{[]answer{both[0], {lladdr: 3, delay: ms}}, "several holders answer", 1},
			{[]answer{{lladdr: 1, delay: ms}}, "", 1}, // the other's answer may have been lost
			{[]answer{{lladdr: 1, delay: ms}}, "", 1},
			{[]answer{{lladdr: 1, delay: ms}}, "one holder answers again", 0},
			{[]answer{{lladdr: 1, delay: ms}}, "", 0},
			{both, "several holders answer", 1},
		} {
			time.Sleep(interval)
			b.log.Reset()
			b.solicitor.set(e.Addr, tt.answers...)
			s.pass(t.Context())
			b.Wait()
			s.pass(t.Context()) // settles it, and reports
			got := b.log.String()
			if want := min(len(tt.log), 1); strings.Count(got, "\n") != want || !strings.Contains(got, tt.log) {
				t.Errorf("step %d: log:\n%s\nwant %d lines with %q", i, got, want, tt.log)
			}
			if tt.log != "" && !strings.Contains(got, "address=10.0.0.2 device=eth0 ") {
				t.Errorf("step %d: log:\n%s\nwant the entry named", i, got)
			}
			if d := s.Report().Devices; len(d) != 1 || d[0].Name != "eth0" || d[0].Contested != tt.contested {
				t.Errorf("step %d: report %+v, want %d contested", i, d, tt.contested)
			}
		}
		b.table.remove(e.Key)
		s.pass(t.Context())
		if d := s.Report().Devices; len(d) != 0 || len(s.contests) != 0 {
			t.Errorf("when it is gone: report %+v, remembered %v", d, s.contests)
		}
	})
}

// What came of a round is settled with the results of everything else.
func TestBroadcastResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(talking("10.0.0.1", eth0, interval), talking("10.0.0.2", eth0, interval),
			talking("10.0.0.3", eth0, interval), talking("10.0.0.4", eth0, interval), talking("10.0.0.5", eth0, interval))
		for i := range byte(2) {
			b.solicitor.set(netip.AddrFrom4([4]byte{10, 0, 0, 1 + i}), answer{lladdr: 1 + i, delay: ms})
		}
		b.solicitor.during = func(int) {
			b.table.remove(neigh.Key{Addr: netip.MustParseAddr("10.0.0.4"), Index: eth0})
			b.table.update(neigh.Key{Addr: netip.MustParseAddr("10.0.0.5"), Index: eth0}, func(e *fakeEntry) { e.State = neigh.Permanent })
		}
		results, corrected := make(map[Result]int), 0
		s := broadcasting(b, func(c *Config) {
			c.Events.Corrected = func(string) { corrected++ }
			c.Events.Renewed = func(_ string, m Method, r Result, _ time.Duration) {
				if results[r]++; m != ByBroadcast {
					t.Errorf("%s by %s", r, m)
				}
			}
		})
		got, err := s.Once(t.Context())
		if want := (Summary{Entries: 5, Verified: 2, Unanswered: 1, Gone: 2}); got != want || err != nil {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
		if want := map[Result]int{OK: 2, Unanswered: 1, Gone: 1, Changed: 1}; !maps.Equal(results, want) {
			t.Errorf("results %v, want %v", results, want)
		}
		// One that nobody answered for was asked for all the same: it is not due
		// again at once.
		s.pass(t.Context())
		b.Wait()
		want := 1 + 2*shield.Tries + 2 // one of them had its incumbent asked by name
		if asks := len(b.solicitor.log()); corrected != 1 || asks != want {
			t.Errorf("%d corrections and %d tries after the next scan, want 1 and %d", corrected, asks, want)
		}
	})
}
