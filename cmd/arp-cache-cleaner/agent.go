package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/kernel"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/machine"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/metrics"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/pace"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/server"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/status"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/sweep"
)

// agent runs the parts of the agent until ctx is done, or the sweep alone once.
func agent(ctx context.Context, o *options, stdout, stderr io.Writer) error {
	log := logger(o, stderr)
	warnUnknown(os.Environ(), log)
	a := newAssembly(o, log)
	defer a.close()
	if o.Once {
		return a.once(ctx, stdout)
	}
	parts, err := a.parts()
	if err != nil {
		return err
	}
	a.sayStarting()
	g, ctx := errgroup.WithContext(ctx)
	for _, p := range parts {
		g.Go(func() error { return p.Run(ctx) })
	}
	err = finish(ctx, g.Wait, log)
	log.Info("stopped")
	return err
}

// part is what the agent does all the time.
type part interface {
	// Run works until ctx is done, or there is nothing more to do, and returns nil then.
	Run(ctx context.Context) error
}

// assembly builds the parts of the agent, each on those that are there already, and
// closes what they have opened.
type assembly struct {
	o       *options
	log     *slog.Logger
	role    role
	timing  policy.Timing
	pacer   *pace.Pacer
	metrics *metrics.Metrics
	history *status.Log
	opened  []func()
}

// role says whether the agent renews entries, why or why not, and what it knows of
// the machine.
type role struct {
	acting          bool
	reason, machine string
}

func newAssembly(o *options, log *slog.Logger) *assembly {
	vmware, machineIs := machine.VMware(os.DirFS("/sys"))
	acting, reason := decideToAct(o.Act, vmware)
	return &assembly{
		o: o, log: log,
		role:   role{acting, reason, machineIs},
		timing: policy.NewTiming(o.Interval, o.ScanPeriod),
		pacer:  &pace.Pacer{}, history: &status.Log{},
		metrics: metrics.New(metrics.Info{
			Version: version, Revision: revision(), GoVersion: runtime.Version(),
			Interval: o.Interval, ScanPeriod: o.ScanPeriod, Acting: acting, ActingReason: reason,
		}),
	}
}

// close closes what was opened, in reverse order.
func (a *assembly) close() {
	for _, c := range slices.Backward(a.opened) {
		c()
	}
}

// closes makes close call c.
func (a *assembly) closes(c func()) { a.opened = append(a.opened, c) }

// table opens the kernel's table. A part that must not wait for another's dump opens
// its own.
func (a *assembly) table() (*kernel.Table, error) {
	t, err := kernel.Open()
	if err == nil {
		a.closes(t.Close)
	}
	return t, err
}

// parts returns the parts of an agent that keeps running.
func (a *assembly) parts() ([]part, error) {
	verifier, err := a.verifier()
	if err != nil {
		return nil, err
	}
	sweeper, err := a.sweeper(verifier, a.events())
	if err != nil {
		return nil, err
	}
	a.metrics.ObserveSweep(sweeper.Report, verifier.Available)
	a.metrics.ObserveProcess()
	a.metrics.ObserveTables(a.tableSizes)
	watcher, err := a.watcher(sweeper.Renewed)
	if err != nil {
		return nil, err
	}
	sweeper.LeaveTo(watcher.Claims)
	web, err := a.web(a.pages(sweeper, watcher))
	if err != nil {
		return nil, err
	}
	parts := []part{sweeper, watcher, web, a.health(sweeper)}
	if a.o.Announce && a.role.acting {
		announcer, err := a.announcer()
		if err != nil {
			return nil, err
		}
		parts = append(parts, announcer)
	}
	return parts, nil
}

// verifier returns what verifies entries in place.
func (a *assembly) verifier() (*sweep.Broadcast, error) {
	table, err := a.table()
	if err != nil {
		return nil, err
	}
	asker := newSolicitor(table)
	a.closes(asker.Close)
	return &sweep.Broadcast{
		Table: table, Solicitor: asker, Pacer: a.pacer, Scope: &a.o.Scope, Timing: a.timing, Log: a.log, Answered: a.metrics.Answered,
		Fallback: &sweep.InPlace{Table: table, Scope: &a.o.Scope, Timing: a.timing},
	}, nil
}

// sweeper returns the loop over the table.
func (a *assembly) sweeper(verifier sweep.Verifier, events sweep.Events) (*sweep.Sweeper, error) {
	table, err := a.table()
	if err != nil {
		return nil, err
	}
	if a.role.acting {
		if err := table.CheckWrite(); err != nil {
			return nil, explain(err)
		}
	}
	warnUnmatched(&a.o.Scope, table, a.log)
	return sweep.New(sweep.Config{
		Table:      table,
		Verifier:   verifier,
		Scope:      &a.o.Scope,
		Timing:     a.timing,
		ScanPeriod: a.o.ScanPeriod,
		DryRun:     !a.role.acting,
		PerEntry:   a.o.PerEntry,
		Missed:     machine.NewGaps().Total,
		Pace:       a.pacer.Set,
		Events:     events,
		Log:        a.log,
	}), nil
}

// events has what the sweep does counted, and corrections shown on the status page.
func (a *assembly) events() sweep.Events {
	m := a.metrics
	return sweep.Events{
		Scanned: func(took time.Duration, err error) {
			m.Scanned(time.Now(), took, err)
		},
		Renewed: func(device string, method sweep.Method, result sweep.Result, age time.Duration) {
			m.Renewed(device, method.String(), string(result), age)
		},
		Corrected: func(device string) {
			m.Corrected(device)
			a.history.Add(time.Now(), device, "corrected: an entry has come back with another link-layer address")
		},
	}
}

// tableSizes returns how full the kernel's tables are, as far as that can be read.
func (a *assembly) tableSizes() []neigh.TableSize {
	sizes, err := kernel.TableSizes(os.DirFS("/proc"))
	if err != nil {
		a.log.Debug("reading how full the tables are", "err", err)
	}
	return sizes
}

// web returns the endpoint of the metrics and the status page.
func (a *assembly) web(page func() server.Page) (*server.Server, error) {
	if err := server.CheckConfig(a.o.WebConfig); err != nil {
		return nil, badInput{fmt.Errorf("--web.config.file: %w", err)}
	}
	return server.New("--web.listen-address", a.o.Web, a.o.WebConfig, server.Web(a.metrics.Handler(a.log), page), a.log), nil
}

// health returns the endpoint that kubelet asks, which has no credentials.
func (a *assembly) health(s *sweep.Sweeper) *server.Server {
	return server.New("--health.listen-address", a.o.Health, "", server.Health(
		func() error { return s.Live(time.Now()) },
		func() error { return s.Ready(time.Now()) }), a.log)
}

// sayStarting says, in the log and to systemd, that the agent starts.
func (a *assembly) sayStarting() {
	a.log.Info("starting", "version", version, "interval", a.o.Interval, "scan_period", a.o.ScanPeriod,
		"acting", a.role.acting, "reason", a.role.reason, "machine", a.role.machine)
	if !a.role.acting {
		a.log.Warn("observing only, nothing is renewed", "act", a.o.Act, "machine", a.role.machine)
	}
	if err := machine.Started(); err != nil {
		a.log.Warn("systemd was not told of the start", "err", err)
	}
}

// once renews everything eligible and prints what came of it. Nobody scrapes that.
func (a *assembly) once(ctx context.Context, stdout io.Writer) error {
	verifier, err := a.verifier()
	if err != nil {
		return err
	}
	sweeper, err := a.sweeper(verifier, sweep.Events{})
	if err != nil {
		return err
	}
	sum, err := sweeper.Once(ctx)
	if !a.role.acting {
		_, _ = fmt.Fprintf(stdout, "dry run (%s), nothing was changed; due would be: %s\n", a.role.reason, sum)
	} else {
		_, _ = fmt.Fprintln(stdout, sum)
	}
	return err
}

// exitTimeout is how long the parts have to stop, half of the second that the whole
// may take: closing packet sockets takes some time as well. A netlink call cannot be
// interrupted while another process holds the kernel's lock.
const exitTimeout = 500 * time.Millisecond

// finish waits for the parts to end, but not for longer than exitTimeout once ctx
// is done.
func finish(ctx context.Context, wait func() error, log *slog.Logger) error {
	done := make(chan error, 1)
	go func() { done <- wait() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-done:
		return err
	case <-time.After(exitTimeout):
		log.Warn("stopping while the kernel still owes an answer")
		return nil
	}
}

// decideToAct says whether the agent renews entries, and why.
func decideToAct(act string, vmware bool) (bool, string) {
	switch {
	case act != "vsphere":
		return act == "always", act
	case vmware:
		return true, "vsphere"
	}
	return false, "not_vsphere"
}
