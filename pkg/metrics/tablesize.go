package metrics

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// ObserveTables adds how full the kernel's tables are. read returns that of each
// family whose table can be seen; it is called at every scrape.
func (m *Metrics) ObserveTables(read func() []neigh.TableSize) {
	m.registry.MustRegister(&collector{[]*prometheus.Desc{tableEntriesDesc, tableLimitDesc, tableFullDesc}, func(ch chan<- prometheus.Metric) {
		for _, s := range read() {
			gauge(ch, tableEntriesDesc, float64(s.Entries), s.Family)
			ch <- prometheus.MustNewConstMetric(tableFullDesc, prometheus.CounterValue, float64(s.Full), s.Family)
			for i, n := range s.Thresholds {
				gauge(ch, tableLimitDesc, float64(n), s.Family, "gc_thresh"+strconv.Itoa(i+1))
			}
		}
	}})
}

var (
	tableEntriesDesc = desc("table_entries",
		"Entries in the kernel's table, of all network namespaces of the machine together, those of pods included. Left out, like table_limit_entries and table_full_total, where the agent is in a network namespace of its own.",
		"family")
	tableLimitDesc = desc("table_limit_entries",
		"The limits on table_entries (net.ipv4.neigh.default.gc_thresh1 to 3, and net.ipv6). From gc_thresh2 on the kernel removes entries that nobody uses whenever it makes one; at gc_thresh3 it makes none if that does not help.",
		"family", "limit")
	tableFullDesc = desc("table_full_total",
		"How often the kernel has made no entry because the table was full, since the machine was started.",
		"family")
)
