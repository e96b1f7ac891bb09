package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/kernel"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/pace"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/shield"
)

// probeWindow is how long answers to one request are collected.
const probeWindow = 500 * time.Millisecond

// holder is one link-layer address that answers. The field names are the JSON
// output's.
type holder struct {
	LLAddr  string  `json:"lladdr"`
	Answers int     `json:"answers"`
	Min     float64 `json:"rtt_min_seconds"`
	Max     float64 `json:"rtt_max_seconds"`
	Current bool    `json:"current"` // this node's entry names it

	lladdr neigh.LLAddr
}

// result is what probe prints.
type result struct {
	Address string   `json:"address"`
	Device  string   `json:"device"`
	Source  string   `json:"source"`
	Asked   int      `json:"asked"`
	Holders []holder `json:"holders"`

	currentAnswered bool      // the holder that this node's entry names, the last time
	late            time.Time // until when late answers may move the entry
}

// probe asks who holds an address.
func probe(ctx context.Context, o *options, stdout, _ io.Writer) error {
	table, err := kernel.Open()
	if err != nil {
		return err
	}
	defer table.Close()
	link, err := wayTo(table, o)
	if err != nil {
		return err
	}
	source, err := table.Sender(o.Probe.Address, link.Index)
	if err != nil {
		return err
	}
	asker := newSolicitor(table)
	defer asker.Close()
	key := neigh.Key{Addr: o.Probe.Address, Index: link.Index}
	r := result{Address: o.Probe.Address.String(), Device: link.Name, Source: source.String(), Holders: []holder{}}
	for i := range o.Probe.Count {
		if i > 0 && !pace.Sleep(ctx, o.Probe.Interval-probeWindow) {
			break
		}
		if err := r.ask(ctx, table, asker, &link, key); err != nil {
			return err
		}
		r.Asked++
	}
	if o.Output == "json" {
		err = printJSON(stdout, r)
	} else {
		err = printHolders(stdout, &r)
	}
	switch n := len(r.Holders); {
	case err != nil || n == 1:
	case n == 0:
		err = exit(3)
	default:
		err = exit(4)
	}
	pace.Sleep(ctx, time.Until(r.late))
	return err
}

// wayTo returns the device to ask on.
func wayTo(table *kernel.Table, o *options) (link neigh.Link, err error) {
	topology, err := table.Topology()
	if err != nil {
		return link, err
	}
	index := 0
	if o.Probe.Interface != "" {
		for _, l := range topology.Links {
			if l.Name == o.Probe.Interface {
				index = l.Index
			}
		}
		if index == 0 {
			return link, fmt.Errorf("--interface: there is no device %s", o.Probe.Interface)
		}
	}
	route, err := table.Route(o.Probe.Address, index)
	if err != nil { // the way to an own address is by lo, whatever device it is on
		if r, e := table.Route(o.Probe.Address, 0); e == nil && r.Local {
			route, err = r, nil
		}
	}
	switch {
	case err != nil:
		return link, err
	case route.Local:
		return link, fmt.Errorf("%s is this node's own address", o.Probe.Address)
	case route.Gateway.IsValid():
		return link, fmt.Errorf("%s is not on link: it is reached by way of %s", o.Probe.Address, route.Gateway)
	}
	return topology.Links[route.Index], nil
}

// ask sends one request and adds the answers to r. An entry of this node's is
// shielded for as long as answers come, and put back where one of them, even a late
// one, moved it. An entry whose holder did not answer the last time is left to the
// kernel, which is about to find out, and would be kept from it.
func (r *result) ask(ctx context.Context, table *kernel.Table, solicitor solicitor, link *neigh.Link, key neigh.Key) error {
	asker := &shield.Asker{Table: table, Solicitor: solicitor, Scope: &policy.Scope{}, Window: probeWindow}
	q := &shield.Inquiry{Key: key, Link: link, NextHop: true}
	entry, err := table.Get(key)
	if err != nil && !errors.Is(err, neigh.ErrGone) {
		return err
	}
	if err == nil && !asker.Scope.Decide(&entry, link, true).Reason.Foreign() && entry.State.Valid() {
		q.Incumbent = entry
		if r.Asked == 0 || r.currentAnswered {
			err = shield.Raise(table, &entry)
		}
		if errors.Is(err, neigh.ErrPermission) {
			return fmt.Errorf("this node has an entry for %s, which an answer could move: CAP_NET_ADMIN is missing: %s", key.Addr, howToGrant)
		}
	}
	asker.Answered = func(a shield.Reply) { r.add(a, q.Incumbent.LLAddr) }
	err = asker.AskOnce(ctx, q)
	r.currentAnswered = q.IncumbentHeard()
	if errors.Is(err, neigh.ErrPermission) {
		return fmt.Errorf("asking on %s: CAP_NET_RAW is missing: %s", link.Name, howToGrant)
	}
	h, ok := q.Holder()
	if !ok || h != q.Incumbent.LLAddr {
		return err
	}
	held := asker.Hold(q, h)
	if errors.Is(held, neigh.ErrGone) || errors.Is(held, shield.ErrChanged) {
		return err
	}
	if held == nil && err == nil {
		r.late = time.Now().Add(shield.LateFor(probeWindow))
		err = asker.Late(q, func(l *shield.Late) { go l.Attend(ctx) })
	}
	return cmp.Or(err, held)
}

// add takes in one answer. This node's entry names the given holder.
func (r *result) add(a shield.Reply, current neigh.LLAddr) {
	i := slices.IndexFunc(r.Holders, func(h holder) bool { return h.lladdr == a.LLAddr })
	if i < 0 {
		i = len(r.Holders)
		r.Holders = append(r.Holders, holder{lladdr: a.LLAddr, LLAddr: a.LLAddr.String(), Min: a.RTT.Seconds()})
	}
	h := &r.Holders[i]
	h.Answers++
	h.Min, h.Max = min(h.Min, a.RTT.Seconds()), max(h.Max, a.RTT.Seconds())
	h.Current = a.LLAddr == current
}

func printHolders(w io.Writer, r *result) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(tw, "LLADDR\tANSWERS\tRTT MIN\tRTT MAX\tENTRY")
	for _, h := range r.Holders {
		entry := ""
		if h.Current {
			entry = "this node's"
		}
		_, _ = fmt.Fprintf(tw, "%s\t%d/%d\t%.3f ms\t%.3f ms\t%s\n", h.LLAddr, h.Answers, r.Asked, 1000*h.Min, 1000*h.Max, entry)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	holders := "holders"
	if len(r.Holders) == 1 {
		holders = "holder"
	}
	_, err := fmt.Fprintf(w, "%d %s of %s answered on %s, asked from %s\n", len(r.Holders), holders, r.Address, r.Device, r.Source)
	return err
}
