package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v2"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/hack/markdown"
)

const deploy = "../../deploy/"

type alert struct {
	Name        string            `yaml:"alert"`
	Record      string            `yaml:"record"` // instead of a name: what others are made of
	Expr        string            `yaml:"expr"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// alerts are the rules that can fire.
func alerts(t *testing.T) []alert {
	t.Helper()
	return slices.DeleteFunc(rules(t), func(a alert) bool { return a.Record != "" })
}

func rules(t *testing.T) []alert {
	t.Helper()
	var file struct {
		Groups []struct{ Rules []alert }
	}
	if err := yaml.Unmarshal(read(t, deploy+"chart/files/alerts.yaml"), &file); err != nil {
		t.Fatal(err)
	}
	var all []alert
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

type panel struct {
	Title   string
	Targets []struct{ Expr string }
}

func panels(t *testing.T) []panel {
	t.Helper()
	var file struct{ Panels []panel }
	if err := json.Unmarshal(read(t, deploy+"chart/files/dashboard.json"), &file); err != nil {
		t.Fatal(err)
	}
	return file.Panels
}

// Whoever is woken by an alert finds what to do, and the alert is known to fire.
func TestAlertsAreDocumentedAndTested(t *testing.T) {
	runbook := string(read(t, "../../docs/alerts.md"))
	var file struct {
		Tests []struct {
			Rules []struct {
				Name   string          `yaml:"alertname"`
				Alerts []yaml.MapSlice `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	if err := yaml.Unmarshal(read(t, deploy+"alerts_test.yaml"), &file); err != nil {
		t.Fatal(err)
	}
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, test := range file.Tests {
		for _, r := range test.Rules {
			fires[r.Name] = fires[r.Name] || len(r.Alerts) > 0
			silent[r.Name] = silent[r.Name] || len(r.Alerts) == 0
		}
	}
	for _, a := range alerts(t) {
		if !strings.Contains(runbook, "\n## "+a.Name+"\n") {
			t.Errorf("%s: docs/alerts.md has no section", a.Name)
		}
		index := regexp.MustCompile(`\n\| ` + a.Labels["severity"] + ` \|.*\(#` + strings.ToLower(a.Name) + `\)`)
		if !index.MatchString(runbook) {
			t.Errorf("%s: it is not among those of severity %s at the top of docs/alerts.md", a.Name, a.Labels["severity"])
		}
		if want := "/docs/alerts.md#" + strings.ToLower(a.Name); !strings.HasSuffix(a.Annotations["runbook_url"], want) {
			t.Errorf("%s: runbook_url %q does not end in %s", a.Name, a.Annotations["runbook_url"], want)
		}
		if !slices.Contains([]string{"critical", "warning", "info"}, a.Labels["severity"]) || a.Annotations["summary"] == "" {
			t.Errorf("%s: wants a severity and a summary", a.Name)
		}
		if !fires[a.Name] || !silent[a.Name] {
			t.Errorf("%s: deploy/alerts_test.yaml does not show it both firing and silent", a.Name)
		}
	}
}

// A real Prometheus scrapes a real agent: every expression of the dashboard has
// to return series, and every series that an alert looks at has to exist.
func TestExpressionsOnPrometheus(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes ten seconds")
	}
	if _, err := exec.LookPath("prometheus"); err != nil {
		if os.Getenv("ARP_LAB_REQUIRE") != "" {
			t.Fatal(err)
		}
		t.Skip("no prometheus in PATH")
	}
	n := node(t)
	n.IP("route add default via 10.0.0.2")
	n.Touch("10.0.0.2")
	agent := prepare(t, n, "--interval=2s", "--web.listen-address=127.0.0.1:10330", "--health.listen-address=127.0.0.1:10331")
	agent.cmd.Env = append(agent.cmd.Env, "ARP_CACHE_CLEANER_VIP=10.0.0.2", "ARP_CACHE_CLEANER_VIP_HEALTH=none")
	agent.launch(nil)
	t.Cleanup(func() { _, _ = agent.stop() })
	agent.ready()

	// What kubelet would export.
	var kubelet net.Listener
	if err := n.Do(func() (err error) {
		kubelet, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		const labels = `{container="agent",namespace="arp-cache-cleaner",pod="arp-cache-cleaner-x7k2p"}`
		_, _ = fmt.Fprintf(w, "container_cpu_usage_seconds_total%s 1\ncontainer_memory_working_set_bytes%s 1.4e+07\n", labels, labels)
	})}
	go func() { _ = server.Serve(kubelet) }()
	t.Cleanup(func() { _ = server.Close() })

	dir := t.TempDir()
	file, err := filepath.Abs(deploy + "chart/files/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "prometheus.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, `
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%s]
scrape_configs:
  - job_name: arp-cache-cleaner
    static_configs: [{targets: ["127.0.0.1:10330"], labels: {node: node1}}]
  - job_name: kubelet
    static_configs: [{targets: [%q]}]
`, file, kubelet.Addr()), 0o600); err != nil {
		t.Fatal(err)
	}
	var log lockedBuffer
	prometheus := exec.Command("prometheus", "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address=127.0.0.1:9090", "--log.level=warn")
	prometheus.Stderr = &log
	if err := n.Start(prometheus); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = prometheus.Process.Kill()
		_ = prometheus.Wait()
		if t.Failed() {
			t.Logf("prometheus:\n%s", log.String())
		}
	})

	// query returns the labels of each series, and the error that Prometheus has
	// with the expression. Until it serves, there is neither.
	query := func(expr string) (series []map[string]string, problem string) {
		resp, err := client(n).Get("http://127.0.0.1:9090/api/v1/query?query=" + url.QueryEscape(expr))
		if err != nil {
			return nil, ""
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			return nil, err.Error()
		}
		var answer struct {
			Error string
			Data  struct {
				Result []struct{ Metric map[string]string }
			}
		}
		if json.Unmarshal(b, &answer) != nil {
			return nil, "" // "Service Unavailable", while it starts
		}
		for _, r := range answer.Data.Result {
			series = append(series, r.Metric)
		}
		return series, answer.Error
	}
	// Rates need a few scrapes.
	within(t, time.Minute, "Prometheus has scraped the agent", func() bool {
		series, _ := query(`sum_over_time(up{job="arp-cache-cleaner"}[1m]) >= 5`)
		return len(series) > 0
	})
	for _, b := range markdown.Parse(string(read(t, "../../docs/metrics.md"))).Blocks {
		if b.Info != "promql" {
			continue
		}
		if _, problem := query(b.Text); problem != "" {
			t.Errorf("docs/metrics.md:%d: %s", b.Line, problem)
		}
	}
	for _, p := range panels(t) {
		for _, target := range p.Targets {
			expr := strings.NewReplacer("$node", ".*", "$__rate_interval", "10s").Replace(target.Expr)
			series, problem := query(expr)
			switch {
			case problem != "":
				t.Errorf("dashboard, %s: %s\n%s", p.Title, problem, expr)
			case len(series) == 0:
				t.Errorf("dashboard, %s: no series\n%s", p.Title, expr)
			}
		}
	}
	for _, a := range rules(t) {
		a.Name = cmp.Or(a.Name, a.Record)
		if _, problem := query(a.Expr); problem != "" {
			t.Errorf("%s: %s", a.Name, problem)
		}
		for _, s := range selectors(a.Expr) {
			series, _ := query(s.metric)
			switch {
			case strings.HasPrefix(s.metric, "arp_cache_cleaner_table_"): // which only the machine's own namespace shows
				if len(series) > 0 {
					t.Errorf("%s: in another namespace there is %s", a.Name, s.metric)
				}
			case len(series) == 0:
				t.Errorf("%s: there is no %s", a.Name, s.metric)
			default:
				for _, label := range s.labels {
					if !slices.ContainsFunc(series, func(m map[string]string) bool { return m[label] != "" }) {
						t.Errorf("%s: %s has no label %s, but %v", a.Name, s.metric, label, slices.Sorted(maps.Keys(series[0])))
					}
				}
			}
		}
	}
}

// selector is a metric that an expression selects, and the labels it matches by.
type selector struct {
	metric string
	labels []string
}

var (
	selectorPattern = regexp.MustCompile(`\b(up|[\w:]*arp_cache_cleaner_[\w:]+)\b(?:\{([^}]*)\})?`)
	matcherPattern  = regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)`)
)

func selectors(expr string) (all []selector) {
	for _, m := range selectorPattern.FindAllStringSubmatch(expr, -1) {
		if strings.Contains(m[1], ":") {
			continue // recorded, and looked at there
		}
		s := selector{metric: m[1]}
		for _, l := range matcherPattern.FindAllStringSubmatch(m[2], -1) {
			s.labels = append(s.labels, l[1])
		}
		all = append(all, s)
	}
	return all
}
