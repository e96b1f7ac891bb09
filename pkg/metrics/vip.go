package metrics

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/report"
)

// VIPLabels are the values that the labels of VIPs can have. Counters start at 0
// with each of them, so that the first event shows as an increase.
type VIPLabels struct{ Events, Causes, Results, Sources []string }

// VIPs counts what happens to VIPs. Its series go when a VIP is not watched any
// more, so that their number stays bounded.
type VIPs struct {
	labels         VIPLabels
	moves, repairs *prometheus.CounterVec
	events, checks *prometheus.CounterVec
	duration       prometheus.Histogram
}

// NewVIPs returns counters at 0.
func NewVIPs(l VIPLabels) *VIPs {
	return &VIPs{
		labels: l,
		moves: counter("vip_moves_total",
			"Changes of the holder that this node's entry for the VIP names, whether by the kernel or by the agent.", "vip"),
		repairs: counter("vip_repairs_total",
			"Changes of that holder by the agent, by cause (stale: the old holder did not answer any more, and another did; zombie: it answered, but did not serve, and another did; silent: nobody had answered for a while).", "vip", "cause"),
		events: counter("vip_events_total",
			"What happened to the VIP (moved: its entry names another holder; duplicate: several hosts answer for it; silent: nobody does; failing: its holder answers, but no check found it serving; recovered: it works again; held: its entry is kept with one holder against others that announce themselves; contested: it could not be kept; held_here: this node has the address; not_on_link: it is behind a gateway; pinned: its entry is PERMANENT or NOARP).", "vip", "event"),
		checks: counter("vip_checks_total",
			"Checks of the service behind the VIP, on suspicion, and every 30 s on the node that has the VIP, by result (served; unwell: it answers with 5xx; refused; reset; timeout; unreachable; tls: its certificate is not confirmed).", "vip", "result"),
		duration: histogram("vip_repair_duration_seconds",
			[]float64{.1, .25, .5, 1, 1.5, 2, 3, 4, 6, 10, 15, 30, 60, 300},
			"Time in seconds from the first sign of trouble with a VIP to its repair."),
	}
}

// ObserveVIPs adds the metrics of VIPs. status returns what is known of each VIP
// that is watched; it is called at every scrape.
func (m *Metrics) ObserveVIPs(v *VIPs, status func() []*report.VIP) {
	m.registry.MustRegister(v.moves, v.repairs, v.events, v.checks, v.duration, &collector{vipDescs, func(ch chan<- prometheus.Metric) {
		collectVIPs(ch, status(), v.labels.Sources)
	}})
}

// Watching starts the counters of a VIP at 0.
func (v *VIPs) Watching(vip string) {
	v.moves.WithLabelValues(vip)
	for _, c := range v.labels.Causes {
		v.repairs.WithLabelValues(vip, c)
	}
	for _, e := range v.labels.Events {
		v.events.WithLabelValues(vip, e)
	}
	for _, r := range v.labels.Results {
		v.checks.WithLabelValues(vip, r)
	}
}

// Forgotten removes the series of a VIP.
func (v *VIPs) Forgotten(vip string) {
	for _, c := range []*prometheus.CounterVec{v.moves, v.repairs, v.events, v.checks} {
		c.DeletePartialMatch(prometheus.Labels{"vip": vip})
	}
}

// Happened counts an event; moved says that it is a change of the holder.
func (v *VIPs) Happened(vip, event string, moved bool) {
	v.events.WithLabelValues(vip, event).Inc()
	if moved {
		v.moves.WithLabelValues(vip).Inc()
	}
}

// Repaired counts a repair that took the given time.
func (v *VIPs) Repaired(vip, cause string, took time.Duration) {
	v.repairs.WithLabelValues(vip, cause).Inc()
	v.duration.Observe(took.Seconds())
}

// Checked counts a check of the service.
func (v *VIPs) Checked(vip, result string) { v.checks.WithLabelValues(vip, result).Inc() }

var (
	vipsDesc = desc("vips",
		"VIPs that are watched, by how they are known (auto: from this node's own connections; address or name: from --vip).", "source")
	vipStateDesc = desc("vip_state",
		"Always 1; the labels are the agent's verdict on the VIP (state), and why (reason).", "vip", "state", "reason")
	vipServingDesc = desc("vip_serving",
		"On the node that has the VIP: 1 if its own server answered through the VIP when it was last checked, every 30 s, 0 if not.", "vip")
	vipInfoDesc = desc("vip_info",
		"Always 1; the labels say which holder this node's entry for the VIP names, on which device, how the VIP is known (source: auto, from this node's own connections; address or name, from --vip), and by which name.",
		"vip", "device", "lladdr", "source", "name")
	vipHoldersDesc = desc("vip_holders",
		"Link-layer addresses that answered for the VIP when everybody was last asked, about once a minute: 1 is right. one_host is true where they are known to be those of one host, because a connection that was made by one is acknowledged at each. It takes a check of the service to know.", "vip", "one_host")
	vipHereDesc   = desc("vip_held_here", "1 if this node itself has the address, 0 if not.", "vip")
	vipOnLinkDesc = desc("vip_on_link",
		"1 if the VIP is a neighbour of this node, so that it can be watched, 0 if it is held here or behind a gateway.", "vip")
	vipPinnedDesc = desc("vip_pinned",
		"1 if this node's entry for the VIP is PERMANENT or NOARP, so that nobody corrects it, 0 if not.", "vip")
	vipAgeDesc = desc("vip_verified_age_seconds",
		"Time in seconds since the VIP was last known to work on this node: its holder answered, and no connection to it was suspect. It grows while the VIP is silent or does not serve.", "vip")

	vipDescs = []*prometheus.Desc{vipsDesc, vipStateDesc, vipServingDesc, vipInfoDesc, vipHoldersDesc, vipHereDesc, vipOnLinkDesc, vipPinnedDesc, vipAgeDesc}
)

// collectVIPs makes what is known of each VIP.
func collectVIPs(ch chan<- prometheus.Metric, status []*report.VIP, sources []string) {
	for _, source := range sources {
		n := 0
		for _, s := range status {
			if s.Source == source {
				n++
			}
		}
		gauge(ch, vipsDesc, float64(n), source)
	}
	for _, s := range status {
		gauge(ch, vipHereDesc, boolean(s.HeldHere), s.Name)
		gauge(ch, vipOnLinkDesc, boolean(s.OnLink), s.Name)
		gauge(ch, vipStateDesc, 1, s.Name, s.State, s.Reason)
		if s.Checked {
			gauge(ch, vipServingDesc, boolean(s.Serving), s.Name)
		}
		if !s.OnLink {
			continue
		}
		gauge(ch, vipPinnedDesc, boolean(s.Pinned), s.Name)
		gauge(ch, vipHoldersDesc, float64(s.Holders), s.Name, strconv.FormatBool(s.OneHost))
		if s.LLAddr != "" {
			gauge(ch, vipInfoDesc, 1, s.Name, s.Device, s.LLAddr, s.Source, s.Given)
		}
		gauge(ch, vipAgeDesc, max(0, time.Since(s.Verified).Seconds()), s.Name)
	}
}
