package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/kernel"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
)

// row is one entry as list shows it. The field names are the JSON output's.
type row struct {
	Address   string  `json:"address"`
	Device    string  `json:"device"`
	LLAddr    string  `json:"lladdr,omitempty"`
	State     string  `json:"state"`
	Used      float64 `json:"used_seconds"`
	Confirmed float64 `json:"confirmed_seconds"`
	Updated   float64 `json:"updated_seconds"`
	Uplink    bool    `json:"uplink"`
	NextHop   bool    `json:"next_hop"`
	Verdict   string  `json:"verdict"`
	Reason    string  `json:"reason"`
}

// listEvery is how often list --watch shows the table again.
const listEvery = 2 * time.Second

// list prints the table, and what the agent would do with each entry when due.
func list(ctx context.Context, o *options, stdout, _ io.Writer) error {
	table, err := kernel.Open()
	if err != nil {
		return err
	}
	defer table.Close()
	if !o.List.Watch {
		return show(ctx, table, o, stdout)
	}
	before := "" // the next time
	return again(ctx, listEvery, func() error {
		var b bytes.Buffer // so that a terminal is never seen half drawn
		b.WriteString(before)
		if err := show(ctx, table, o, &b); err != nil {
			return err
		}
		before = "\n"
		if f, ok := stdout.(*os.File); ok && isTerminal(f) {
			before = "\x1b[H\x1b[2J" // home, and erase what is there
		}
		_, err := stdout.Write(b.Bytes())
		return err
	})
}

// again calls f at once and after each period, until ctx is done or f fails.
func again(ctx context.Context, period time.Duration, f func() error) error {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		if err := f(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// show prints the table as it is now.
func show(ctx context.Context, table *kernel.Table, o *options, w io.Writer) error {
	topology, err := table.Topology()
	if err != nil {
		return err
	}
	var entries []neigh.Entry
	for range 3 { // a dump that was interrupted by a change is no answer
		entries = entries[:0]
		if err = table.Dump(func(e *neigh.Entry) { entries = append(entries, *e) }); err == nil {
			break
		}
	}
	if err != nil {
		return err
	}
	total := len(entries)
	entries = slices.DeleteFunc(entries, func(e neigh.Entry) bool {
		link := topology.Links[e.Index]
		return !o.List.Filter.Names(&e, &link)
	})
	rows := verdicts(entries, &topology, &o.Scope)
	markVIPs(rows, watchedVIPs(ctx, o.Web[0]))
	if o.Output == "json" {
		return printJSON(w, rows)
	}
	return printRows(w, rows, total-len(rows))
}

// watchedVIP is the entry of a VIP that an agent watches.
type watchedVIP struct{ address, device string }

// vipInfo matches the sample of the metric vip_info; its labels come in this order.
var vipInfo = regexp.MustCompile(`(?m)^arp_cache_cleaner_vip_info\{device="([^"]*)",.*,vip="([^"%]*)[^"]*"\} 1$`)

// watchedVIPs asks the agent on this node which VIPs it watches: none where there is
// no agent, or where it does not tell everybody.
func watchedVIPs(ctx context.Context, address string) map[watchedVIP]bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	status, body, err := get(ctx, "http://"+address+"/metrics")
	if err != nil || status != http.StatusOK {
		return nil
	}
	watched := make(map[watchedVIP]bool)
	for _, m := range vipInfo.FindAllSubmatch(body, -1) {
		watched[watchedVIP{address: string(m[2]), device: string(m[1])}] = true
	}
	return watched
}

// markVIPs gives the reason vip to entries that the watch over VIPs verifies in place
// of the sweep.
func markVIPs(rows []row, watched map[watchedVIP]bool) {
	for i := range rows {
		r := &rows[i]
		if watched[watchedVIP{r.Address, r.Device}] && r.Verdict != policy.Keep.String() {
			r.Verdict, r.Reason = policy.Verify.String(), "vip"
		}
	}
}

// printJSON prints v as JSON, indented.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// verdicts decides about every entry, and sorts by device and address.
func verdicts(entries []neigh.Entry, topology *neigh.Topology, scope *policy.Scope) []row {
	name := func(e *neigh.Entry) string { return topology.Links[e.Index].Name }
	slices.SortFunc(entries, func(a, b neigh.Entry) int {
		return cmp.Or(cmp.Compare(name(&a), name(&b)), a.Addr.Compare(b.Addr))
	})
	rows := make([]row, 0, len(entries))
	for i := range entries {
		e := &entries[i]
		link := topology.Links[e.Index]
		_, nextHop := topology.NextHops[e.Key]
		v := scope.Decide(e, &link, nextHop)
		rows = append(rows, row{
			Address: e.Addr.String(), Device: cmp.Or(link.Name, fmt.Sprintf("if%d", e.Index)),
			LLAddr: e.LLAddr.String(), State: e.State.String(),
			Used: seconds(e.Used), Confirmed: seconds(e.Confirmed), Updated: seconds(e.Updated),
			Uplink: link.Uplink, NextHop: nextHop, Verdict: v.Action.String(), Reason: v.Reason.String(),
		})
	}
	return rows
}

// printRows prints rows for people. hidden is how many entries are not among them.
func printRows(w io.Writer, rows []row, hidden int) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(tw, "ADDRESS\tDEVICE\tLLADDR\tSTATE\tUSED\tCONFIRMED\tUPDATED\tWHEN DUE\tREASON")
	count := make(map[string]int)
	for _, r := range rows {
		count[r.Verdict]++
		// Whole seconds, rounded down, as ip prints them.
		_, _ = fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%ds\t%ds\t%ds\t%s\t%s\n", r.Address, r.Device, cmp.Or(r.LLAddr, "-"),
			strings.ToUpper(r.State), int(r.Used), int(r.Confirmed), int(r.Updated), r.Verdict, r.Reason)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	total := fmt.Sprintf("total %d: verify %d, delete %d, keep %d", len(rows),
		count[policy.Verify.String()], count[policy.Delete.String()], count[policy.Keep.String()])
	if hidden > 0 {
		total += fmt.Sprintf("; %d more do not match the flags", hidden)
	}
	_, err := fmt.Fprintln(w, total)
	return err
}

// seconds rounds to the kernel's resolution, so that JSON shows no binary noise.
func seconds(d time.Duration) float64 { return float64(d.Milliseconds()) / 1000 }
