package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/apicheck"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/kernel"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/metrics"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/report"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/vip"
)

// watchVIPs returns the watch over VIPs, and what closes its sockets.
func watchVIPs(o *options, acting bool, timing policy.Timing, asker solicitor, m *metrics.Metrics, renewed func(neigh.Key, time.Time), log *slog.Logger) (*vip.Watcher, func(), error) {
	conflict := vip.Conflict(o.VIP.OnConflict)
	if o.VIP.CAFile != "" && o.VIP.Health == "https" {
		switch err := apicheck.CheckCAFile(o.VIP.CAFile); {
		case errors.Is(err, fs.ErrNotExist): // a ConfigMap that Kubernetes has yet to fill
			log.Warn("--vip-ca-file does not exist: until it does, no VIP can be checked", "file", o.VIP.CAFile)
		case err != nil:
			return nil, nil, fmt.Errorf("--vip-ca-file: %w", err)
		}
	} else if conflict == vip.Verified {
		log.Info("--vip-on-conflict=verified needs --vip-health=https and --vip-ca-file: another holder of a VIP is reported, and not followed")
		conflict = vip.Report
	}
	// A table of its own, so that no repair waits for the sweep.
	table, err := kernel.Open()
	if err != nil {
		return nil, nil, err
	}
	sockets, closeSockets, err := openSockets(&o.VIP, log)
	if err != nil {
		table.Close()
		return nil, nil, err
	}

	var watcher *vip.Watcher
	events := make([]string, len(vip.Events))
	for i, e := range vip.Events {
		events[i] = e.String()
	}
	v := m.WatchVIPs(metrics.VIPs{
		Status: func() []*report.VIP { return watcher.Status() },
		Events: events, Causes: names(vip.Repairs[:]), Results: names(apicheck.Outcomes[:]),
	})
	watcher = vip.New(vip.Config{
		Table:     table,
		Solicitor: asker,
		Sockets:   sockets,
		Subscribe: func() (vip.Changes, error) { return kernel.Subscribe() },
		Checker:   serviceChecker(&o.VIP, conflict),
		Lookup: func(ctx context.Context, name string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", name)
		},
		Auto:       o.VIP.Auto,
		Addrs:      o.VIP.Addrs,
		Names:      o.VIP.Names,
		Port:       o.VIP.Port,
		Interval:   o.VIP.Interval,
		OnConflict: conflict,
		DryRun:     !acting,
		Scope:      &o.Scope,
		Timing:     timing,
		Log:        log,
		Hooks: vip.Hooks{
			Watching:  func(a netip.Addr) { v.Watching(a.String()) },
			Forgotten: func(a netip.Addr) { v.Forgotten(a.String()) },
			Happened:  func(a netip.Addr, e vip.Event) { v.Happened(a.String(), e.String(), e == vip.Moved) },
			Repaired:  func(a netip.Addr, c vip.Cause, took time.Duration) { v.Repaired(a.String(), string(c), took) },
			Checked:   func(a netip.Addr, result string) { v.Checked(a.String(), result) },
			Answered:  m.Answered,
			Resolved:  renewed,
		},
	})
	return watcher, func() {
		closeSockets()
		table.Close()
	}, nil
}

// openSockets returns the connections of this host, and what closes them: none
// where no VIP is watched, or where the kernel cannot list them. That is said, and
// is no reason to renew nothing.
func openSockets(o *vipOptions, log *slog.Logger) (vip.Sockets, func(), error) {
	if !o.watches() {
		return noSockets{}, func() {}, nil
	}
	s, err := kernel.OpenSockets()
	switch {
	case errors.Is(err, neigh.ErrUnsupported), errors.Is(err, neigh.ErrPermission):
		log.Warn("TCP connections cannot be listed: --vip=auto finds no VIP, and those that --vip names are watched by ARP and ND alone", "err", err)
		return noSockets{}, func() {}, nil
	case err != nil:
		return nil, nil, err
	}
	return s, s.Close, nil
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
func serviceChecker(o *vipOptions, conflict vip.Conflict) vip.Checker {
	c := &apicheck.Checker{CAFile: o.CAFile, Plain: o.Health == "tcp"}
	switch {
	case o.Health == "none":
		return nil
	case conflict == vip.Healthy:
		c.CAFile = ""
	}
	return checker{c}
}

// checker lets the watch check through pkg/apicheck.
type checker struct{ *apicheck.Checker }

// Check implements vip.Checker.
func (c checker) Check(ctx context.Context, addr netip.AddrPort, name string) vip.Verdict {
	r := c.Checker.Check(ctx, addr, name)
	unknown := errors.Is(r.Err, apicheck.ErrCAFile)
	if unknown {
		r.Err = fmt.Errorf("--vip-ca-file: %w", r.Err)
	}
	return vip.Verdict{
		Unknown: unknown,
		Served:  r.Outcome == apicheck.Served, Verified: r.Verified, Result: string(r.Outcome), Err: r.Err,
	}
}
