// Package metrics turns what the agent saw and did into Prometheus metrics. It
// is the only room, beside main, that knows client_golang.
//
// Gauges come from the report of the last scan, so that a scrape costs the same
// whatever the table holds; counters are fed by the sweep's events.
package metrics

import (
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/report"
)

const namespace = "arp_cache_cleaner"

// Info is what does not change while the agent runs.
type Info struct {
	Version, Revision, GoVersion string
	Interval, ScanPeriod         time.Duration
	Acting                       bool
	ActingReason                 string // why it acts, or why not
}

// Metrics holds every metric of the agent on a registry of its own.
type Metrics struct {
	registry    *prometheus.Registry
	last        func() *report.Report
	success     atomic.Pointer[time.Time] // of the last scan that succeeded; until then, the start
	renewals    *prometheus.CounterVec
	renewalAge  prometheus.Histogram
	corrections *prometheus.CounterVec
	scans       prometheus.Counter
	scanTime    prometheus.Histogram
	failures    *prometheus.CounterVec
	lastSuccess prometheus.Gauge
	roundTrip   prometheus.Histogram
	conflicts   *prometheus.CounterVec

	mu      sync.Mutex
	devices map[string]struct{}
}

// New returns the metrics that depend on no part of the agent. Each part adds its
// own, by ObserveSweep and ObserveVIPs, before it runs.
func New(info Info) *Metrics {
	m := &Metrics{
		registry: prometheus.NewPedanticRegistry(),
		last:     func() *report.Report { return nil },
		devices:  make(map[string]struct{}),
		renewals: counter("renewals_total",
			"Attempts to renew an entry, by device, method (delete: removed while idle; broadcast: asked for by broadcast, every answer heard; stale: set to NUD_STALE and used, so that the kernel verifies it by unicast, or TCP confirms it; probe: set to NUD_PROBE, so that the kernel verifies it at once) and result (ok; unanswered: nobody answered three broadcasts, left to the kernel; undecided: others than the holder that the entry names answered them, and not one alone each time, left to the kernel; gone: vanished before it was reached; changed: called for another verdict when read again; failed: refused by the kernel).", "device", "method", "result"),
		renewalAge: histogram("renewal_age_seconds",
			[]float64{1, 10, 60, 120, 180, 240, 270, 285, 300, 315, 360, 600, 3600},
			"Age in seconds at which entries were renewed: the greatest of the used, updated and resolved clocks."),
		corrections: counter("corrections_total",
			"Entries that came back from a renewal with another link-layer address than before: neighbours that had moved without this node noticing.", "device"),
		scans: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: namespace, Name: "scans_total",
			Help: "Scans of the neighbour table, failed ones included.",
		}),
		scanTime: histogram("scan_duration_seconds",
			[]float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5},
			"Time in seconds a scan took: reading the table and deciding, without the renewals."),
		failures: counter("scan_failures_total",
			"Scans that failed, or whose renewals did, by reason (permission: CAP_NET_ADMIN is missing; overrun: the kernel dropped messages; interrupted: the table kept changing under the dump; timeout: the kernel did not answer; malformed: a message did not parse; memory: the kernel had none; other).", "reason"),
		lastSuccess: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: namespace, Name: "last_success_timestamp_seconds",
			Help: "Unix time in seconds of the last scan that succeeded, 0 before the first.",
		}),
		roundTrip: histogram("solicitation_round_trip_seconds",
			[]float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5},
			"Time in seconds from a solicitation to each of its answers."),
		conflicts: counter("own_address_conflicts_total",
			"Times that another host answered for an address of this node that was to be announced (--announce=start), and so was not: at the start, and once a minute as long as it does.", "device"),
	}
	start := time.Now()
	m.success.Store(&start)
	since := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: namespace, Name: "last_success_age_seconds",
		Help: "Time in seconds since the last scan that succeeded, or since the start before the first. Unlike last_success_timestamp_seconds, it does not depend on what time this node or Prometheus takes it to be.",
	}, func() float64 { return time.Since(*m.success.Load()).Seconds() })
	for _, reason := range neigh.FailureReasons {
		m.failures.WithLabelValues(reason)
	}
	m.registry.MustRegister(m.renewals, m.renewalAge, m.corrections, m.scans, m.scanTime, m.failures, m.lastSuccess,
		m.roundTrip, m.conflicts, since)
	m.registry.MustRegister(constants(&info)...)
	return m
}

// constants returns what does not change while the agent runs.
func constants(info *Info) []prometheus.Collector {
	constant := func(value float64, o prometheus.GaugeOpts) prometheus.Collector {
		o.Namespace = namespace
		g := prometheus.NewGauge(o)
		g.Set(value)
		return g
	}
	return []prometheus.Collector{
		constant(boolean(info.Acting), prometheus.GaugeOpts{
			Name:        "acting",
			Help:        "1 if the agent renews entries, 0 if it only observes. The reason is how --act came to that: always; vsphere: this is a VMware virtual machine; not_vsphere: it is none; never.",
			ConstLabels: prometheus.Labels{"reason": info.ActingReason},
		}),
		constant(info.Interval.Seconds(), prometheus.GaugeOpts{
			Name: "interval_seconds",
			Help: "The bound in seconds (--interval) that no age of a learned entry is to exceed.",
		}),
		constant(info.ScanPeriod.Seconds(), prometheus.GaugeOpts{
			Name: "scan_period_seconds",
			Help: "Time in seconds between two scans (--scan-period); twice that while nothing is about to be verified.",
		}),
		constant(1, prometheus.GaugeOpts{
			Name:        "build_info",
			Help:        "Always 1; the labels say which build of the agent this is.",
			ConstLabels: prometheus.Labels{"version": info.Version, "revision": info.Revision, "goversion": info.GoVersion},
		}),
	}
}

// ObserveSweep adds what the sweep sees. last returns the report of its last scan,
// nil before the first, and broadcast whether it can ask by broadcast. Both are
// called at every scrape.
func (m *Metrics) ObserveSweep(last func() *report.Report, broadcast func() bool) {
	m.last = last
	available := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: namespace, Name: "broadcast_available",
		Help: "1 if entries on uplinks are verified by broadcast, 0 if CAP_NET_RAW is missing and only the kernel's unicast verifies them.",
	}, func() float64 { return boolean(broadcast()) })
	m.registry.MustRegister(available, &collector{tableDescs, func(ch chan<- prometheus.Metric) {
		if r := last(); r != nil {
			collectTable(ch, r)
		}
	}})
}

// counter returns counters at 0, one for each combination of labels.
func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
}

// histogram has the given classic buckets, and native ones for servers that
// take them.
func histogram(name string, buckets []float64, help string) prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: namespace, Name: name, Help: help, Buckets: buckets,
		NativeHistogramBucketFactor:    1.1,
		NativeHistogramMaxBucketNumber: 100,
	})
}

// boolean is how a metric says yes or no.
func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Gatherer returns the registry, for tests and documentation.
func (m *Metrics) Gatherer() prometheus.Gatherer { return m.registry }

// Handler serves the metrics. A collector that fails leaves its metrics out; it
// does not break the scrape. They are not compressed: a gzip.Writer takes 0.8 MB,
// as much as the clocks of 10,000 entries, to save a few kilobytes.
func (m *Metrics) Handler(log *slog.Logger) http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: 8,
		Timeout:             10 * time.Second,
		DisableCompression:  true,
	})
}

// Scanned counts a scan that took the given time and ended with err.
func (m *Metrics) Scanned(at time.Time, took time.Duration, err error) {
	m.scans.Inc()
	if r := m.last(); r != nil {
		for i := range r.Devices {
			m.seen(r.Devices[i].Name)
		}
	}
	m.scanTime.Observe(took.Seconds())
	if err != nil {
		m.failures.WithLabelValues(neigh.FailureReason(err)).Inc()
		return
	}
	m.success.Store(&at)
	m.lastSuccess.Set(float64(at.UnixMilli()) / 1000)
}

// Renewed counts an attempt to renew an entry of the given age.
func (m *Metrics) Renewed(device, method, result string, age time.Duration) {
	device = m.device(device)
	m.renewals.WithLabelValues(device, method, result).Inc()
	if result == "ok" {
		m.renewalAge.Observe(age.Seconds())
	}
}

// Answered counts an answer to a solicitation.
func (m *Metrics) Answered(rtt time.Duration) { m.roundTrip.Observe(rtt.Seconds()) }

// Corrected counts an entry whose link-layer address a renewal changed.
func (m *Metrics) Corrected(device string) { m.corrections.WithLabelValues(m.device(device)).Inc() }

// Conflicted counts that another host answered for an address of this node.
func (m *Metrics) Conflicted(device string) { m.conflicts.WithLabelValues(m.device(device)).Inc() }

// maxDevices bounds the devices that counters name over the agent's life.
const maxDevices = 64

// device returns the label for a device: its name, or report.Other once there
// have been too many.
func (m *Metrics) device(name string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.devices[name]; !ok {
		if len(m.devices) >= maxDevices {
			return report.Other
		}
		m.devices[name] = struct{}{}
	}
	return name
}

// seen starts the counters that alerts are built on at 0, so that the first
// event on a device shows as an increase.
func (m *Metrics) seen(device string) {
	device = m.device(device)
	m.corrections.WithLabelValues(device)
	m.renewals.WithLabelValues(device, "delete", "failed")
	if device != report.Other { // nobody is asked there by broadcast
		m.renewals.WithLabelValues(device, "broadcast", "failed")
		m.renewals.WithLabelValues(device, "broadcast", "unanswered")
		m.conflicts.WithLabelValues(device)
	}
}

// collector makes its metrics at each scrape.
type collector struct {
	descs   []*prometheus.Desc
	collect func(ch chan<- prometheus.Metric)
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) { c.collect(ch) }

// gauge makes a gauge.
func gauge(ch chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil)
}

var (
	entriesDesc = desc("entries",
		"Entries in the neighbour table at the last scan, by uplink (all other devices are \"other\"), family and NUD state. Combinations without entries are left out.",
		"device", "family", "state")
	oldestDesc = desc("oldest_entry_age_seconds",
		"Greatest age in seconds of any learned entry, by clock: used, confirmed and updated are the kernel's, as `ip -statistics neighbour` shows them (confirmed starts at 2 x base_reachable_time, 60 by default, for an entry that was never confirmed); resolved is the agent's own, since it last renewed the entry.",
		"device", "family", "clock")
	entryDesc = desc("entry_age_seconds",
		"Age in seconds of single entries by clock, as in oldest_entry_age_seconds: of the next hops of routes (32 at most, default gateways first), and of as many others as --metrics-per-entry allows.",
		"device", "address", "clock")
	contestedDesc = desc("contested_entries",
		"Entries for which more than one link-layer address answered when they were last asked for by broadcast. The entry keeps the one it had as long as that answers.",
		"device")
	deviceDesc = desc("device_info",
		"Always 1; the label says which link-layer address an uplink has. The node that has a VIP is the one whose device_info has the lladdr of vip_info.",
		"device", "lladdr")
	nextHopsDesc = desc("next_hops",
		"Entries of route next hops at the last scan, by device and NUD state; unlike their ages, those that are incomplete as well.",
		"device", "state")
	overdueDesc = desc("overdue_entries",
		"Learned entries with one of the kernel's three ages above the interval at the last scan: 0, but for a start (a few seconds, and a tenth of one for each entry in use) and for an agent that is not acting.")
	keptDesc = desc("kept_entries",
		"Entries that the agent leaves alone at the last scan, by the reason why.",
		"reason")

	tableDescs = []*prometheus.Desc{entriesDesc, oldestDesc, entryDesc, contestedDesc, deviceDesc, nextHopsDesc, overdueDesc, keptDesc}
)

// collectTable makes what the last report says of the neighbour table.
func collectTable(ch chan<- prometheus.Metric, r *report.Report) {
	// Entries go on ageing after the scan.
	since := max(0, time.Since(r.At))
	ages := func(d *prometheus.Desc, a *neigh.Ages, labels ...string) {
		for _, c := range neigh.Clocks {
			gauge(ch, d, (a[c] + since).Seconds(), append(labels, c.String())...)
		}
	}
	for i := range r.Devices {
		d := &r.Devices[i]
		gauge(ch, contestedDesc, float64(d.Contested), d.Name)
		if d.LLAddr != "" {
			gauge(ch, deviceDesc, 1, d.Name, d.LLAddr)
		}
		for k, n := range d.NextHops {
			if n > 0 {
				gauge(ch, nextHopsDesc, float64(n), d.Name, report.StateName(k))
			}
		}
		for j, family := range report.FamilyNames {
			f := &d.Families[j]
			for k, n := range f.States {
				if n > 0 {
					gauge(ch, entriesDesc, float64(n), d.Name, family, report.StateName(k))
				}
			}
			if f.Learned > 0 {
				ages(oldestDesc, &f.Oldest, d.Name, family)
			}
		}
	}
	gauge(ch, overdueDesc, float64(r.Overdue))
	for i := range r.Entries {
		e := &r.Entries[i]
		ages(entryDesc, &e.Ages, e.Device, e.Addr.String())
	}
	for reason, n := range r.Kept {
		if reason := policy.Reason(reason); reason.Keeps() {
			gauge(ch, keptDesc, float64(n), reason.String())
		}
	}
}
