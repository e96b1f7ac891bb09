package vip

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/pace"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/report"
)

const (
	// roundEvery is how often VIPs are looked for, unless something is suspicious.
	roundEvery = time.Minute
	roundSoon  = 5 * time.Second
	// leftOutFor is how long an address is left out of the answers to its name before
	// that may mean that it is none of them any more: longer than one round.
	leftOutFor = roundEvery + roundSoon
	// roundGap is the least time between two such rounds.
	roundGap = time.Second
	// noneAfter is after what time it is said that there is no VIP.
	noneAfter = time.Minute
	// lookupTimeout bounds the resolution of a name.
	lookupTimeout = 5 * time.Second
)

// Watcher watches the VIPs that this node depends on.
type Watcher struct {
	cfg  Config
	said once
	wake chan struct{} // something is suspicious: look for VIPs now
	made time.Time

	// Of the goroutine that runs Run.
	seen     map[place]*sighting                 // by sockets
	resolved map[string]map[netip.Addr]time.Time // names, what they resolved to, and when last
	listener *worker                             // hears of connections that have ended; nil while there is no need

	mu      sync.Mutex
	watches map[place]*watch
	tried   map[place]time.Time // attempts to connect that came to nothing
}

// New returns a Watcher. It starts nothing.
func New(cfg Config) *Watcher {
	return &Watcher{
		cfg: cfg, wake: make(chan struct{}, 1), made: time.Now(), seen: make(map[place]*sighting),
		resolved: make(map[string]map[netip.Addr]time.Time), watches: make(map[place]*watch), tried: make(map[place]time.Time),
	}
}

// Status returns what is known of each VIP, in the order of their addresses.
func (w *Watcher) Status() []*report.VIP {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []*report.VIP
	for _, v := range w.watches {
		if s := v.status.Load(); s != nil {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b *report.VIP) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Name, b.Name))
	})
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
	defer w.listen(ctx, false)
	timer := time.NewTimer(0)
	defer timer.Stop()
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-w.wake:
			pace.Sleep(ctx, time.Until(last.Add(roundGap)))
		}
		if ctx.Err() != nil {
			return nil
		}
		w.turn(ctx)
		last = time.Now()
		timer.Reset(w.pause())
	}
}

// pause returns the time between two rounds. It is less at first, as long as there is
// no VIP, because an agent may start before the node's clients have connected; and in
// trouble, in which it matters who still wants which address.
func (w *Watcher) pause() time.Duration {
	now := time.Now()
	if len(w.watches) == 0 && now.Sub(w.made) < noneAfter {
		return roundSoon
	}
	for p := range w.watches {
		if w.troubledFor(now, p) > 0 {
			return roundSoon
		}
	}
	return roundEvery
}

// turn looks for VIPs once.
func (w *Watcher) turn(ctx context.Context) {
	now := time.Now()
	sockets, err := w.cfg.Sockets.List(w.cfg.Port)
	if err != nil {
		w.cfg.Log.Debug("listing connections", "err", err)
	}
	w.sight(now, sockets, err == nil)
	targets := w.targets(ctx, now)
	w.follow(ctx, targets, append(sockets, w.others()...))
	w.listen(ctx, w.cfg.Auto && len(targets) == 0 || w.inTrouble())
	if len(targets) == 0 && (w.cfg.Auto || len(w.cfg.Given) > 0) && now.Sub(w.made) >= noneAfter {
		w.said.do("none", func() {
			w.cfg.Log.Warn("no VIP is watched: this node has no connection to an API server on --vip-port; --vip=ADDRESS or --vip=NAME names one, --vip=none says that there is none",
				"vip_port", w.cfg.Port)
		})
	}
}

// others lists the connections to the ports of VIPs that have another than --vip-port.
// They are for the watches: no VIP is found by them.
func (w *Watcher) others() (all []neigh.Socket) {
	for _, port := range w.ports() {
		if port == w.cfg.Port {
			continue
		}
		sockets, err := w.cfg.Sockets.List(port)
		if err != nil {
			w.cfg.Log.Debug("listing connections", "port", port, "err", err)
		}
		all = append(all, sockets...)
	}
	return all
}

// again has VIPs looked for soon: names resolved again, and connections.
func (w *Watcher) again() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// inTrouble reports whether a VIP does not work, or may not have since the agent
// started: nobody had a connection to it.
func (w *Watcher) inTrouble() bool {
	for _, v := range w.watches {
		if !v.connected.Load() && time.Since(v.begun) < youngFor || w.troubledFor(time.Now(), v.target.place()) > 0 {
			return true
		}
	}
	return false
}

// targets returns the VIPs to be watched: at most maxVIPs, those that were given
// first, and last what names resolved to a while ago.
func (w *Watcher) targets(ctx context.Context, now time.Time) []Target {
	var all []Target
	w.lookup(ctx, now)
	for _, g := range w.cfg.Given {
		if g.Name == "" {
			all = append(all, Target{Addr: g.Addr, Port: g.Port, Source: FromAddress})
		}
	}
	var former []Target
	for _, g := range w.cfg.Given {
		latest, before := w.addresses(now, &g)
		all, former = append(all, latest...), append(former, before...)
	}
	if w.cfg.Auto {
		for _, t := range w.discover(now) {
			if i := slices.IndexFunc(former, func(f Target) bool { return f.place() == t.place() }); i >= 0 {
				t = former[i] // it is known by its name
			}
			all = append(all, t)
		}
	}
	chosen := make([]Target, 0, maxVIPs)
	for _, t := range append(all, former...) {
		if len(chosen) < maxVIPs && !slices.ContainsFunc(chosen, func(c Target) bool { return c.place() == t.place() }) {
			chosen = append(chosen, t)
		}
	}
	return chosen
}

// addresses returns what a name resolves to, and what it resolved to a while ago: a
// name server may answer with some of the addresses at a time. Of the latter, one that
// is in trouble and was left out for a while is let go: the name may have been given
// another address for that reason. Time passes with answers only.
func (w *Watcher) addresses(now time.Time, g *Given) (latest, former []Target) {
	resolved := w.resolved[g.Name]
	var last time.Time
	for _, at := range resolved {
		if at.After(last) {
			last = at
		}
	}
	for _, a := range slices.SortedFunc(maps.Keys(resolved), netip.Addr.Compare) {
		t := Target{Addr: a, Port: g.Port, Source: FromName, Name: g.Name}
		switch left := last.Sub(resolved[a]); {
		case left == 0:
			latest = append(latest, t)
		case left < leftOutFor || left < unusedFor && w.troubledFor(now, t.place()) == 0:
			former = append(former, t)
		default:
			delete(resolved, a)
		}
	}
	return latest, former
}

// lookup resolves all names. While that fails, what a name last resolved to counts: the
// way to the name server may be broken as well.
func (w *Watcher) lookup(ctx context.Context, now time.Time) {
	if !slices.ContainsFunc(w.cfg.Given, func(g Given) bool { return g.Name != "" }) {
		return // as a rule
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, g := range w.cfg.Given {
		if g.Name == "" {
			continue
		}
		wg.Go(func() {
			addrs, err := w.cfg.Lookup(ctx, g.Name)
			if err != nil {
				w.cfg.Log.Debug("name of a VIP not resolved", "name", g.Name, "err", err)
			}
			if err != nil || len(addrs) == 0 {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if w.resolved[g.Name] == nil {
				w.resolved[g.Name] = make(map[netip.Addr]time.Time)
			}
			for _, a := range addrs {
				w.resolved[g.Name][a.Unmap()] = now
			}
		})
	}
	wg.Wait()
}

// follow starts and ends watches, so that there is one for each target, and passes
// them the connections there are.
func (w *Watcher) follow(ctx context.Context, targets []Target, sockets []neigh.Socket) {
	wanted := make(map[place]Target, len(targets))
	for _, t := range targets {
		wanted[t.place()] = t
	}
	for p, v := range maps.Clone(w.watches) {
		if t, ok := wanted[p]; ok && t == v.target {
			continue
		}
		v.stop()
		w.mu.Lock()
		delete(w.watches, p)
		w.mu.Unlock()
		if ctx.Err() == nil {
			v.log.Info("not watching the VIP any more", "why", w.why(v.target, wanted))
		}
		w.cfg.Hooks.Forgotten(v.target.String())
	}
	for p, t := range wanted {
		if v := w.watches[p]; v != nil {
			v.pass(sockets)
			continue
		}
		v := newWatch(w, t)
		v.pass(sockets)
		if s := w.seen[p]; s != nil && !s.refused.IsZero() {
			at := s.refused
			v.refusedAt.Store(&at)
		}
		w.mu.Lock()
		w.watches[p] = v
		w.mu.Unlock()
		w.cfg.Hooks.Watching(t.String())
		v.start(ctx)
	}
}

// why says why a VIP is not watched any more.
func (w *Watcher) why(t Target, wanted map[place]Target) string {
	_, other := wanted[t.place()]
	switch {
	case other:
		return "it is known in another way now"
	case t.Source == FromName:
		return "the name resolves to other addresses"
	case w.seen[t.place()] != nil:
		return "others come first"
	}
	return "nobody on this node uses it"
}

// listen starts or ends to listen to connections that have ended. A refused attempt
// to connect lives for 0.1 ms, and no list shows it. Meanwhile each connection of
// the machine that ends costs the kernel a message, so it is done only while no VIP
// is known, or one does not work.
func (w *Watcher) listen(ctx context.Context, want bool) {
	if w.listener != nil && w.listener.ended() { // by itself
		w.listener = nil
	}
	switch {
	case w.cfg.Attempts == nil:
	case !want && w.listener != nil:
		w.listener.stop()
		w.listener = nil
	case want && w.listener == nil:
		a, err := w.cfg.Attempts(w.ports())
		if err != nil { // a VIP that refuses connections when the agent starts is not found
			w.cfg.Log.Debug("subscribing to connections that end", "err", err)
			return
		}
		l := work(ctx, func(ctx context.Context) {
			defer a.Close()
			w.hear(ctx, a)
		})
		w.listener = &l
	}
}

// ports returns those of all VIPs.
func (w *Watcher) ports() (all []uint16) {
	if w.cfg.Auto {
		all = append(all, w.cfg.Port)
	}
	for _, g := range w.cfg.Given {
		if !slices.Contains(all, g.Port) {
			all = append(all, g.Port)
		}
	}
	return all
}

// hear takes in connections that have ended until ctx is done, or that fails.
func (w *Watcher) hear(ctx context.Context, a Attempts) {
	for {
		err := a.Next(ctx, w.refused)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !errors.Is(err, neigh.ErrOverrun):
			w.cfg.Log.Debug("hearing of attempts to connect", "err", err)
			return
		}
	}
}

// refused takes in a connection that has ended, if it was refused.
func (w *Watcher) refused(s *neigh.Socket) {
	if !s.Refused {
		return
	}
	now := time.Now()
	p := place{s.Remote.Addr(), s.Index}
	w.mu.Lock()
	defer w.mu.Unlock()
	if v := w.watches[p]; v != nil && v.target.has(s) {
		v.refusedAt.Store(&now)
	}
	if !w.cfg.Auto || s.Remote.Port() != w.cfg.Port {
		return
	}
	_, before := w.tried[p]
	if len(w.tried) < maxSeen || before {
		w.tried[p] = now
	}
	if w.watches[p] == nil && !before {
		w.again()
	}
}
