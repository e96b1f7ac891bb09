// Package announce tells the neighbours of a node where its addresses are, once, when
// the agent starts. A node that was rebuilt has its old addresses and new link-layer
// addresses: a gateway, and each host without an agent, keeps sending to the former
// machine until its own entry is verified. With the timers of many gateways that takes
// minutes.
//
// An address is announced only where nobody else holds it, as RFC 5227 has it for
// IPv4; and only if it is one that the host is known by (neigh.Place.Own). Those that
// move from host to host are announced by whatever moves them.
package announce

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/pace"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
)

// The times of RFC 5227 section 1.1, by their names there. Two are shorter: the node
// has the address already and answers for it, so that each second of waiting is one in
// which packets to it are lost. Probes leave PROBE_MIN after one another, without the
// random part: those of several hosts are spread by what PROBE_WAIT adds to the first.
// The announcement follows the last one after the same time, instead of ANNOUNCE_WAIT.
const (
	probeWait        = time.Second // the first probe leaves at a random time within it
	probes           = 3
	probeInterval    = time.Second
	announcements    = 3 // RFC 5227 has two; a switch port may not forward the first yet
	announceInterval = 2 * time.Second
	// retry is RATE_LIMIT_INTERVAL: how long after a conflict, or an error, the address
	// is probed for again. The other holder may be the former machine, on its way out.
	retry = time.Minute
)

const (
	// settling is how long after the start addresses are looked for: an agent that starts
	// with the machine may be there before its addresses are.
	settling   = 5 * time.Minute
	lookPeriod = 2 * time.Second
	// atOnce is how many addresses are probed for and announced at a time.
	atOnce = 16
)

// Table says what the host is known by.
type Table interface {
	Own() (neigh.Own, error)
}

// Port sends the frames that are about one address.
type Port interface {
	// Probe asks who holds the address, without saying who asks, and calls heard for
	// everybody who answers or speaks from it within the window.
	Probe(ctx context.Context, window time.Duration, heard func(neigh.LLAddr)) error
	// Announce announces the address.
	Announce(router bool) error
	Close() error
}

// Config is what an Announcer works with.
type Config struct {
	Table Table
	// Dial opens the port of an address. Its errors wrap neigh.ErrPermission where
	// CAP_NET_RAW is missing, and neigh.ErrUnsupported where the device is not
	// Ethernet.
	Dial func(neigh.Key) (Port, error)
	// Pace returns when n frames may be sent on the device.
	Pace func(ctx context.Context, device, n int) error
	// Frames is how many an announcement of the address takes.
	Frames func(netip.Addr) int
	// Scope says on which devices, and in which family, the agent works at all.
	Scope *policy.Scope
	Log   *slog.Logger
	// Conflict, if not nil, is called each time another holder of an address was found,
	// with the name of its device.
	Conflict func(device string)
}

// Announcer announces the addresses of this host.
type Announcer struct {
	Config
	turns chan struct{} // one for each address that is being announced
	mu    sync.Mutex
	said  map[string]bool // what is said once
}

// New returns an Announcer. It starts nothing.
func New(c Config) *Announcer {
	return &Announcer{Config: c, turns: make(chan struct{}, atOnce), said: make(map[string]bool)}
}

// outcome is what came of trying to announce an address.
type outcome int

const (
	ready      outcome = iota // it may go on
	done                      // nothing is left to do: it was announced, cannot be, or is gone, or the agent stops
	outOfScope                // the agent leaves its device or its family alone
	conflict                  // somebody else holds it
	tentative                 // the kernel is still finding out whether somebody does
	failed                    // something was wrong that may pass, for example that the device was down
)

// judge says whether an address may be announced, as far as the host knows: ready, or
// why not.
func judge(o *neigh.OwnAddr, scope *policy.Scope) outcome {
	switch {
	case scope.Family != "" && scope.Family != neigh.Family(o.Addr), scope.Device(&o.Link) != policy.Unknown:
		return outOfScope
	case o.Duplicate:
		return conflict
	case o.Tentative:
		return tentative
	}
	return ready
}

// again returns after how long it is tried again, or 0.
func (o outcome) again() time.Duration {
	switch o {
	case conflict, failed:
		return retry
	case tentative:
		return lookPeriod
	}
	return 0
}

// Run announces each address that the host has, or comes by within five minutes. It
// returns nil when all of that is done, or ctx is.
func (a *Announcer) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	begun := make(map[neigh.Key]bool)
	for until := time.Now().Add(settling); ; {
		own, err := a.Table.Own()
		if err != nil {
			a.Log.Debug("own addresses cannot be listed", "err", err)
		}
		for i := range own.Addrs {
			k := keyOf(&own.Addrs[i])
			if begun[k] || judge(&own.Addrs[i], a.Scope) == outOfScope {
				continue
			}
			begun[k] = true
			wg.Go(func() { a.keepTrying(ctx, k) })
		}
		if !time.Now().Before(until) || !pace.Sleep(ctx, lookPeriod) {
			return nil
		}
	}
}

// keepTrying tries to announce an address until there is nothing more to try.
func (a *Announcer) keepTrying(ctx context.Context, k neigh.Key) {
	for {
		if !pace.Sleep(ctx, rand.N(probeWait)) { //nolint:gosec // spreads load, no secret
			return
		}
		wait := a.try(ctx, k).again()
		if wait == 0 || !pace.Sleep(ctx, wait) {
			return
		}
	}
}

// try probes for an address, and announces it where nobody else holds it.
func (a *Announcer) try(ctx context.Context, k neigh.Key) outcome {
	select {
	case a.turns <- struct{}{}:
		defer func() { <-a.turns }()
	case <-ctx.Done():
		return done
	}
	own, o, found := a.look(k)
	if found == conflict {
		a.reportConflict(&o, "kernel", "duplicate address detection")
	}
	if found != ready {
		return found
	}
	port, err := a.Dial(k)
	if err != nil {
		return a.reportFailure(ctx, &o, err)
	}
	defer func() { _ = port.Close() }()
	holder, err := a.probe(ctx, port, k, own.LLAddrs)
	switch {
	case err != nil:
		return a.reportFailure(ctx, &o, err)
	case holder != neigh.LLAddr{}:
		a.reportConflict(&o, "holder", holder)
		return conflict
	}
	return a.announce(ctx, port, k)
}

// look reads an address, and whether it may be announced now.
func (a *Announcer) look(k neigh.Key) (neigh.Own, neigh.OwnAddr, outcome) {
	own, err := a.Table.Own()
	if err != nil {
		a.Log.Debug("own addresses cannot be listed", "err", err)
		return own, neigh.OwnAddr{}, failed
	}
	i := slices.IndexFunc(own.Addrs, func(o neigh.OwnAddr) bool { return keyOf(&o) == k })
	if i < 0 { // it is gone, or the host is no longer known by it
		return own, neigh.OwnAddr{}, done
	}
	return own, own.Addrs[i], judge(&own.Addrs[i], a.Scope)
}

// probe returns another holder of an address, the zero value if none is heard. What this
// host answers itself, by another device on the same segment, does not count.
func (a *Announcer) probe(ctx context.Context, port Port, k neigh.Key, own []neigh.LLAddr) (other neigh.LLAddr, err error) {
	for range probes {
		if err := a.Pace(ctx, k.Index, 1); err != nil {
			return other, err
		}
		heard, enough := context.WithCancel(ctx)
		err := port.Probe(heard, probeInterval, func(l neigh.LLAddr) {
			if !slices.Contains(own, l) {
				other = l
				enough()
			}
		})
		enough()
		if other != (neigh.LLAddr{}) {
			return other, nil
		}
		if err != nil {
			return other, err
		}
	}
	return other, nil
}

// announce announces an address three times, and reads before each whether the host
// still has it.
func (a *Announcer) announce(ctx context.Context, port Port, k neigh.Key) outcome {
	for i := range announcements {
		if i > 0 && !pace.Sleep(ctx, announceInterval) || a.Pace(ctx, k.Index, a.Frames(k.Addr)) != nil {
			return done // the agent stops
		}
		_, o, found := a.look(k)
		if found != ready {
			return found
		}
		if err := port.Announce(o.Router); err != nil {
			return a.reportFailure(ctx, &o, err)
		}
		if i == 0 {
			a.Log.Info("address announced", "address", k.Addr, "device", o.Link.Name)
		}
	}
	return done
}

// reportConflict says once, and counts, that an address is not announced because of another
// holder.
func (a *Announcer) reportConflict(o *neigh.OwnAddr, key string, holder any) {
	level := slog.LevelDebug
	if a.first(o.Link.Name + " " + o.Addr.String()) {
		level = slog.LevelWarn
	}
	a.Log.Log(context.Background(), level, "another host answers for an address of this host: it is not announced until that ends",
		"address", o.Addr, "device", o.Link.Name, key, holder)
	if a.Conflict != nil {
		a.Conflict(o.Link.Name)
	}
}

// reportFailure logs what went wrong: once, and louder, where it is for good.
func (a *Announcer) reportFailure(ctx context.Context, o *neigh.OwnAddr, err error) outcome {
	switch {
	case ctx.Err() != nil:
		return done
	case errors.Is(err, neigh.ErrPermission):
		if a.first("permission") {
			a.Log.Warn("CAP_NET_RAW is missing: the addresses of this host are not announced")
		}
		return done
	case errors.Is(err, neigh.ErrUnsupported):
		if a.first("device " + o.Link.Name) {
			a.Log.Info("device is not Ethernet: its addresses are not announced", "device", o.Link.Name)
		}
		return done
	}
	a.Log.Debug("address could not be announced", "address", o.Addr, "device", o.Link.Name, "err", err)
	return failed
}

// first reports whether something is said for the first time.
func (a *Announcer) first(what string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	was := a.said[what]
	a.said[what] = true
	return !was
}

func keyOf(o *neigh.OwnAddr) neigh.Key { return neigh.Key{Addr: o.Addr, Index: o.Link.Index} }
