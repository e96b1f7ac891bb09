// Package status shows what the agent knows and has done to people, as a page of
// HTML and as plain text. It is pure: a Page goes in, and text comes out.
//
// It shows no more about other hosts than /metrics does.
package status

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/report"
)

// Page is what the page shows, as of Now.
type Page struct {
	Now     time.Time
	Node    string // "" where it is not known
	Version string
	Started time.Time
	// Acting: the agent renews entries. ActingReason is how --act came to that, or
	// did not.
	Acting       bool
	ActingReason string
	Interval     time.Duration
	NotReady     error          // why the agent is not ready; nil: it is
	Report       *report.Report // of the last scan; nil before the first
	VIPs         []*report.VIP
	Events       []Event  // newest first
	Health       []string // --health.listen-address
}

// section is a part of the page: a table with or without a head.
type section struct {
	Title string
	Head  []string
	Rows  [][]cell
	None  string // what to say where there are no rows
}

// cell is one field of a table.
type cell struct {
	Text string
	Link string // where it leads to; "" for nowhere
	Bad  bool   // somebody should look at it
}

// fact is a row of a table without a head: a name and what is said of it.
func fact(name string, c cell) []cell { return []cell{{Text: name}, c} }

func plain(format string, args ...any) cell { return cell{Text: fmt.Sprintf(format, args...)} }

// title names the page.
func (p *Page) title() string {
	if p.Node == "" {
		return "arp-cache-cleaner"
	}
	return "arp-cache-cleaner on " + p.Node
}

// troubles are the sentences that the page begins with.
func (p *Page) troubles() (all []string) {
	if p.NotReady != nil {
		all = append(all, "Not ready: "+p.NotReady.Error()+".")
	}
	if !p.Acting {
		all = append(all, "Nothing is renewed: the agent only observes ("+p.ActingReason+").")
	}
	for _, v := range p.VIPs {
		switch {
		case trouble(v):
			all = append(all, fmt.Sprintf("VIP %s: %s (%s).", v.Name, v.State, v.Reason))
		case v.Holders > 1 && !v.OneHost:
			all = append(all, fmt.Sprintf("VIP %s: %d holders answer.", v.Name, v.Holders))
		case v.Checked && !v.Serving:
			all = append(all, fmt.Sprintf("VIP %s: this node has it, and does not serve.", v.Name))
		}
		if v.Pinned {
			all = append(all, fmt.Sprintf("VIP %s: its entry is PERMANENT or NOARP, and nobody corrects it.", v.Name))
		}
	}
	if p.Acting && p.Report != nil && p.Report.Overdue > 0 {
		all = append(all, fmt.Sprintf("Overdue entries: %d, older than %s.", p.Report.Overdue, seconds(p.Interval)))
	}
	return all
}

// trouble reports whether a VIP does not work, as far as is known.
func trouble(v *report.VIP) bool {
	return v.State == "suspect" || v.State == "silent" || v.State == "failing"
}

// sections are what the page consists of.
func (p *Page) sections() []section {
	all := []section{p.agent()}
	for _, v := range p.VIPs {
		all = append(all, p.vip(v))
	}
	if len(p.VIPs) == 0 {
		all = append(all, section{Title: "VIPs", None: "None is watched."})
	}
	return append(all, p.ages(), p.hops(), p.events(), p.links())
}

func (p *Page) agent() section {
	acting := plain("yes (%s)", p.ActingReason)
	if !p.Acting {
		acting = cell{Text: fmt.Sprintf("no (%s)", p.ActingReason), Bad: true}
	}
	ready := plain("yes")
	if p.NotReady != nil {
		ready = cell{Text: "no: " + p.NotReady.Error(), Bad: true}
	}
	rows := [][]cell{
		fact("version", plain("%s", p.Version)),
		fact("running for", plain("%s, since %s", age(p.Now.Sub(p.Started)), moment(p.Started))),
		fact("ready", ready),
		fact("acting", acting),
		fact("interval", plain("%s", seconds(p.Interval))),
	}
	if p.Report != nil {
		rows = append(rows,
			fact("last scan", plain("%s ago", age(p.Now.Sub(p.Report.At)))),
			fact("overdue entries", cell{Text: strconv.Itoa(p.Report.Overdue), Bad: p.Report.Overdue > 0 && p.Acting}))
	}
	return section{Title: "Agent", Rows: rows}
}

func (p *Page) vip(v *report.VIP) section {
	rows := [][]cell{fact("state", cell{Text: fmt.Sprintf("%s (%s)", v.State, v.Reason), Bad: trouble(v)})}
	add := func(name string, c cell) { rows = append(rows, fact(name, c)) }
	if v.LLAddr != "" {
		add("holder", plain("%s on %s", v.LLAddr, v.Device))
		if !v.Since.IsZero() {
			add("holder since", plain("%s, for %s", moment(v.Since), age(p.Now.Sub(v.Since))))
		}
	}
	if v.OnLink {
		verified := plain("not yet")
		if !v.Verified.IsZero() {
			verified = plain("%s ago", age(p.Now.Sub(v.Verified)))
		}
		verified.Bad = trouble(v)
		add("verified", verified)
		holders := cell{Text: strconv.Itoa(v.Holders), Bad: v.Holders > 1 && !v.OneHost}
		if v.Holders > 1 && v.OneHost {
			holders.Text += " of one host"
		}
		add("holders that answer", holders)
	}
	if v.Pinned {
		add("entry", cell{Text: "PERMANENT or NOARP", Bad: true})
	}
	if v.Checked {
		serving := plain("yes")
		if !v.Serving {
			serving = cell{Text: "no", Bad: true}
		}
		add("serving", serving)
	}
	known := map[string]string{"auto": "from this node's connections", "address": "by --vip", "name": "by --vip, as " + v.Given}
	add("known", plain("%s", cmp.Or(known[v.Source], v.Source)))
	return section{Title: "VIP " + v.Name, Rows: rows}
}

// ages compares the oldest entries with the bound.
func (p *Page) ages() section {
	s := section{
		Title: "Oldest learned entries, with a bound of " + seconds(p.Interval), None: "There are no learned entries.",
		Head: []string{"device", "family", "entries"},
	}
	for _, c := range neigh.Clocks {
		s.Head = append(s.Head, c.String())
	}
	r := p.Report
	if r == nil {
		s.None = "The table has not been scanned yet."
		return s
	}
	for i := range r.Devices {
		d := &r.Devices[i]
		for j, family := range report.FamilyNames {
			f := &d.Families[j]
			if f.Learned == 0 {
				continue
			}
			row := []cell{{Text: d.Name}, {Text: family}, plain("%d", f.Learned)}
			s.Rows = append(s.Rows, append(row, p.clocks(&f.Oldest)...))
		}
	}
	return s
}

// clocks are the ages of a scan, which have gone on since.
func (p *Page) clocks(ages *neigh.Ages) []cell {
	since := max(0, p.Now.Sub(p.Report.At))
	cells := make([]cell, 0, len(ages))
	for _, a := range ages {
		cells = append(cells, plain("%s", seconds((a+since).Truncate(time.Second))))
	}
	return cells
}

// hops shows the next hops of routes.
func (p *Page) hops() section {
	s := section{Title: "Next hops", None: "There is no entry for any.", Head: []string{"device", "address"}}
	for _, c := range neigh.Clocks {
		s.Head = append(s.Head, c.String())
	}
	if p.Report == nil {
		return s
	}
	for i := range p.Report.Entries {
		e := &p.Report.Entries[i]
		if e.NextHop {
			s.Rows = append(s.Rows, append([]cell{{Text: e.Device}, {Text: e.Addr.String()}}, p.clocks(&e.Ages)...))
		}
	}
	return s
}

func (p *Page) events() section {
	s := section{Title: "Last events", None: "None since the start.", Head: []string{"time", "of", "what"}}
	for _, e := range p.Events {
		what := e.What
		if e.Times > 1 {
			what += fmt.Sprintf(" (%d times)", e.Times)
		}
		s.Rows = append(s.Rows, []cell{{Text: moment(e.At)}, {Text: e.Subject}, {Text: what}})
	}
	return s
}

// docs is where the documentation is.
const docs = "https://github.com/arp-cache-cleaner/arp-cache-cleaner#readme"

func (p *Page) links() section {
	rows := [][]cell{fact("metrics", cell{Text: "/metrics", Link: "metrics"})}
	for _, a := range p.Health {
		c := plain("/readyz on %s", a)
		if !strings.HasPrefix(a, ":") { // else the node's address is not known
			c.Link = "http://" + a + "/readyz"
		}
		rows = append(rows, fact("health", c))
	}
	return section{Title: "More", Rows: append(rows, fact("documentation", cell{Text: docs, Link: docs}))}
}

// age is a duration in its two greatest units: 3d 4h, 5m 12s. Below ten seconds it
// has tenths.
func age(d time.Duration) string {
	d = max(0, d)
	if d < 10*time.Second {
		return strconv.FormatFloat(d.Truncate(100*time.Millisecond).Seconds(), 'f', -1, 64) + "s"
	}
	var parts []string
	for i, unit := range []time.Duration{24 * time.Hour, time.Hour, time.Minute, time.Second} {
		n := d / unit
		d %= unit
		switch {
		case n > 0:
			parts = append(parts, fmt.Sprintf("%d%c", n, "dhms"[i]))
		case len(parts) > 0:
			parts = append(parts, "")
		}
	}
	return strings.TrimSpace(strings.Join(parts[:min(2, len(parts))], " "))
}

// seconds is how ip and --interval show a duration.
func seconds(d time.Duration) string {
	return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + "s"
}

// moment is a time to the second, in UTC.
func moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }
