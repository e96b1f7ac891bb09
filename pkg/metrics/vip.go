package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/report"
)

// VIPs is what the metrics need to know of the watch over VIPs.
type VIPs struct {
	// Status returns what is known of each VIP that is watched. It is called at
	// every scrape.
	Status func() []*report.VIP
	// The values that labels can have. Counters start at 0 with each of them, so
	// that the first event shows as an increase.
	Events, Causes, Results []string
}

// VIPMetrics counts what happens to VIPs. Its series go when a VIP is not watched
// any more, so that their number stays bounded.
type VIPMetrics struct {
	labels         VIPs
	moves, repairs *prometheus.CounterVec
	events, checks *prometheus.CounterVec
	duration       prometheus.Histogram
}

// WatchVIPs adds the metrics of VIPs.
func (m *Metrics) WatchVIPs(v VIPs) *VIPMetrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
	}
	w := &VIPMetrics{
		labels: v,
		moves: counter("vip_moves_total",
			"Changes of the holder that this node's entry for the VIP names, by whomever they were made.", "vip"),
		repairs: counter("vip_repairs_total",
			"Changes of that holder by the agent, by cause (stale: the old holder did not answer any more, and another did; zombie: it answered, but did not serve, and another did; silent: nobody had answered for a while).", "vip", "cause"),
		events: counter("vip_events_total",
			"What happened to the VIP (moved: its entry names another holder; duplicate: several hosts answer for it; silent: nobody does; failing: its holder answers, but no check found it serving; recovered: it works again; held: its entry is kept with one holder against others that announce themselves; contested: it could not be kept; held_here: this node has the address; not_on_link: it is behind a gateway; pinned: its entry is somebody else's, PERMANENT for example).", "vip", "event"),
		checks: counter("vip_checks_total",
			"Checks of the service behind the VIP, which are only made on suspicion, by result (served; refused; reset; timeout; unreachable; tls: its certificate is not confirmed).", "vip", "result"),
		duration: histogram("vip_repair_duration_seconds",
			[]float64{.1, .25, .5, 1, 1.5, 2, 3, 4, 6, 10, 15, 30, 60, 300},
			"Time in seconds from the first sign of trouble with a VIP to its repair."),
	}
	m.registry.MustRegister(w.moves, w.repairs, w.events, w.checks, w.duration, &vips{v.Status})
	return w
}

// Watching starts the counters of a VIP at 0.
func (w *VIPMetrics) Watching(vip string) {
	w.moves.WithLabelValues(vip)
	for _, c := range w.labels.Causes {
		w.repairs.WithLabelValues(vip, c)
	}
	for _, e := range w.labels.Events {
		w.events.WithLabelValues(vip, e)
	}
	for _, r := range w.labels.Results {
		w.checks.WithLabelValues(vip, r)
	}
}

// Forgotten removes the series of a VIP.
func (w *VIPMetrics) Forgotten(vip string) {
	for _, c := range []*prometheus.CounterVec{w.moves, w.repairs, w.events, w.checks} {
		c.DeletePartialMatch(prometheus.Labels{"vip": vip})
	}
}

// Happened counts an event; moved says that it is a change of the holder.
func (w *VIPMetrics) Happened(vip, event string, moved bool) {
	w.events.WithLabelValues(vip, event).Inc()
	if moved {
		w.moves.WithLabelValues(vip).Inc()
	}
}

// Repaired counts a repair that took the given time.
func (w *VIPMetrics) Repaired(vip, cause string, took time.Duration) {
	w.repairs.WithLabelValues(vip, cause).Inc()
	w.duration.Observe(took.Seconds())
}

// Checked counts a check of the service.
func (w *VIPMetrics) Checked(vip, result string) { w.checks.WithLabelValues(vip, result).Inc() }

// vips collects what is known of each VIP.
type vips struct{ status func() []*report.VIP }

var (
	vipInfoDesc = desc("vip_info",
		"Always 1; the labels say which holder this node's entry for the VIP names, on which device, and how the VIP is known (source: auto, from this node's own connections; address or name, from --vip).",
		"vip", "device", "lladdr", "source")
	vipHoldersDesc = desc("vip_holders",
		"Hosts that answered for the VIP when everybody was last asked, about once a minute: 1 is right.", "vip")
	vipHereDesc   = desc("vip_held_here", "1 if this node itself has the address, 0 if not.", "vip")
	vipOnLinkDesc = desc("vip_on_link",
		"1 if the VIP is a neighbour of this node, so that it can be watched, 0 if it is held here or behind a gateway.", "vip")
	vipPinnedDesc = desc("vip_pinned",
		"1 if this node's entry for the VIP is somebody else's, PERMANENT for example, so that the agent cannot correct it, 0 if not.", "vip")
	vipAgeDesc = desc("vip_verified_age_seconds",
		"Time in seconds since the VIP was last known to work on this node: its holder answered, and no connection to it was suspect. It grows while the VIP is silent or does not serve.", "vip")
)

// Describe implements prometheus.Collector.
func (c *vips) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{vipInfoDesc, vipHoldersDesc, vipHereDesc, vipOnLinkDesc, vipPinnedDesc, vipAgeDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *vips) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, s := range c.status() {
		vip := s.Addr.String()
		gauge(vipHereDesc, boolean(s.HeldHere), vip)
		gauge(vipOnLinkDesc, boolean(s.OnLink), vip)
		if !s.OnLink {
			continue
		}
		gauge(vipPinnedDesc, boolean(s.Pinned), vip)
		gauge(vipHoldersDesc, float64(s.Holders), vip)
		if s.LLAddr != "" {
			gauge(vipInfoDesc, 1, vip, s.Device, s.LLAddr, s.Source)
		}
		gauge(vipAgeDesc, max(0, time.Since(s.Verified).Seconds()), vip)
	}
}
