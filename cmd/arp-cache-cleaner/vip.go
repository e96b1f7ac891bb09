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
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/pace"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/vip"
)

// watchVIPs returns the watch over VIPs, and what closes its sockets.
func watchVIPs(o *options, acting bool, timing policy.Timing, pacer *pace.Pacer, m *metrics.Metrics, renewed func(neigh.Key, time.Time), log *slog.Logger) (*vip.Watcher, func(), error) {
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

	events := make([]string, len(vip.Events))
	for i, e := range vip.Events {
		events[i] = e.String()
	}
	labels := metrics.VIPLabels{Events: events, Causes: names(vip.Repairs[:]), Results: names(apicheck.Outcomes[:])}
	if o.VIP.watches() { // else no VIP is expected
		labels.Sources = names(vip.Sources[:])
	}
	v := metrics.NewVIPs(labels)
	var attempts func([]uint16) (vip.Attempts, error)
	if _, ok := sockets.(*kernel.Sockets); ok {
		attempts = func(ports []uint16) (vip.Attempts, error) { return kernel.SubscribeDestroyed(ports...) }
	}
	watcher := vip.New(vip.Config{
		Table:     table,
		Dial:      func(k neigh.Key) (vip.Line, error) { return dialLine(table, k) },
		Sockets:   sockets,
		Subscribe: func() (vip.Changes, error) { return kernel.Subscribe() },
		Attempts:  attempts,
		Checker:   serviceChecker(&o.VIP, conflict),
		Lookup: func(ctx context.Context, name string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", name)
		},
		DeviceName: table.DeviceName,
		Pace:       func(ctx context.Context, device int) error { return pacer.Wait(ctx, device, 1, true) },
		Auto:       o.VIP.Auto,
		Given:      given(&o.VIP),
		Port:       o.VIP.Port,
		Interval:   o.VIP.Interval,
		OnConflict: conflict,
		DryRun:     !acting,
		Scope:      &o.Scope,
		Timing:     timing,
		Log:        log,
		Hooks: vip.Hooks{
			Watching:  v.Watching,
			Forgotten: v.Forgotten,
			Happened:  func(name string, e vip.Event) { v.Happened(name, e.String(), e == vip.Moved) },
			Repaired:  func(name string, c vip.Cause, took time.Duration) { v.Repaired(name, string(c), took) },
			Checked:   v.Checked,
			Answered:  m.Answered,
			Resolved:  renewed,
		},
	})
	m.ObserveVIPs(v, watcher.Status)
	return watcher, func() {
		closeSockets()
		table.Close()
	}, nil
}

// given returns the VIPs that flags name.
func given(o *vipOptions) (all []vip.Given) {
	for _, t := range o.Targets {
		all = append(all, vip.Given{Addr: t.Addr, Name: t.Name, Port: t.Port})
	}
	return all
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
func (c checker) Check(ctx context.Context, e vip.Endpoint) vip.CheckResult {
	r := c.Checker.Check(ctx, apicheck.Server{Addr: e.Addr, Name: e.Name, Device: e.Device})
	unknown := errors.Is(r.Err, apicheck.ErrCAFile)
	if unknown {
		r.Err = fmt.Errorf("--vip-ca-file: %w", r.Err)
	}
	return vip.CheckResult{
		Unknown: unknown, Served: r.Outcome == apicheck.Served, Unwell: r.Outcome == apicheck.Unwell,
		Verified: r.Verified, Certificate: r.Certificate, Outcome: string(r.Outcome), Err: r.Err,
	}
}
