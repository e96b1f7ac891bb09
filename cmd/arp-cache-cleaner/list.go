package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
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

// list prints the table, and what the agent would do with each entry when due.
func list(_ context.Context, o *options, stdout, _ io.Writer) error {
	table, err := kernel.Open()
	if err != nil {
		return err
	}
	defer table.Close()
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
	rows := verdicts(entries, &topology, &o.Scope)
	if o.Output == "json" {
		return printJSON(stdout, rows)
	}
	return printRows(stdout, rows)
}

// printJSON prints v for programs, and for people who look.
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

func printRows(w io.Writer, rows []row) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(tw, "ADDRESS\tDEVICE\tLLADDR\tSTATE\tUSED\tCONFIRMED\tUPDATED\tWHEN DUE\tREASON")
	for _, r := range rows {
		// Whole seconds, rounded down, as ip prints them.
		_, _ = fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%ds\t%ds\t%ds\t%s\t%s\n", r.Address, r.Device, cmp.Or(r.LLAddr, "-"),
			strings.ToUpper(r.State), int(r.Used), int(r.Confirmed), int(r.Updated), r.Verdict, r.Reason)
	}
	return tw.Flush()
}

// seconds rounds to the kernel's resolution, so that JSON shows no binary noise.
func seconds(d time.Duration) float64 { return float64(d.Milliseconds()) / 1000 }
