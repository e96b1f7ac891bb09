package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"sync/atomic"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/node_exporter/collector"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/kernel"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/machine"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/metrics"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/sweep"
)

// serve is the process of one subject.
func serve(name string) error {
	work := map[string]func() (func() (time.Duration, int, error), error){
		"renew": renewWorker, "paced": pacedWorker, "scan": scanWorker, "scrape": scrapeWorker,
		"neighdel": neighDelWorker, "neighlist": neighListWorker, "nodeexporter": nodeExporterWorker,
	}[name]
	if work == nil {
		return fmt.Errorf("no worker %q", name)
	}
	do, err := work()
	if err != nil {
		return err
	}
	for s := bufio.NewScanner(os.Stdin); s.Scan(); {
		took, n, err := do()
		if err != nil {
			return err
		}
		fmt.Println(took.Nanoseconds(), n)
	}
	return nil
}

// cpuTime is what the process has used, in all its threads and in the kernel.
func cpuTime() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t)
	return time.Duration(t.Nano())
}

// likeMain does what the agent's main does.
func likeMain() {
	machine.Slack()
	machine.Runtime()
}

// agent is the agent's loop, on a table that lets it scan when it is told to.
type agent struct {
	*kernel.Table
	sweeper *sweep.Sweeper
	metrics *metrics.Metrics

	gate    chan struct{} // lets one dump pass
	scanned chan error
	due     atomic.Bool // entries show ages at which they are due
	renewed atomic.Int64
}

// The loop scans at its default period, and waits that long for the next line.
const scanPeriod = 20 * time.Second

func startAgent() (*agent, error) {
	likeMain()
	a := &agent{gate: make(chan struct{}), scanned: make(chan error)}
	var err error
	if a.Table, err = kernel.Open(); err != nil {
		return nil, err
	}
	a.metrics = metrics.New(metrics.Info{})
	scope, timing := &policy.Scope{}, policy.NewTiming(24*time.Hour, scanPeriod)
	a.sweeper = sweep.New(sweep.Config{
		Table:      a,
		Verifier:   &sweep.InPlace{Table: a, Scope: scope, Timing: timing},
		Scope:      scope,
		Timing:     timing,
		ScanPeriod: time.Millisecond, // it is the gate that it waits for
		Log:        slog.New(slog.DiscardHandler),
		Events: sweep.Events{
			Scanned: func(took time.Duration, err error) {
				a.metrics.Scanned(time.Now(), took, err)
				a.scanned <- err
			},
			Renewed: func(device string, m sweep.Method, r sweep.Result, age time.Duration) {
				a.renewed.Add(1)
				a.metrics.Renewed(device, m.String(), string(r), age)
			},
			Corrected: a.metrics.Corrected,
		},
	})
	a.metrics.ObserveSweep(a.sweeper.Report, func() bool { return true })
	go func() { _ = a.sweeper.Run(context.Background()) }()
	return a, nil
}

// DumpParts implements sweep.Table.
func (a *agent) DumpParts(visit func(*neigh.Entry), part func(time.Time)) error {
	<-a.gate
	if !a.due.Load() {
		return a.Table.DumpParts(visit, part)
	}
	return a.Table.DumpParts(func(e *neigh.Entry) {
		e.Used, e.Updated = 25*time.Hour, 25*time.Hour
		visit(e)
	}, part)
}

// scan lets the loop scan once.
func (a *agent) scan() error {
	a.gate <- struct{}{}
	return <-a.scanned
}

// entries counts what the last scan saw.
func (a *agent) entries() (n int) {
	for _, d := range a.sweeper.Report().Devices {
		for _, f := range d.Families {
			for _, count := range f.States {
				n += count
			}
		}
	}
	return n
}

// renewWorker renews everything in one pass that does not wait.
func renewWorker() (func() (time.Duration, int, error), error) {
	likeMain()
	t, err := kernel.Open()
	if err != nil {
		return nil, err
	}
	scope, timing := &policy.Scope{}, policy.NewTiming(24*time.Hour, scanPeriod)
	s := sweep.New(sweep.Config{
		Table: t, Verifier: &sweep.InPlace{Table: t, Scope: scope, Timing: timing}, Scope: scope, Timing: timing,
		ScanPeriod: scanPeriod, Log: slog.New(slog.DiscardHandler),
	})
	return func() (time.Duration, int, error) {
		before := cpuTime()
		sum, err := s.Once(context.Background())
		return cpuTime() - before, sum.Deleted, err
	}, nil
}

// pacedWorker renews everything by the loop, in as many scans as it takes.
func pacedWorker() (func() (time.Duration, int, error), error) {
	a, err := startAgent()
	if err != nil {
		return nil, err
	}
	return func() (time.Duration, int, error) {
		a.due.Store(false)
		if err := a.scan(); err != nil { // steady state: the clocks know the entries
			return 0, 0, err
		}
		n := a.entries()
		a.due.Store(true)
		a.renewed.Store(0)
		before := cpuTime()
		for int(a.renewed.Load()) < n-100 {
			if err := a.scan(); err != nil {
				return 0, 0, err
			}
		}
		return cpuTime() - before, int(a.renewed.Load()), nil
	}, nil
}

// scanWorker scans a table in which nothing is due.
func scanWorker() (func() (time.Duration, int, error), error) {
	a, err := startAgent()
	if err != nil {
		return nil, err
	}
	return func() (time.Duration, int, error) {
		if err := a.scan(); err != nil {
			return 0, 0, err
		}
		before := cpuTime()
		err := a.scan()
		return cpuTime() - before, a.entries(), err
	}, nil
}

// scrapeWorker serves /metrics. The scan before it is not counted.
func scrapeWorker() (func() (time.Duration, int, error), error) {
	a, err := startAgent()
	if err != nil {
		return nil, err
	}
	handler := a.metrics.Handler(slog.New(slog.DiscardHandler))
	return func() (time.Duration, int, error) {
		if err := a.scan(); err != nil {
			return 0, 0, err
		}
		took, err := get(handler)
		return took, a.entries(), err
	}, nil
}

// get is one scrape without the network.
func get(h http.Handler) (time.Duration, error) {
	r, w := httptest.NewRequest(http.MethodGet, "/metrics", nil), httptest.NewRecorder()
	before := cpuTime()
	h.ServeHTTP(w, r)
	took := cpuTime() - before
	if w.Code != http.StatusOK {
		return 0, errors.New(w.Body.String())
	}
	_, err := io.Copy(io.Discard, w.Body)
	return took, err
}

// neighDelWorker is what a first version in Go would be.
func neighDelWorker() (func() (time.Duration, int, error), error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	return func() (time.Duration, int, error) {
		before := cpuTime()
		list, err := h.NeighList(0, netlink.FAMILY_ALL)
		if err != nil {
			return 0, 0, err
		}
		n := 0
		for i := range list {
			if list[i].State&(netlink.NUD_STALE|netlink.NUD_FAILED) == 0 {
				continue
			}
			if err := h.NeighDel(&list[i]); err != nil {
				return 0, 0, err
			}
			n++
		}
		return cpuTime() - before, n, nil
	}, err
}

func neighListWorker() (func() (time.Duration, int, error), error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	return func() (time.Duration, int, error) {
		before := cpuTime()
		list, err := h.NeighList(0, netlink.FAMILY_ALL)
		return cpuTime() - before, len(list), err
	}, err
}

// nodeExporter lets a collector of node_exporter be scraped.
type nodeExporter struct{ collector.Collector }

func (nodeExporter) Describe(chan<- *prometheus.Desc) {}

func (n nodeExporter) Collect(ch chan<- prometheus.Metric) {
	if err := n.Update(ch); err != nil {
		ch <- prometheus.NewInvalidMetric(prometheus.NewDesc("node_arp_error", "", nil, nil), err)
	}
}

func nodeExporterWorker() (func() (time.Duration, int, error), error) {
	if _, err := kingpin.CommandLine.Parse(nil); err != nil { // the defaults of its flags
		return nil, err
	}
	c, err := collector.NewARPCollector(slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(nodeExporter{c})
	handler := promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	list, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	return func() (time.Duration, int, error) {
		took, err := get(handler)
		if err != nil {
			return 0, 0, err
		}
		entries, err := list.NeighList(0, netlink.FAMILY_ALL)
		return took, len(entries), err
	}, err
}
