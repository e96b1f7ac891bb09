package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/apicheck"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/kernel"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/metrics"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/solicit"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/vip"
)

// watcher returns the watch over VIPs. renewed is told of entries that it had asked
// for afresh.
func (a *assembly) watcher(renewed func(neigh.Key, time.Time)) (*vip.Watcher, error) {
	conflict, hint, err := conflictPolicy(&a.o.VIP, a.log)
	if err != nil {
		return nil, err
	}
	table, err := a.table()
	if err != nil {
		return nil, err
	}
	sockets, closeSockets, err := openSockets(&a.o.VIP, a.log)
	if err != nil {
		return nil, err
	}
	a.closes(closeSockets)
	var attempts func([]uint16) (vip.Attempts, error)
	if _, ok := sockets.(*kernel.Sockets); ok {
		attempts = func(ports []uint16) (vip.Attempts, error) { return kernel.SubscribeDestroyed(ports...) }
	}
	counters := metrics.NewVIPs(vipLabels(&a.o.VIP))
	hooks := a.hooks(counters)
	hooks.Resolved = renewed
	hooks.Watching = func(name string) {
		counters.Watching(name)
		hint()
	}
	w := vip.New(vip.Config{
		Table:     table,
		Dial:      func(k neigh.Key) (vip.Line, error) { return dialLine(table, k) },
		Sockets:   sockets,
		Subscribe: func() (vip.Changes, error) { return kernel.Subscribe() },
		Attempts:  attempts,
		Checker:   serviceChecker(&a.o.VIP, conflict, a.log),
		Lookup: func(ctx context.Context, name string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", name)
		},
		Pace:       func(ctx context.Context, device int) error { return a.pacer.Wait(ctx, device, 1, true) },
		Auto:       a.o.VIP.Auto,
		Given:      a.o.VIP.Targets,
		Port:       a.o.VIP.Port,
		Interval:   a.o.VIP.Interval,
		OnConflict: conflict,
		DryRun:     !a.role.acting,
		Scope:      &a.o.Scope,
		Timing:     a.timing,
		Hooks:      hooks,
		Log:        a.log,
	})
	a.metrics.ObserveVIPs(counters, w.Status)
	return w, nil
}

// conflictPolicy returns which other holder of a VIP is followed. hint logs once if
// that is not what --vip-on-conflict asks for. Call it when a VIP is watched: a node
// without one need not know.
func conflictPolicy(o *vipOptions, log *slog.Logger) (conflict vip.Conflict, hint func(), err error) {
	conflict, hint = vip.Conflict(o.OnConflict), func() {}
	if o.CAFile != "" && o.Health == "https" {
		switch err := apicheck.CheckCAFile(o.CAFile); {
		case errors.Is(err, fs.ErrNotExist): // a ConfigMap that Kubernetes has yet to fill
			log.Warn("--vip-ca-file does not exist: until it does, no VIP can be checked", "file", o.CAFile)
		case err != nil:
			return conflict, hint, badInput{fmt.Errorf("--vip-ca-file: %w", err)}
		}
		return conflict, hint, nil
	}
	if conflict == vip.Verified {
		conflict = vip.Report
		hint = sync.OnceFunc(func() {
			log.Info("--vip-on-conflict=verified needs --vip-health=https and --vip-ca-file: another holder of a VIP is reported, and not followed")
		})
	}
	return conflict, hint, nil
}

// vipLabels returns the values that the labels of VIPs can have.
func vipLabels(o *vipOptions) metrics.VIPLabels {
	l := metrics.VIPLabels{Events: names(vip.Events[:]), Causes: names(vip.Repairs[:]), Results: names(apicheck.Outcomes[:])}
	if o.watches() { // else no VIP is expected
		l.Sources = names(vip.Sources[:])
	}
	return l
}

// hooks has what happens to VIPs counted, and shown on the status page.
func (a *assembly) hooks(v *metrics.VIPs) vip.Hooks {
	return vip.Hooks{
		Forgotten: v.Forgotten,
		Happened: func(name string, e vip.Event) {
			v.Happened(name, string(e), e == vip.Moved)
			a.history.Add(time.Now(), name, string(e))
		},
		Repaired: func(name string, c vip.Cause, took time.Duration) {
			v.Repaired(name, string(c), took)
			a.history.Add(time.Now(), name, fmt.Sprintf("repaired in %.1fs (%s)", took.Seconds(), c))
		},
		Checked:  v.Checked,
		Answered: a.metrics.Answered,
	}
}

// openSockets returns the connections of this host, and what closes them: none
// where no VIP is watched, or where the kernel cannot list them. The latter is logged,
// and the agent goes on without them.
func openSockets(o *vipOptions, log *slog.Logger) (vip.Sockets, func(), error) {
	if !o.watches() {
		return noSockets{}, func() {}, nil
	}
	s, err := kernel.OpenSockets()
	switch {
	case err == nil:
		return s, s.Close, nil
	case !errors.Is(err, neigh.ErrUnsupported) && !errors.Is(err, neigh.ErrPermission):
		return nil, nil, err
	}
	p, other := kernel.OpenProcSockets()
	if other != nil {
		log.Warn("TCP connections cannot be listed: --vip=auto finds no VIP, and those that --vip names are watched by ARP and ND alone", "err", errors.Join(err, other))
		return noSockets{}, func() {}, nil
	}
	log.Warn("how TCP connections fare cannot be told: --vip=auto finds VIPs by /proc/net/tcp, and all are watched by ARP and ND alone", "err", err)
	return p, p.Close, nil
}

// noSockets are the connections of a host that cannot list any.
type noSockets struct{}

// List implements vip.Sockets.
func (noSockets) List(uint16) ([]neigh.Socket, error) { return nil, nil }

// Get implements vip.Sockets.
func (noSockets) Get(*neigh.Socket) (neigh.Socket, error) {
	return neigh.Socket{}, neigh.ErrUnsupported
}

// Destroy implements vip.Sockets.
func (noSockets) Destroy(*neigh.Socket) error { return neigh.ErrUnsupported }

func names[T ~string](values []T) []string {
	all := make([]string, len(values))
	for i, v := range values {
		all[i] = string(v)
	}
	return all
}

// serviceChecker returns what --vip-health asks for. A holder that is followed
// whatever its certificate says is not asked to prove anything.
func serviceChecker(o *vipOptions, conflict vip.Conflict, log *slog.Logger) vip.Checker {
	c := &apicheck.Checker{CAFile: o.CAFile, Plain: o.Health == "tcp"}
	switch {
	case o.Health == "none":
		return nil
	case conflict == vip.Healthy:
		c.CAFile = ""
	}
	return checker{c, log}
}

// checker lets the watch check through pkg/apicheck.
type checker struct {
	*apicheck.Checker
	log *slog.Logger
}

// Check implements vip.Checker.
func (c checker) Check(ctx context.Context, e vip.Endpoint) vip.CheckResult {
	server := apicheck.Server{Addr: e.Addr, Name: e.Name, Device: e.Device}
	var same map[neigh.LLAddr]bool
	if len(e.Beside) > 0 {
		server.Connected = func(conn *net.TCPConn) { same = c.same(ctx, conn, &e) }
	}
	r := c.Checker.Check(ctx, server)
	unknown := errors.Is(r.Err, apicheck.ErrCAFile)
	if unknown {
		r.Err = fmt.Errorf("--vip-ca-file: %w", r.Err)
	}
	return vip.CheckResult{
		Unknown: unknown, Served: r.Outcome == apicheck.Served, Unwell: r.Outcome == apicheck.Unwell,
		Verified: r.Verified, Outcome: string(r.Outcome), Err: r.Err, Same: same,
	}
}

// same returns which hosts that answer beside the holder of a VIP are the holder itself,
// by a connection to it; nil if nothing is found out.
func (c checker) same(ctx context.Context, conn *net.TCPConn, e *vip.Endpoint) map[neigh.LLAddr]bool {
	others := make([]net.HardwareAddr, len(e.Beside))
	for i, a := range e.Beside {
		others[i] = a.Bytes()
	}
	found, err := solicit.SameHost(ctx, e.Index, conn, e.Holder.Bytes(), others)
	if err != nil {
		c.log.Debug("comparing those that answer for a VIP", "vip", e.Addr, "err", err)
		return nil
	}
	same := make(map[neigh.LLAddr]bool, len(others))
	for i, a := range e.Beside {
		same[a] = found[i]
	}
	return same
}
