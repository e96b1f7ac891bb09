package metrics

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/report"
)

//go:generate go test -run TestGolden -update .

var update = flag.Bool("update", false, "rewrite testdata/metrics.txt")

var (
	mac, _ = neigh.LLAddrFrom([]byte{2, 0, 0, 0, 0, 9})
	eth0   = neigh.Link{Index: 2, Name: "eth0", LLAddr: mac, Uplink: true}
	pod    = neigh.Link{Index: 7, Name: "cali1234", LLAddr: mac}
)

func key(addr string, index int) neigh.Key {
	return neigh.Key{Addr: netip.MustParseAddr(addr), Index: index}
}

// sample is the report of a scan at the present (fake) time.
func sample() *report.Report {
	b := report.NewBuilder(time.Now(), 1)
	add := func(e neigh.Entry, link *neigh.Link, v policy.Verdict, ages *neigh.Ages, nextHop bool) {
		b.Add(&e, link, v, ages, nextHop, nextHop)
	}
	add(neigh.Entry{Key: key("10.0.0.1", 2), State: neigh.Reachable}, &eth0, policy.Verdict{Action: policy.Verify, Reason: policy.NextHop},
		&neigh.Ages{time.Second, 2 * time.Second, 3 * time.Second, 4 * time.Second}, true)
	add(neigh.Entry{Key: key("10.0.0.9", 2), State: neigh.Stale}, &eth0, policy.Verdict{Action: policy.Delete, Reason: policy.Idle},
		&neigh.Ages{100 * time.Second, 130 * time.Second, 70 * time.Second, 70 * time.Second}, false)
	add(neigh.Entry{Key: key("fe80::9", 2), State: neigh.Permanent}, &eth0, policy.Verdict{Reason: policy.IsPermanent}, nil, false)
	add(neigh.Entry{Key: key("192.168.0.9", 7), State: neigh.Delay}, &pod, policy.Verdict{Action: policy.Verify, Reason: policy.InUse},
		&neigh.Ages{time.Second, time.Second, time.Second, 200 * time.Second}, false)
	return b.Finish()
}

// sampleVIPs is what a watch found at the time of sample: a VIP on link whose
// entry names a holder, one without, one held here, and one behind a gateway.
func sampleVIPs() []*report.VIP {
	then := time.Now().Add(-5 * time.Second)
	return []*report.VIP{
		{Name: "10.0.0.100", Source: "auto", State: "works", Reason: "holder_answers", Device: "eth0", LLAddr: "02:00:00:00:00:01", Holders: 2, OnLink: true, Verified: then},
		{Name: "10.0.0.102", Source: "name", Given: "vip.lab", State: "silent", Reason: "nobody_answers", Device: "eth0", OnLink: true, Verified: then.Add(-time.Minute)},
		{Name: "10.0.0.103", Source: "name", State: "held_here", Reason: "own_address", HeldHere: true, Checked: true, Serving: true},
		{Name: "2001:db8::100%vrf-blue", Source: "auto", State: "not_on_link", Reason: "off_link"},
	}
}

// scrape returns what a scrape of m yields.
func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler(slog.New(slog.DiscardHandler)).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// lived returns the metrics of an agent that has seen and done one of
// everything, five seconds after its last scan.
func lived() *Metrics {
	r := sample()
	m := New(Info{Version: "v1.2.3", Revision: "abc", GoVersion: "go1.26", Interval: 300 * time.Second, Acting: true, ActingReason: "always"})
	m.ObserveSweep(func() *report.Report { return r }, func() bool { return true })
	m.ObserveTables(func() []neigh.TableSize {
		return []neigh.TableSize{{Family: "ipv4", Entries: 300, Thresholds: [3]int{128, 512, 1024}, Full: 7}}
	})
	m.Scanned(time.Now(), 3*time.Millisecond, nil)
	m.Scanned(time.Now(), time.Millisecond, fmt.Errorf("dumping: %w", neigh.ErrInterrupted))
	m.Renewed("eth0", "delete", "ok", 283*time.Second)
	m.Renewed("other", "stale", "failed", 284*time.Second)
	m.Corrected("eth0")
	m.Conflicted("eth0")
	w := NewVIPs(VIPLabels{
		Events: []string{"moved", "silent"}, Causes: []string{"stale"}, Results: []string{"served", "timeout"}, Sources: []string{"auto", "name"},
	})
	m.ObserveVIPs(w, sampleVIPs)
	w.Watching("10.0.0.100")
	w.Happened("10.0.0.100", "moved", true)
	w.Repaired("10.0.0.100", "stale", 900*time.Millisecond)
	w.Checked("10.0.0.100", "served")
	w.Watching("10.0.0.101")
	w.Happened("10.0.0.101", "silent", false)
	w.Forgotten("10.0.0.101")
	time.Sleep(5 * time.Second)
	return m
}

func TestGolden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := lived()
		got := []byte(scrape(t, m))
		const file = "testdata/metrics.txt"
		if *update {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is out of date (make generate writes it); got:\n%s", file, got)
		}
	})
}

// The same checks as `promtool check metrics`.
func TestLint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		problems, err := testutil.GatherAndLint(lived().Gatherer())
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	})
}

func TestAgesGoOnAfterTheScan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := lived()
		const oldest = `arp_cache_cleaner_oldest_entry_age_seconds{clock="used",device="eth0",family="ipv4"} `
		for _, want := range []string{oldest + "105\n", `arp_cache_cleaner_entry_age_seconds{address="10.0.0.1",clock="resolved",device="eth0"} 9` + "\n"} {
			if got := scrape(t, m); !strings.Contains(got, want) {
				t.Errorf("no %q in\n%s", want, got)
			}
		}
		time.Sleep(10 * time.Second)
		if got := scrape(t, m); !strings.Contains(got, oldest+"115\n") {
			t.Errorf("ten seconds later: no age of 115 in\n%s", got)
		}
	})
}

func TestBeforeTheFirstScan(t *testing.T) {
	m := New(Info{ActingReason: "never"})
	m.ObserveSweep(func() *report.Report { return nil }, func() bool { return true })
	got := scrape(t, m)
	for _, want := range []string{
		`arp_cache_cleaner_acting{reason="never"} 0`,
		`arp_cache_cleaner_scans_total 0`,
		`arp_cache_cleaner_scan_failures_total{reason="permission"} 0`,
		`arp_cache_cleaner_last_success_timestamp_seconds 0`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	if strings.Contains(got, "arp_cache_cleaner_entries") {
		t.Error("entries are reported before any scan")
	}
}

// The time since the last success is none of what clocks show: neither a node nor
// Prometheus may have the time right.
func TestLastSuccessAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(Info{})
		age := func(want string) {
			t.Helper()
			if got := scrape(t, m); !strings.Contains(got, "arp_cache_cleaner_last_success_age_seconds "+want+"\n") {
				t.Errorf("want an age of %s in\n%s", want, got)
			}
		}
		time.Sleep(20 * time.Second)
		age("20")
		m.Scanned(time.Now(), time.Millisecond, nil)
		time.Sleep(5 * time.Second)
		age("5")
		m.Scanned(time.Now(), time.Millisecond, neigh.ErrTimeout)
		time.Sleep(time.Second)
		age("6")
	})
}

func TestFailuresAreNamed(t *testing.T) {
	m := New(Info{})
	for _, err := range []error{neigh.ErrPermission, neigh.ErrOverrun, neigh.ErrInterrupted, neigh.ErrTimeout, neigh.ErrMalformed, neigh.ErrNoMemory, errors.New("what else")} {
		m.Scanned(time.Now(), time.Millisecond, fmt.Errorf("wrapped: %w", err))
	}
	got := scrape(t, m)
	for _, reason := range neigh.FailureReasons {
		if want := fmt.Sprintf("arp_cache_cleaner_scan_failures_total{reason=%q} 1\n", reason); !strings.Contains(got, want) {
			t.Errorf("no %s", want)
		}
	}
}
