package vip

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/report"
)

const (
	// unusedFor is how long a VIP is watched that works, and that nobody uses.
	unusedFor = 10 * time.Minute
	// wantedFor is how long an attempt to connect shows that an address is wanted:
	// clients try again within that time. It is longer than from one round to the next.
	wantedFor = roundEvery + 2*lookupTimeout
	// abandonedFor is the same for an address that is in trouble while another one
	// works, and from the beginning of the trouble: rounds are made more often then. A
	// machine that was switched off, and that nobody asks for, is no trouble.
	abandonedFor = 15 * time.Second
	// maxSeen bounds the addresses that are remembered.
	maxSeen = 64
)

// sighting is what the sockets of this host said about an address.
type sighting struct {
	wanted      time.Time // when there was last a connection to it, or an attempt
	refused     time.Time // when an attempt was last refused
	established bool      // a connection to it was established once
}

// sight takes in the sockets of this host. complete says that these are all.
func (w *Watcher) sight(now time.Time, sockets []neigh.Socket, complete bool) {
	see := func(p place) *sighting {
		s := w.seen[p]
		if s == nil {
			s = &sighting{}
			if len(w.seen) < maxSeen {
				w.seen[p] = s
			}
		}
		s.wanted = now
		return s
	}
	for i := range sockets {
		if s := &sockets[i]; !s.Accepted {
			seen := see(place{s.Remote.Addr(), s.Index})
			seen.established = seen.established || s.Established
		}
	}
	w.mu.Lock()
	tried := w.tried
	w.tried = make(map[place]time.Time)
	w.mu.Unlock()
	for p, at := range tried {
		see(p).refused = at
	}
	if !complete { // who is wanted is not known
		for _, s := range w.seen {
			s.wanted = now
		}
	}
}

// discover returns the addresses that this host wants to speak to. Those on link
// come first, as only they can be repaired.
//
// An address matters while somebody wants it. One that is in trouble and was used
// before matters as long as nothing else works: while it is lost, there may be no
// connection to it for long. One that nobody ever reached is watched only if
// nothing else works.
func (w *Watcher) discover(now time.Time) []Target {
	works := make(map[place]bool)
	for p := range w.seen {
		works[p] = w.works(p)
	}
	rank := make(map[place]int)
	for p, s := range w.seen {
		elsewhere := false // another one works
		for o, ok := range works {
			elsewhere = elsewhere || ok && o != p
		}
		patience := wantedFor
		if elsewhere && w.troubledFor(now, p) > abandonedFor {
			patience = abandonedFor
		}
		wanted := now.Sub(s.wanted) < patience
		keep := s.established && (wanted || works[p] && now.Sub(s.wanted) < unusedFor || !works[p] && !elsewhere) ||
			!s.established && wanted && !elsewhere
		rank[p] = w.rank(p)
		if rank[p] < 0 || !keep && !wanted {
			delete(w.seen, p)
		}
		if !keep {
			rank[p] = -1
		}
	}
	places := slices.SortedFunc(maps.Keys(w.seen), func(a, b place) int {
		return cmp.Or(rank[a]-rank[b], a.addr.Compare(b.addr), a.bound-b.bound)
	})
	var targets []Target
	for _, p := range places {
		if rank[p] >= 0 {
			targets = append(targets, Target{Addr: p.addr, Port: w.cfg.Port, Source: FromSockets, Bound: p.bound, Device: w.device(p.bound)})
		}
	}
	return targets
}

// statusOf returns what is known of an address that is watched, and nil for any other.
func (w *Watcher) statusOf(p place) *report.VIP {
	if v := w.watches[p]; v != nil { // only this goroutine changes them
		return v.status.Load()
	}
	return nil
}

// troubledFor returns for how long an address that is watched has not worked, 0 if it
// does.
func (w *Watcher) troubledFor(now time.Time, p place) time.Duration {
	if s := w.statusOf(p); s != nil && State(s.State).trouble() {
		return now.Sub(s.Verified)
	}
	return 0
}

// works reports whether an address that is watched works.
func (w *Watcher) works(p place) bool {
	s := w.statusOf(p)
	return s != nil && (s.State == string(StateWorks) || s.HeldHere && (!s.Checked || s.Serving))
}

// rank returns how much an address is worth watching, least first, or less than
// 0 if it is not: loopback, and the node's own address, to which the control
// plane's components connect on their own host.
func (w *Watcher) rank(p place) int {
	if notVIP(p.addr) {
		return -1
	}
	_, watched := w.watches[p]
	at, err := w.cfg.Table.Place(p.addr, p.bound)
	switch {
	case err == nil && at.Own:
		return -1
	case err != nil || at.Local && !at.Here || at.Gateway.IsValid():
		return 2
	case watched:
		return 0
	}
	return 1
}

// notVIP reports whether an address can be nobody's VIP.
func notVIP(a netip.Addr) bool {
	return a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast()
}

// device names the device that sockets are bound to.
func (w *Watcher) device(index int) string {
	if index == 0 {
		return ""
	}
	name, err := w.cfg.Table.DeviceName(index)
	if err != nil {
		w.cfg.Log.Debug("naming the device that connections are bound to", "index", index, "err", err)
	}
	return name
}
