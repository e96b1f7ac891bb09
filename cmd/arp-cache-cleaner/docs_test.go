package main

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/metrics"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/report"
)

// The tables of docs/ are written from the code: `make generate`.
func TestDocs(t *testing.T) {
	for _, doc := range []struct {
		file     string
		sections map[string]string
	}{
		{"flags.md", map[string]string{"flags": flagTable(), "commands": commandTable(), "command flags": commandFlagTable(), "list": listTable(t)}},
		{"metrics.md", map[string]string{"metrics": metricTable(t)}},
	} {
		file := "../../docs/" + doc.file
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for section, content := range doc.sections {
			begin, end := fmt.Appendf(nil, "<!-- %s: generated -->\n", section), fmt.Appendf(nil, "<!-- /%s -->", section)
			head, rest, found := bytes.Cut(text, begin)
			_, tail, closed := bytes.Cut(rest, end)
			if !found || !closed {
				t.Fatalf("%s has no section %q", file, section)
			}
			text = slices.Concat(head, begin, []byte(content), end, tail)
		}
		golden(t, file, text)
	}
}

func listTable(t *testing.T) string {
	t.Helper()
	b := bytes.NewBufferString("```\n$ arp-cache-cleaner list\n")
	if err := printRows(b, sampleRows(t), 0); err != nil {
		t.Fatal(err)
	}
	return b.String() + "```\n"
}

// metricTable gathers the metrics of an agent that has seen and done one of
// everything.
func metricTable(t *testing.T) string {
	t.Helper()
	e := neigh.Entry{Key: neigh.Key{Addr: netip.MustParseAddr("10.0.0.1"), Index: 2}, State: neigh.Reachable}
	b := report.NewBuilder(time.Now(), 0)
	mac, _ := neigh.LLAddrFrom([]byte{2, 0, 0, 0, 0, 1})
	b.Add(&e, &neigh.Link{Index: 2, Name: "eth0", LLAddr: mac, Uplink: true}, policy.Verdict{Action: policy.Keep, Reason: policy.Resolving}, &neigh.Ages{}, true, true)
	last := b.Finish()
	m := metrics.New(metrics.Info{})
	m.ObserveSweep(func() *report.Report { return last }, func() bool { return true })
	m.ObserveTables(func() []neigh.TableSize { return []neigh.TableSize{{Family: "ipv4"}} })
	m.Scanned(time.Now(), time.Millisecond, nil)
	m.Renewed("eth0", "delete", "ok", time.Second)
	status := &report.VIP{Name: "10.0.0.100", LLAddr: "02:00:00:00:00:01", OnLink: true, Checked: true}
	v := metrics.NewVIPs(metrics.VIPLabels{Events: []string{"moved"}, Causes: []string{"stale"}, Results: []string{"served"}, Sources: []string{"auto"}})
	m.ObserveVIPs(v, func() []*report.VIP { return []*report.VIP{status} })
	v.Watching("10.0.0.100")
	return metricRows(t, m.Gatherer())
}

func metricRows(t *testing.T, g prometheus.Gatherer) string {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("| metric | type | labels | meaning |\n|---|---|---|---|\n")
	for _, f := range families {
		labels := map[string]bool{}
		for _, metric := range f.GetMetric() {
			for _, l := range metric.GetLabel() {
				labels[l.GetName()] = true
			}
		}
		names := strings.Join(slices.Sorted(maps.Keys(labels)), ", ")
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", strings.TrimPrefix(f.GetName(), "arp_cache_cleaner_"),
			strings.ToLower(f.GetType().String()), cmp.Or(names, "–"), f.GetHelp())
	}
	return b.String()
}
