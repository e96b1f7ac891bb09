package vip

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/report"
)

const (
	// roundEvery is how often VIPs are looked for, unless something is suspicious.
	roundEvery = 30 * time.Second
	// roundGap is the least time between two such rounds.
	roundGap = time.Second
	// keepFor is how long a VIP is watched to which there are no connections any
	// more: while it is lost, there are none for long.
	keepFor = 10 * time.Minute
	// lookupTimeout bounds the resolution of a name.
	lookupTimeout = 5 * time.Second
)

// Source says how a VIP is known.
type Source string

// The sources, which are label values as well.
const (
	FromSockets Source = "auto"
	FromAddress Source = "address"
	FromName    Source = "name"
)

// target is a VIP that is to be watched.
type target struct {
	addr   netip.Addr
	source Source
	name   string // of FromName
}

// Watcher watches the VIPs that this node depends on.
type Watcher struct {
	cfg    Config
	budget budget
	again  chan struct{} // something is suspicious: look for VIPs now

	sayBlind func()

	// Of the goroutine that runs Run.
	seen     map[netip.Addr]time.Time // by sockets, and when last
	resolved map[string][]netip.Addr  // names, and what they last resolved to

	mu      sync.Mutex
	watches map[netip.Addr]*watch
}

// New returns a Watcher. It starts nothing.
func New(cfg Config) *Watcher {
	return &Watcher{
		cfg: cfg, again: make(chan struct{}, 1), seen: make(map[netip.Addr]time.Time),
		resolved: make(map[string][]netip.Addr), watches: make(map[netip.Addr]*watch),
		sayBlind: sync.OnceFunc(func() {
			cfg.Log.Warn("CAP_NET_RAW is missing: the holders of VIPs cannot be asked, and a move is not noticed")
		}),
	}
}

// Status returns what is known of each VIP, in the order of their addresses.
func (w *Watcher) Status() []*report.VIP {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []*report.VIP
	for _, a := range slices.SortedFunc(maps.Keys(w.watches), netip.Addr.Compare) {
		if s := w.watches[a].status.Load(); s != nil {
			all = append(all, s)
		}
	}
	return all
}

// Claims returns the entries that the watch renews: at most maxVIPs.
func (w *Watcher) Claims() []neigh.Key {
	w.mu.Lock()
	defer w.mu.Unlock()
	var keys []neigh.Key
	for _, v := range w.watches {
		if k := v.claimed.Load(); k != nil {
			keys = append(keys, *k)
		}
	}
	return keys
}

// Run watches until ctx is done, and returns nil then.
func (w *Watcher) Run(ctx context.Context) error {
	defer w.follow(ctx, nil, nil)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-w.again:
		}
		if ctx.Err() != nil {
			return nil
		}
		sockets, err := w.cfg.Sockets.List(w.cfg.Port)
		if err != nil {
			w.cfg.Log.Debug("listing connections", "err", err)
		}
		w.follow(ctx, w.targets(ctx, time.Now(), sockets), sockets)
		if !sleep(ctx, roundGap) {
			return nil
		}
		timer.Reset(roundEvery - roundGap)
	}
}

// suspicious has VIPs looked for soon: names resolved again, and connections.
func (w *Watcher) suspicious() {
	select {
	case w.again <- struct{}{}:
	default:
	}
}

// targets returns the VIPs to be watched: at most maxVIPs, those that were given
// first.
func (w *Watcher) targets(ctx context.Context, now time.Time, sockets []neigh.Socket) []target {
	var all []target
	for _, a := range w.cfg.Addrs {
		all = append(all, target{addr: a, source: FromAddress})
	}
	for i, addrs := range w.lookup(ctx) {
		for _, a := range addrs {
			all = append(all, target{addr: a, source: FromName, name: w.cfg.Names[i]})
		}
	}
	if w.cfg.Auto {
		all = append(all, w.discover(now, sockets)...)
	}
	chosen := make([]target, 0, maxVIPs)
	for _, t := range all {
		if len(chosen) < maxVIPs && !slices.ContainsFunc(chosen, func(c target) bool { return c.addr == t.addr }) {
			chosen = append(chosen, t)
		}
	}
	return chosen
}

// lookup resolves all names. While that fails, what one last resolved to is true:
// the name server may be behind what is broken.
func (w *Watcher) lookup(ctx context.Context) [][]netip.Addr {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	all := make([][]netip.Addr, len(w.cfg.Names))
	var wg sync.WaitGroup
	for i, name := range w.cfg.Names {
		wg.Go(func() {
			addrs, err := w.cfg.Lookup(ctx, name)
			if err != nil {
				w.cfg.Log.Debug("name of a VIP not resolved", "name", name, "err", err)
				return
			}
			for _, a := range addrs {
				all[i] = append(all[i], a.Unmap())
			}
		})
	}
	wg.Wait()
	for i, name := range w.cfg.Names {
		if len(all[i]) == 0 {
			all[i] = w.resolved[name]
			continue
		}
		slices.SortFunc(all[i], netip.Addr.Compare)
		w.resolved[name] = all[i]
	}
	return all
}

// discover returns the addresses that this host has connections to. Those on
// link come first, as only they can be repaired.
func (w *Watcher) discover(now time.Time, sockets []neigh.Socket) []target {
	for i := range sockets {
		w.seen[sockets[i].Remote.Addr()] = now
	}
	rank := make(map[netip.Addr]int)
	for a, last := range w.seen {
		if now.Sub(last) > keepFor {
			delete(w.seen, a)
			continue
		}
		rank[a] = w.rank(a)
		if rank[a] < 0 {
			delete(w.seen, a)
		}
	}
	addrs := slices.SortedFunc(maps.Keys(w.seen), func(a, b netip.Addr) int {
		if rank[a] != rank[b] {
			return rank[a] - rank[b]
		}
		return a.Compare(b)
	})
	targets := make([]target, len(addrs))
	for i, a := range addrs {
		targets[i] = target{addr: a, source: FromSockets}
	}
	return targets
}

// rank returns how much an address is worth watching, least first, or less than
// 0 if it is not: loopback, and the node's own address, to which the control
// plane's components connect on their own host.
func (w *Watcher) rank(a netip.Addr) int {
	if a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast() {
		return -1
	}
	_, watched := w.watches[a] // only this goroutine changes them
	p, err := w.cfg.Table.Place(a)
	switch {
	case err == nil && p.Own:
		return -1
	case err != nil || p.Local && !p.Here || p.Gateway.IsValid():
		return 2
	case watched:
		return 0
	}
	return 1
}

// follow starts and ends watches, so that there is one for each target, and tells
// them of the sockets there are.
func (w *Watcher) follow(ctx context.Context, targets []target, sockets []neigh.Socket) {
	wanted := make(map[netip.Addr]target, len(targets))
	for _, t := range targets {
		wanted[t.addr] = t
	}
	for a, v := range w.watches {
		if t, ok := wanted[a]; ok && t == v.target {
			continue
		}
		v.stop()
		w.mu.Lock()
		delete(w.watches, a)
		w.mu.Unlock()
		if w.cfg.Hooks.Forgotten != nil {
			w.cfg.Hooks.Forgotten(a)
		}
	}
	for a, t := range wanted {
		if v := w.watches[a]; v != nil {
			v.tell(sockets)
			continue
		}
		v := newWatch(w, t)
		v.tell(sockets)
		w.mu.Lock()
		w.watches[a] = v
		w.mu.Unlock()
		if w.cfg.Hooks.Watching != nil {
			w.cfg.Hooks.Watching(a)
		}
		v.start(ctx)
	}
}

// sleep waits for d. It reports false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
