package status

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/report"
)

var update = flag.Bool("update", false, "rewrite golden files")

// sample is the page of a node in the middle of a failover.
func sample() *Page {
	now := time.Date(2026, 3, 14, 15, 9, 26, 0, time.UTC)
	const s = time.Second
	b := report.NewBuilder(now.Add(-2*s), 1)
	eth0, eth1, pod := &neigh.Link{Index: 2, Name: "eth0", Uplink: true}, &neigh.Link{Index: 3, Name: "eth1", Uplink: true}, &neigh.Link{Index: 9, Name: "cali1"}
	add := func(addr string, link *neigh.Link, ages neigh.Ages, nextHop bool) {
		e := neigh.Entry{Key: neigh.Key{Addr: netip.MustParseAddr(addr), Index: link.Index}, State: neigh.Reachable}
		b.Add(&e, link, policy.Verdict{Action: policy.Verify, Reason: policy.InUse}, &ages, nextHop, nextHop)
	}
	add("10.0.0.1", eth0, neigh.Ages{3 * s, 12 * s, 201 * s, 201 * s}, true)
	add("10.0.0.7", eth0, neigh.Ages{253 * s, 254 * s, 253 * s, 253 * s}, false)
	add("fe80::1", eth0, neigh.Ages{0, 8 * s, 97 * s, 97 * s}, true)
	add("172.16.0.1", eth1, neigh.Ages{31 * s, 31 * s, 66 * s, 66 * s}, true)
	add("192.168.4.2", pod, neigh.Ages{s, 2 * s, 40 * s, 40 * s}, false)
	return &Page{
		Now: now, Node: "worker-3", Version: "v0.1.0", Started: now.Add(-76*time.Hour - 5*time.Minute),
		Acting: true, ActingReason: "vsphere", Interval: 300 * s, Report: b.Finish(),
		VIPs: []*report.VIP{
			{Name: "10.0.0.100", Source: "auto", State: "works", Reason: "tcp_progress", Device: "eth0", LLAddr: "00:50:56:9a:01:02",
				Since: now.Add(-9 * time.Minute), Holders: 1, OnLink: true, Verified: now.Add(-1300 * time.Millisecond)},
			{Name: "10.0.0.101", Source: "name", Given: "api.example", State: "failing", Reason: "server_error", Device: "eth0", LLAddr: "00:50:56:9a:01:07",
				Since: now.Add(-31 * time.Hour), Holders: 2, OnLink: true, Verified: now.Add(-48 * s)},
		},
		Events: []Event{
			{At: now.Add(-44 * s), Subject: "10.0.0.101", What: "failing", Times: 1},
			{At: now.Add(-2 * time.Minute), Subject: "eth0", What: "corrected: an entry has come back with another link-layer address", Times: 3},
			{At: now.Add(-9 * time.Minute), Subject: "10.0.0.100", What: "repaired in 2.1s (stale)", Times: 1},
			{At: now.Add(-9 * time.Minute), Subject: "10.0.0.100", What: "moved", Times: 1},
		},
		Health: []string{"10.0.0.13:10331"},
	}
}

// atStart is the page of an agent that has seen nothing yet, and only observes.
func atStart() *Page {
	now := time.Date(2026, 3, 14, 15, 9, 26, 0, time.UTC)
	return &Page{
		Now: now, Version: "dev", Started: now.Add(-300 * time.Millisecond), ActingReason: "not_vsphere", Interval: time.Minute,
		NotReady: errors.New("the table has not been scanned yet"), Health: []string{":10331"},
	}
}

// held is the page of a control-plane node.
func held() *Page {
	p := sample()
	p.VIPs = []*report.VIP{
		{Name: "10.0.0.100", Source: "auto", State: "held_here", Reason: "own_address", HeldHere: true, Checked: true, Serving: true},
		{Name: "10.0.0.101%vrf1", Source: "address", State: "works", Reason: "holder_answers", Device: "eth1", LLAddr: "00:50:56:9a:01:07",
			Holders: 2, OneHost: true, OnLink: true, Pinned: true},
	}
	p.Events = nil
	return p
}

func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is out of date (go test ./pkg/status -update writes it)\ngot:\n%s\nwant:\n%s", file, got, want)
	}
}

func TestGolden(t *testing.T) {
	for name, p := range map[string]*Page{"sample": sample(), "start": atStart(), "held": held()} {
		var html, text bytes.Buffer
		if err := errors.Join(p.HTML(&html), p.Text(&text)); err != nil {
			t.Fatal(err)
		}
		golden(t, "testdata/"+name+".html", html.Bytes())
		golden(t, "testdata/"+name+".txt", text.Bytes())
		wellFormed(t, html.String())
	}
}

// wellFormed holds HTML to being well-formed XML, which it can be.
func wellFormed(t *testing.T, html string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(html))
	d.Entity = xml.HTMLEntity
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, html)
		}
	}
}

// A device, a DNS name, or an error can be called anything. It shows as it is, as
// text, and does nothing to the reader.
func TestNamesAreHarmless(t *testing.T) {
	const evil = "<script>alert(1)</script>\"'&\x1b[2J\r\n\u202e\x00</style></title>"
	p := sample()
	p.Node, p.Version, p.NotReady, p.ActingReason = evil, evil, errors.New(evil), evil
	for _, v := range p.VIPs {
		v.Name, v.Given, v.Device, v.LLAddr, v.State, v.Reason, v.Source = evil, evil, evil, evil, evil, evil, evil
	}
	p.Health = []string{"javascript:alert(1)", `"onmouseover="alert(1)`, ":<b>"}
	p.Events = []Event{{Subject: evil, What: evil, Times: 1}}
	p.Report.Devices[0].Name, p.Report.Entries[0].Device = evil, evil
	var html, text bytes.Buffer
	if err := errors.Join(p.HTML(&html), p.Text(&text)); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"<script", "<b>", `="javascript`, `"onmouseover`, "\x1b", "\x00"} {
		if strings.Contains(strings.ReplaceAll(html.String(), "\x1b", ""), bad) {
			t.Errorf("HTML has %q:\n%s", bad, html.String())
		}
	}
	if n := strings.Count(html.String(), "</title>"); n != 1 {
		t.Errorf("%d titles", n)
	}
	if i := strings.IndexFunc(text.String(), func(r rune) bool { return r < ' ' && r != '\n' || r == '\u202e' }); i >= 0 {
		t.Errorf("text has %q:\n%s", text.String()[i], text.String())
	}
	if !strings.Contains(text.String(), "<script>alert(1)</script>") {
		t.Error("the name does not show in the text")
	}
}

// The page begins with what somebody should look at.
func TestTroubles(t *testing.T) {
	for want, change := range map[string]func(*Page){
		"":                                 func(*Page) {},
		"Not ready: dump was interrupted.": func(p *Page) { p.NotReady = errors.New("dump was interrupted") },
		"Nothing is renewed: the agent only observes (never).": func(p *Page) { p.Acting, p.ActingReason, p.Report.Overdue = false, "never", 3 },
		"Overdue entries: 3, older than 300s.":                 func(p *Page) { p.Report.Overdue = 3 },
		"VIP 10.0.0.100: suspect (no_answer).":                 func(p *Page) { p.VIPs[0].State, p.VIPs[0].Reason = "suspect", "no_answer" },
		"VIP 10.0.0.100: 2 holders answer.":                    func(p *Page) { p.VIPs[0].Holders = 2 },
		"VIP 10.0.0.100: this node has it, and does not serve.": func(p *Page) {
			*p.VIPs[0] = report.VIP{Name: "10.0.0.100", State: "held_here", HeldHere: true, Checked: true}
		},
		"VIP 10.0.0.100: its entry is PERMANENT or NOARP, and nobody corrects it.": func(p *Page) { p.VIPs[0].Pinned = true },
	} {
		p := sample()
		p.VIPs = p.VIPs[:1]
		change(p)
		if got := strings.Join(p.troubles(), " "); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 1340 * time.Millisecond: "1.3s", 9999 * time.Millisecond: "9.9s", 10 * time.Second: "10s",
		59999 * time.Millisecond: "59s", time.Minute: "1m", 312 * time.Second: "5m 12s", time.Hour + 5*time.Second: "1h",
		76*time.Hour + 5*time.Minute: "3d 4h", 24 * time.Hour: "1d", 400 * 24 * time.Hour: "400d",
	} {
		if got := age(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

func TestLog(t *testing.T) {
	var l Log
	at := time.Unix(1000, 0)
	if got := l.Last(); len(got) != 0 {
		t.Errorf("at first: %v", got)
	}
	for i := range 25 {
		l.Add(at.Add(time.Duration(i)*time.Second), "eth0", fmt.Sprint("event ", i))
	}
	for i := range 1000 {
		l.Add(at.Add(time.Hour+time.Duration(i)*time.Second), "eth0", "corrected")
	}
	got := l.Last()
	if len(got) != maxEvents {
		t.Fatalf("%d events, want %d", len(got), maxEvents)
	}
	if want := (Event{At: at.Add(time.Hour + 999*time.Second), Subject: "eth0", What: "corrected", Times: 1000}); got[0] != want {
		t.Errorf("newest: %+v, want %+v", got[0], want)
	}
	for i, e := range got[1:] {
		if want := fmt.Sprint("event ", 24-i); e.What != want || e.Times != 1 {
			t.Errorf("%d: %+v, want %s, once", i+1, e, want)
		}
	}
	got[0].What = "changed"
	if l.Last()[0].What != "corrected" {
		t.Error("what Last returns is the log's own")
	}
	l.Add(at, "eth1", "corrected")
	if e := l.Last()[0]; e.Subject != "eth1" || e.Times != 1 {
		t.Errorf("another device: %+v", e)
	}
}
