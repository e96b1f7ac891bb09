package main

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/hack/markdown"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/apicheck"
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
		{"README.md", map[string]string{"list": listTable(t, "eth0"), "probe": probeTable(t)}},
		{"docs/configuration.md", map[string]string{"flags": flagTable()}},
		{"docs/cli.md", map[string]string{"commands": commandTable(), "command flags": commandFlagTable(), "list": listTable(t, ""), "probe": probeTable(t), "check": checkLines(), "status": statusText(t), "reasons": reasonTable(t)}},
		{"docs/metrics.md", map[string]string{"metrics": metricTable(t)}},
	} {
		file := "../../" + doc.file
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text := string(b)
		for section, content := range doc.sections {
			if text, err = markdown.Splice(text, section, content); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
		}
		golden(t, file, []byte(text))
	}
}

// listTable shows the rows of one device for IPv4, or all.
func listTable(t *testing.T, device string) string {
	t.Helper()
	command, rows := "arp-cache-cleaner list", sampleRows(t)
	if device != "" {
		command += " --family=ipv4 --interface=" + device
		rows = slices.DeleteFunc(rows, func(r row) bool { return r.Device != device || strings.Contains(r.Address, ":") })
	}
	b := bytes.NewBufferString("```\n$ " + command + "\n")
	if err := printRows(b, rows, 0); err != nil {
		t.Fatal(err)
	}
	return b.String() + "```\n"
}

// probeTable shows an address that two hosts hold.
func probeTable(t *testing.T) string {
	t.Helper()
	r := &result{Address: "10.0.0.100", Device: "eth0", Source: "10.0.0.12", Asked: 3, Holders: []holder{
		{LLAddr: "00:50:56:00:00:01", Answers: 3, Min: 0.000213, Max: 0.000397, Current: true},
		{LLAddr: "00:50:56:00:00:0b", Answers: 3, Min: 0.000305, Max: 0.000611},
	}}
	b := bytes.NewBufferString("```\n$ sudo arp-cache-cleaner probe " + r.Address + "\n")
	if err := printHolders(b, r); err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(b.String(), "  \n", "\n") + "```\n"
}

// checkLines shows a server that serves, one with a certificate for another name, and one
// that is of another cluster.
func checkLines() string {
	var b strings.Builder
	b.WriteString("```\n")
	unknown := x509.UnknownAuthorityError{}
	for i, r := range []apicheck.Result{
		{Outcome: apicheck.Served, Status: http.StatusOK, Verified: true, Took: 6100 * time.Microsecond},
		{Outcome: apicheck.Served, Status: http.StatusOK, Took: 5800 * time.Microsecond, Unproven: errors.New("x509: certificate is valid for 10.0.0.2, not 10.0.0.101")},
		{Outcome: apicheck.TLS, Took: 4300 * time.Microsecond, Err: fmt.Errorf("certificate of 10.0.0.102:6443: %w", unknown)},
	} {
		o := &options{Check: checkOptions{Server: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(100 + i)}), 6443)}}
		fmt.Fprintf(&b, "$ arp-cache-cleaner check %s\n%s\n", o.Check.Server.Addr(), checkLine(o, &r))
	}
	return b.String() + "```\n"
}

// statusText shows some sections of the status page: those of the agent, of a VIP in
// trouble, and of the events.
func statusText(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../pkg/status/testdata/sample.txt")
	if err != nil {
		t.Fatal(err)
	}
	sections := strings.Split(string(b), "\n\n")
	shown := []string{sections[0]}
	for _, s := range sections[1:] {
		for _, title := range []string{"Agent\n", "VIP 10.0.0.101\n", "Last events\n"} {
			if strings.HasPrefix(s, title) {
				shown = append(shown, s)
			}
		}
	}
	if len(shown) != 4 {
		t.Fatalf("%d of 4 sections:\n%s", len(shown), b)
	}
	return "```\n$ arp-cache-cleaner status\n" + strings.Join(shown, "\n\n") + "\n```\n"
}

// reasonsInWords says what each reason means to those who read `list` and kept_entries.
var reasonsInWords = map[policy.Reason]string{
	policy.OtherFamily:   "`--family` excludes it",
	policy.UnknownDevice: "its device came or went a moment ago",
	policy.Loopback:      "on a loopback device",
	policy.NoARPDevice:   "on a device without ARP",
	policy.PointToPoint:  "on a point-to-point device",
	policy.OtherDevice:   "`--interface` or `--exclude-interface` excludes it",
	policy.OtherCIDR:     "`--cidr` or `--exclude-cidr` excludes it",
	policy.IsPermanent:   "`PERMANENT`: somebody pinned it",
	policy.IsNoARP:       "`NOARP`: multicast, broadcast and the like",
	policy.IsNone:        "`NONE`: not an entry yet",
	policy.OtherState:    "a state that this version does not know",
	policy.IsProxy:       "proxy entry: this node answers for another host",
	policy.ExtLearned:    "`extern_learn`: a control plane such as BGP EVPN or Cilium owns it",
	policy.Offloaded:     "`offload`: hardware has a copy",
	policy.Sticky:        "`sticky`: must not move",
	policy.OtherFlag:     "a flag that this version does not know",
	policy.Managed:       "`managed`: the kernel keeps it resolved for its owner",
	policy.OtherExtFlag:  "an extended flag that this version does not know",
	policy.OtherProtocol: "`proto`: a routing daemon or the like owns it",
	policy.Resolving:     "`INCOMPLETE`: the kernel is asking, and packets wait for the answer",
	policy.Probing:       "behind a bridge that answers for others, and the kernel is asking",
	policy.Watched:       "a VIP: its watch renews it",
	policy.Unanswered:    "`PROBE`: the neighbour does not answer",
	policy.Idle:          "`STALE`, and no next hop: not in use",
	policy.HasFailed:     "`FAILED`: names no neighbour",
	policy.InUse:         "`REACHABLE` or `DELAY`: in use",
	policy.NextHop:       "a route leads through it",
	policy.Suppressed:    "behind a bridge that answers for others",
}

// reasonTable has every reason of list.
func reasonTable(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("| reason | what it says of the entry |\n|---|---|\n")
	for i := 1; i < policy.NumReasons; i++ {
		r := policy.Reason(i)
		if reasonsInWords[r] == "" {
			t.Errorf("docs/cli.md: nothing says what the reason %s means", r)
		}
		fmt.Fprintf(&b, "| `%s` | %s |\n", r, reasonsInWords[r])
	}
	return b.String()
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

// The help of a metric, which is its documentation, names every value that its labels
// can have.
func TestHelpNamesEveryLabelValue(t *testing.T) {
	m, labels := metrics.New(metrics.Info{}), vipLabels(&vipOptions{Auto: true})
	v := metrics.NewVIPs(labels)
	m.ObserveVIPs(v, func() []*report.VIP { return nil })
	v.Watching("10.0.0.100")
	families, err := m.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	help := map[string]string{}
	for _, f := range families {
		help[f.GetName()] = f.GetHelp()
	}
	for name, values := range map[string][]string{
		"vip_events_total": labels.Events, "vip_repairs_total": labels.Causes, "vip_checks_total": labels.Results,
	} {
		text := help["arp_cache_cleaner_"+name]
		for _, value := range values {
			if !regexp.MustCompile(`\b` + value + `[:;)]`).MatchString(text) {
				t.Errorf("the help of %s does not explain %q: %s", name, value, text)
			}
		}
	}
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
