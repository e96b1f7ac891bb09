package main

import (
	"context"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/announce"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/solicit"
)

// announcer returns what announces this node's addresses. Its frames need turns, as
// solicitations do.
func (a *assembly) announcer() (*announce.Announcer, error) {
	table, err := a.table()
	if err != nil {
		return nil, err
	}
	return announce.New(announce.Config{
		Table: table, Scope: &a.o.Scope, Log: a.log, Conflict: a.metrics.Conflicted,
		Dial: func(k neigh.Key) (announce.Port, error) {
			s, err := solicit.DialAnnouncer(k.Index, k.Addr)
			if err != nil {
				return nil, explainAsk(err)
			}
			return announcePort{s}, nil
		},
		Pace:   func(ctx context.Context, device, n int) error { return a.pacer.Wait(ctx, device, n, false) },
		Frames: solicit.Frames,
	}), nil
}

// announcePort lets the announcer probe through a solicit.Announcer.
type announcePort struct{ *solicit.Announcer }

// Probe implements announce.Port.
func (p announcePort) Probe(ctx context.Context, window time.Duration, heard func(neigh.LLAddr)) error {
	return explainAsk(p.Announcer.Probe(ctx, window, func(a solicit.Answer) {
		if lladdr, ok := neigh.LLAddrFrom(a.LLAddr); ok {
			heard(lladdr)
		}
	}))
}
