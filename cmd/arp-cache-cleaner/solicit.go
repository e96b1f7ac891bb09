package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/kernel"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/shield"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/solicit"
)

// solicitor lets the sweep, the watch over VIPs and probe ask through pkg/solicit.
type solicitor struct{ *solicit.Pool }

// newSolicitor returns one that asks as the kernel would. Its questions wait for
// dumps of the table, so the table is none that is dumped whole.
func newSolicitor(table *kernel.Table) solicitor { return solicitor{solicit.NewPool(table.Sender)} }

// Ask implements shield.Solicitor.
func (s solicitor) Ask(ctx context.Context, device int, questions []shield.Question, window time.Duration, reply func(shield.Reply)) error {
	targets := make([]solicit.Target, len(questions))
	for i, q := range questions {
		targets[i].Addr = q.Addr
		if q.LLAddr.Len() > 0 {
			targets[i].LLAddr = q.LLAddr.Bytes()
		}
	}
	err := s.Pool.Ask(ctx, device, targets, window, func(a solicit.Answer) {
		if lladdr, ok := neigh.LLAddrFrom(a.LLAddr); ok && a.Solicited {
			reply(shield.Reply{Addr: a.Addr, LLAddr: lladdr, RTT: a.RTT, Override: a.Override || a.Addr.Is4()})
		}
	})
	var unasked solicit.Unasked
	switch {
	case errors.As(err, &unasked):
		return shield.Unasked(unasked)
	case errors.Is(err, solicit.ErrPermission):
		return fmt.Errorf("%w: %w", neigh.ErrPermission, err)
	}
	return err
}
