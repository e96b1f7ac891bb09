// Command arp-cache-cleaner renews the learned neighbour (ARP and ND) entries
// of the node it runs on, so that none goes unverified for longer than an
// interval.
package main

//go:generate go test -run "TestReadme|TestList" -update .

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/kernel"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/machine"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/metrics"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/pace"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/report"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/server"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/sweep"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/vip"
)

// version and commit are set by the linker in releases.
var version, commit = "dev", ""

func main() {
	machine.OneThread()
	o, err := parse(os.Args[1:], os.LookupEnv, os.Stdout)
	if err == nil && o.Command == "" && !o.Once && !o.Version {
		machine.Slack() // before signals are handled
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, o, err, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// errStopped takes the place of what a signal made fail.
var errStopped = errors.New("stopped by a signal before it was done")

// run does what parse has made of the command line, or says what is wrong with it.
// It returns the exit code: 0, 1 for what went wrong, 2 for bad input.
func run(ctx context.Context, o *options, err error, stdout, stderr io.Writer) int {
	switch {
	case errors.Is(err, errHelp):
		return 0
	case err != nil:
		_, _ = fmt.Fprintln(stderr, "arp-cache-cleaner:", err)
		return 2
	}
	c, _ := find(o.Command) // parse has found it
	do := c.run
	if o.Version {
		do = showVersion
	}
	err = do(ctx, o, stdout, stderr)
	var said interface{ exitCode() int } // a command that has said all there is to say
	switch {
	case err == nil:
		return 0
	case errors.As(err, &said):
		return said.exitCode()
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		err = errStopped
	}
	_, _ = fmt.Fprintln(stderr, "arp-cache-cleaner:", err)
	return 1
}

// agent runs the loop, or one pass of it, with its endpoints.
func agent(ctx context.Context, o *options, stdout, stderr io.Writer) error {
	log := logger(o, stderr)
	warnUnknown(os.Environ(), log)
	vmware, machineIs := machine.VMware(os.DirFS("/sys"))
	acting, reason := decideToAct(o.Act, vmware)
	table, err := kernel.Open()
	if err != nil {
		return err
	}
	defer table.Close()
	if acting {
		if err := table.CheckWrite(); err != nil {
			return explain(err)
		}
	}

	var sweeper *sweep.Sweeper
	var verifier *sweep.Broadcast
	m := metrics.New(metrics.Info{
		Version: version, Revision: revision(), GoVersion: runtime.Version(),
		Interval: o.Interval, ScanPeriod: o.ScanPeriod, Acting: acting, ActingReason: reason,
	}, func() *report.Report { return sweeper.Report() }, func() bool { return verifier.Available() })
	// A table of its own, so that no verification waits for a dump.
	verifying, err := kernel.Open()
	if err != nil {
		return err
	}
	defer verifying.Close()
	asker := newSolicitor(verifying)
	defer asker.Close()
	timing := policy.NewTiming(o.Interval, o.ScanPeriod)
	var pacer pace.Pacer
	verifier = &sweep.Broadcast{
		Table: verifying, Solicitor: asker, Pacer: &pacer, Scope: &o.Scope, Timing: timing, Log: log, Answered: m.Answered,
		Fallback: &sweep.InPlace{Table: verifying, Scope: &o.Scope, Timing: timing},
	}
	var watcher *vip.Watcher
	var claims func() []neigh.Key
	if !o.Once {
		var closeWatch func()
		watcher, closeWatch, err = watchVIPs(o, acting, timing, &pacer, m, func(k neigh.Key, at time.Time) { sweeper.Renewed(k, at) }, log)
		if err != nil {
			return err
		}
		defer closeWatch()
		claims = watcher.Claims
	}
	cfg := sweep.Config{
		Table:      table,
		Verifier:   verifier,
		Scope:      &o.Scope,
		Timing:     timing,
		ScanPeriod: o.ScanPeriod,
		DryRun:     !acting,
		PerEntry:   o.PerEntry,
		Watched:    claims,
		Missed:     machine.NewGaps().Total,
		Pace:       pacer.Set,
		Log:        log,
	}
	if !o.Once { // which nobody scrapes
		cfg.Events = sweep.Events{
			Scanned: func(took time.Duration, err error) {
				m.Scanned(time.Now(), took, err)
			},
			Renewed: func(device string, method sweep.Method, result sweep.Result, age time.Duration) {
				m.Renewed(device, string(method), string(result), age)
			},
			Corrected: m.Corrected,
		}
	}
	sweeper = sweep.New(cfg)
	if o.Once {
		return once(ctx, sweeper, acting, reason, stdout)
	}

	if err := server.CheckConfig(o.WebConfig); err != nil {
		return fmt.Errorf("--web.config.file: %w", err)
	}
	web := server.New("--web.listen-address", o.Web, o.WebConfig, server.Metrics(m.Handler(log)), log)
	health := server.New("--health.listen-address", o.Health, "", // kubelet has no credentials
		server.Health(
			func() error { return sweeper.Live(time.Now()) },
			func() error { return sweeper.Ready(time.Now()) }), log)
	log.Info("starting", "version", version, "interval", o.Interval, "scan_period", o.ScanPeriod,
		"acting", acting, "reason", reason, "machine", machineIs)
	if !acting {
		log.Warn("observing only, nothing is renewed", "act", o.Act, "machine", machineIs)
	}
	if err := machine.Started(); err != nil {
		log.Warn("systemd was not told of the start", "err", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return sweeper.Run(ctx) })
	g.Go(func() error { return watcher.Run(ctx) })
	g.Go(func() error { return web.Run(ctx) })
	g.Go(func() error { return health.Run(ctx) })
	err = finish(ctx, g.Wait, log)
	log.Info("stopped")
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
	case <-after(ctx, exitTimeout):
		log.Warn("stopping while the kernel still owes an answer")
		return nil
	}
}

// after returns a channel that is closed d after ctx is done.
func after(ctx context.Context, d time.Duration) <-chan struct{} {
	c := make(chan struct{})
	context.AfterFunc(ctx, func() { time.AfterFunc(d, func() { close(c) }) })
	return c
}

// once renews everything eligible and prints what came of it.
func once(ctx context.Context, s *sweep.Sweeper, acting bool, reason string, stdout io.Writer) error {
	sum, err := s.Once(ctx)
	if !acting {
		_, _ = fmt.Fprintf(stdout, "dry run (%s), nothing was changed; due would be: %s\n", reason, sum)
	} else {
		_, _ = fmt.Fprintln(stdout, sum)
	}
	return err
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

// howToGrant is what to do about a missing capability.
const howToGrant = "run as root; in Kubernetes with runAsUser: 0 and capabilities.add: [NET_ADMIN, NET_RAW]"

// explain adds to a missing capability how to grant it.
func explain(err error) error {
	if errors.Is(err, neigh.ErrPermission) {
		return fmt.Errorf("%w: CAP_NET_ADMIN is missing: %s; or give --act=never to observe only", err, howToGrant)
	}
	return err
}

func logger(o *options, w io.Writer) *slog.Logger {
	if o.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, &o.Log))
	}
	return slog.New(slog.NewTextHandler(w, &o.Log))
}

// warnUnknown says which variables look like the agent's, and are not.
func warnUnknown(environ []string, log *slog.Logger) {
	for _, v := range unknownVariables(environ) {
		args := []any{"variable", v.name}
		if v.meant != "" {
			args = append(args, "did_you_mean", v.meant)
		}
		log.Warn("an environment variable is ignored: no flag has that name", args...)
	}
}

// showVersion prints what this is.
func showVersion(_ context.Context, _ *options, stdout, _ io.Writer) error {
	_, err := fmt.Fprintln(stdout, "arp-cache-cleaner", version, revision(), runtime.Version())
	return err
}

// revision is the commit the binary was built from, as far as the build knew.
func revision() string {
	if commit != "" {
		return commit
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown"
}
