package sweep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
)

// The defaults, under which most tests run.
const (
	interval  = 300 * time.Second
	period    = 20 * time.Second
	threshold = 236500 * time.Millisecond
)

// The devices of every fakeTable.
const (
	lo = iota + 1
	eth0
	eth1
	cali0
	cali1
	nlmon0
	ppp0
	unknownDevice
)

// fakeTable is as much of a kernel's neighbour table as the loop can tell from
// the real one: ages that grow with time, and the transitions of
// net/core/neighbour.c that what it does sets off.
type fakeTable struct {
	mu       sync.Mutex
	made     time.Time
	entries  map[neigh.Key]*fakeEntry
	topology neigh.Topology

	ops                        []op // every change that was carried out
	dumps, topologies, batches int

	locktime time.Duration // for which an entry cannot be moved after it changed; 0 as in ND

	topologyErr, getErr error
	dumpErr             func(n int) error              // what the n-th dump ends with, having shown everything
	batchErr            func(n int) error              // what the n-th batch of deletions ends with, having done nothing
	refuse              func(neigh.Key) error          // what a change of one entry fails with
	before              func(call string, k neigh.Key) // runs ahead of every Get, SetState, Use, Give and Delete
	dumped              func(visit func(*neigh.Entry)) // runs behind what a dump shows
}

// op is one change.
type op struct {
	do          string // delete, use, give and the new address, the state that was set, or ask
	key         neigh.Key
	at          time.Duration // since the table was made
	oldest      time.Duration // greatest age of the entry just before
	dump, batch int           // how many of either there had been
}

type fakeEntry struct {
	neigh.Entry                        // without its ages
	used, confirmed, updated time.Time // what they are counted from
	talks                    bool      // a TCP connection uses it all the time
	silent                   bool      // its neighbour does not answer
}

func newFake(entries ...*fakeEntry) *fakeTable {
	f := &fakeTable{
		made:    time.Now(),
		entries: make(map[neigh.Key]*fakeEntry),
		topology: neigh.Topology{
			Links: map[int]neigh.Link{
				lo:     {Index: lo, Name: "lo", Loopback: true},
				eth0:   {Index: eth0, Name: "eth0", Uplink: true},
				eth1:   {Index: eth1, Name: "eth1", Uplink: true},
				cali0:  {Index: cali0, Name: "cali0"},
				cali1:  {Index: cali1, Name: "cali1"},
				nlmon0: {Index: nlmon0, Name: "nlmon0", NoARP: true},
				ppp0:   {Index: ppp0, Name: "ppp0", PointToPoint: true},
			},
			NextHops: make(map[neigh.Key]bool),
		},
	}
	f.add(entries...)
	return f
}

// aged returns an entry that the kernel learned by itself and that was last
// used, confirmed and updated age ago.
func aged(addr string, device int, state neigh.State, age time.Duration) *fakeEntry {
	at := time.Now().Add(-age)
	return &fakeEntry{
		Entry: neigh.Entry{
			Key:    neigh.Key{Addr: netip.MustParseAddr(addr), Index: device},
			LLAddr: mac(1),
			State:  state,
		},
		used: at, confirmed: at, updated: at,
	}
}

// talking returns an entry that a steady TCP connection keeps reachable.
func talking(addr string, device int, age time.Duration) *fakeEntry {
	e := aged(addr, device, neigh.Reachable, age)
	e.talks = true
	return e
}

func mac(n byte) neigh.LLAddr {
	a, _ := neigh.LLAddrFrom([]byte{2, 0, 0, 0, 0, n})
	return a
}

// advance takes the entry through what the kernel's timers did up to now.
func (e *fakeEntry) advance(now time.Time) {
	for {
		at := e.updated
		var next neigh.State
		switch e.State {
		case neigh.Reachable:
			if e.talks {
				e.confirmed = now
				return
			}
			at, next = e.confirmed.Add(30*time.Second), neigh.Stale // base_reachable_time
		case neigh.Stale:
			if !e.talks {
				return
			}
			next = neigh.Delay
		case neigh.Delay:
			at, next = e.updated.Add(5*time.Second), neigh.Probe // delay_first_probe_time
		case neigh.Probe:
			next = neigh.Reachable
			if e.silent {
				at, next = e.updated.Add(3*time.Second), neigh.Failed
			}
		default:
			return
		}
		if at.After(now) {
			return
		}
		e.State, e.updated = next, at
		switch next {
		case neigh.Delay:
			e.used = at
		case neigh.Reachable:
			e.confirmed = at
		}
	}
}

// snapshot returns the entry as the kernel would show it now.
func (e *fakeEntry) snapshot() neigh.Entry {
	now := time.Now()
	e.advance(now)
	s := e.Entry
	s.Used, s.Confirmed, s.Updated = now.Sub(e.used), now.Sub(e.confirmed), now.Sub(e.updated)
	return s
}

// DumpParts shows everything in one part.
func (f *fakeTable) DumpParts(visit func(*neigh.Entry), part func(since time.Time)) error {
	since := time.Now()
	if err := f.Dump(visit); err != nil {
		return err
	}
	part(since)
	return nil
}

func (f *fakeTable) Dump(visit func(*neigh.Entry)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dumps++
	keys := slices.SortedFunc(maps.Keys(f.entries), func(a, b neigh.Key) int {
		return cmp.Or(cmp.Compare(a.Index, b.Index), a.Addr.Compare(b.Addr))
	})
	var e neigh.Entry // one for all, as Table says
	for _, k := range keys {
		e = f.entries[k].snapshot()
		visit(&e)
	}
	if f.dumped != nil {
		f.dumped(visit)
	}
	e = neigh.Entry{}
	if f.dumpErr != nil {
		return f.dumpErr(f.dumps)
	}
	return nil
}

func (f *fakeTable) Get(k neigh.Key) (neigh.Entry, error) {
	f.announce("get", k)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.getErr != nil {
		return neigh.Entry{}, f.getErr
	}
	e, ok := f.entries[k]
	if !ok {
		return neigh.Entry{}, fmt.Errorf("reading entry %s: %w", k.Addr, neigh.ErrGone)
	}
	return e.snapshot(), nil
}

// GetAll shows every entry twice, as the dump may that it takes on some kernels.
func (f *fakeTable) GetAll(keys []neigh.Key, visit func(*neigh.Entry)) error {
	for _, k := range slices.Concat(keys, keys) {
		switch e, err := f.Get(k); {
		case err == nil:
			visit(&e)
		case !errors.Is(err, neigh.ErrGone):
			return err
		}
	}
	return nil
}

func (f *fakeTable) Delete(keys []neigh.Key) (failed []neigh.Failure, err error) {
	f.announce("delete", keys[0])
	f.mu.Lock()
	defer f.mu.Unlock()
	f.batches++
	if f.batchErr != nil {
		if err := f.batchErr(f.batches); err != nil {
			return nil, err
		}
	}
	for _, k := range keys {
		if _, err := f.change("delete", k); err != nil {
			failed = append(failed, neigh.Failure{Key: k, Err: err})
			continue
		}
		delete(f.entries, k)
	}
	return failed, nil
}

func (f *fakeTable) SetState(k neigh.Key, s neigh.State) error {
	f.announce(s.String(), k)
	f.mu.Lock()
	defer f.mu.Unlock()
	e, err := f.change(s.String(), k)
	if err != nil {
		return err
	}
	if !e.State.Valid() {
		return errors.New("setting the state of an entry without an address: invalid argument")
	}
	if e.State != s {
		e.State, e.updated = s, time.Now()
	}
	return nil
}

func (f *fakeTable) Use(k neigh.Key) error {
	f.announce("use", k)
	f.mu.Lock()
	defer f.mu.Unlock()
	e, err := f.change("use", k)
	if err != nil {
		return err
	}
	e.used = time.Now()
	if e.State == neigh.Stale {
		e.State, e.updated = neigh.Delay, e.used
	}
	return nil
}

func (f *fakeTable) Give(k neigh.Key, lladdr neigh.LLAddr, flags neigh.Flags) error {
	f.announce("give", k)
	f.mu.Lock()
	defer f.mu.Unlock()
	e, err := f.change("give "+lladdr.String(), k)
	if err != nil {
		return err
	}
	now := time.Now()
	if e.LLAddr != lladdr {
		e.confirmed = now.Add(-time.Minute) // __neigh_update: it was never confirmed
	}
	e.LLAddr, e.State, e.Flags, e.updated, e.used = lladdr, neigh.Delay, flags, now, now
	return nil
}

// answer is what arp_process and ndisc_recv_na do with an answer from lladdr:
// it confirms the entry that names it, and moves one that names another only
// when locktime is over. Without override, which is ND's alone, it moves none: one
// that was NUD_REACHABLE is NUD_STALE then.
func (f *fakeTable) answer(k neigh.Key, lladdr neigh.LLAddr, override bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e, ok := f.entries[k]
	if !ok {
		return
	}
	now := time.Now()
	e.advance(now)
	if !e.State.Valid() || lladdr != e.LLAddr && now.Sub(e.updated) <= f.locktime {
		return
	}
	if lladdr != e.LLAddr && !override {
		if e.State == neigh.Reachable {
			e.State, e.updated = neigh.Stale, now
		}
		return
	}
	if lladdr != e.LLAddr || e.State != neigh.Reachable {
		e.LLAddr, e.State, e.updated = lladdr, neigh.Reachable, now
	}
	e.confirmed = now
}

func (f *fakeTable) Topology() (neigh.Topology, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.topologies++
	if f.topologyErr != nil {
		return neigh.Topology{}, f.topologyErr
	}
	return neigh.Topology{Links: maps.Clone(f.topology.Links), NextHops: maps.Clone(f.topology.NextHops)}, nil
}

func (f *fakeTable) announce(call string, k neigh.Key) {
	if f.before != nil {
		f.before(call, k)
	}
}

// change finds the entry to change and writes down what happens to it.
func (f *fakeTable) change(do string, k neigh.Key) (*fakeEntry, error) {
	e, ok := f.entries[k]
	if !ok {
		return nil, fmt.Errorf("%s: %w", k.Addr, neigh.ErrGone)
	}
	if f.refuse != nil {
		if err := f.refuse(k); err != nil {
			return nil, err
		}
	}
	s := e.snapshot()
	f.ops = append(f.ops, op{do: do, key: k, at: time.Since(f.made), oldest: max(s.Used, s.Confirmed, s.Updated),
		dump: f.dumps, batch: f.batches})
	return e, nil
}

func (f *fakeTable) add(entries ...*fakeEntry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range entries {
		f.entries[e.Key] = e
	}
}

func (f *fakeTable) remove(k neigh.Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.entries, k)
}

// update changes an entry if it is there.
func (f *fakeTable) update(k neigh.Key, change func(*fakeEntry)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e, ok := f.entries[k]; ok {
		change(e)
	}
}

// nextHop makes k the next hop of a route.
func (f *fakeTable) nextHop(k neigh.Key, isDefault bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.topology.NextHops[k] = isDefault
}

// log returns the changes so far.
func (f *fakeTable) log() []op {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.ops)
}

// of returns the changes of one entry, by what was done.
func of(log []op, k neigh.Key) (did []string) {
	for _, o := range log {
		if o.key == k {
			did = append(did, o.do)
		}
	}
	return did
}

// renewals returns the first change of each entry in each pass: a verification
// makes several.
func renewals(log []op) (first []op) {
	type turn struct {
		key  neigh.Key
		dump int
	}
	seen := make(map[turn]bool)
	for _, o := range log {
		if at := (turn{o.key, o.dump}); !seen[at] {
			seen[at] = true
			first = append(first, o)
		}
	}
	return first
}

func (f *fakeTable) size() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.entries)
}

func (f *fakeTable) counts() (dumps, topologies int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dumps, f.topologies
}

// checkAges asserts promise 1 as `ip -statistics neighbour` shows it.
func (f *fakeTable) checkAges(t *testing.T, bound time.Duration) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.entries {
		s := e.snapshot()
		neverConfirmed := bound < time.Minute && s.Confirmed >= max(s.Used, s.Updated)+59*time.Second
		if s.Used > bound || s.Updated > bound || s.Confirmed > bound && !neverConfirmed {
			t.Errorf("at %v: %s %s used %v/%v/%v, the bound is %v",
				time.Since(f.made), s.Addr, s.State, s.Used, s.Confirmed, s.Updated, bound)
		}
	}
}

// sweeper returns a Sweeper of table with the default timing, and a spread that
// is the same in every run.
func sweeper(table *fakeTable, change ...func(*Config)) *Sweeper {
	cfg := Config{
		Table:      table,
		Scope:      &policy.Scope{},
		Timing:     policy.NewTiming(interval, period),
		ScanPeriod: period,
		Log:        slog.New(slog.DiscardHandler),
	}
	for _, c := range change {
		c(&cfg)
	}
	if cfg.Verifier == nil {
		cfg.Verifier = &InPlace{Table: table, Scope: cfg.Scope, Timing: cfg.Timing}
	}
	s := New(cfg)
	s.random = rand.New(rand.NewPCG(1, 2)).Float64
	s.phase = func() float64 { return 1 }
	return s
}

// start runs s until the end of the test, or until stop is called.
func start(t *testing.T, s *Sweeper) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v, want nil once its context is done", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// startSettled starts s and lets its first scan pass, whose entries are due at
// random times: what is added afterwards is due by its age.
func startSettled(t *testing.T, s *Sweeper) (stop func()) {
	t.Helper()
	stop = start(t, s)
	time.Sleep(time.Second)
	return stop
}
