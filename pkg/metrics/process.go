package metrics

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// ObserveProcess adds process_* and go_*, under the names that every exporter uses.
// Go's statistics of its memory are left out: there are many, and writing them costs
// more than everything else here.
func (m *Metrics) ObserveProcess() {
	start := time.Now()
	m.registry.MustRegister(
		collectors.NewGoCollector(collectors.WithGoCollectorMemStatsMetricsDisabled()),
		&collector{
			[]*prometheus.Desc{processCPUDesc, processMemoryDesc, processFilesDesc, processStartDesc},
			func(ch chan<- prometheus.Metric) { collectProcess(ch, start) },
		})
}

var (
	processCPUDesc = prometheus.NewDesc("process_cpu_seconds_total",
		"Time in seconds that this process has used of CPUs, in user and in kernel mode.", nil, nil)
	processMemoryDesc = prometheus.NewDesc("process_resident_memory_bytes",
		"Memory in bytes that this process has in use.", nil, nil)
	processFilesDesc = prometheus.NewDesc("process_open_fds",
		"Files and sockets that this process has open.", nil, nil)
	processStartDesc = prometheus.NewDesc("process_start_time_seconds",
		"Unix time in seconds at which this process was started.", nil, nil)
)

// collectProcess makes what this process uses. What cannot be read is left out. The
// collector of client_golang costs as much as the whole rest of a scrape: it parses
// the statistics of the node's network as well.
func collectProcess(ch chan<- prometheus.Metric, start time.Time) {
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) == nil {
		used := time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
		ch <- prometheus.MustNewConstMetric(processCPUDesc, prometheus.CounterValue, used.Seconds())
	}
	var size, resident int
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		if _, err := fmt.Sscan(string(b), &size, &resident); err == nil {
			gauge(ch, processMemoryDesc, float64(resident*os.Getpagesize()))
		}
	}
	if files, err := os.ReadDir("/proc/self/fd"); err == nil {
		gauge(ch, processFilesDesc, float64(len(files)-1)) // without the one that was open to read them
	}
	gauge(ch, processStartDesc, float64(start.UnixMilli())/1000)
}
