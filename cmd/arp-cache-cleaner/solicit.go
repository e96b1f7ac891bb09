package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/kernel"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/shield"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/solicit"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/vip"
)

// solicitor lets the sweep, the watch over VIPs and probe ask through pkg/solicit.
type solicitor struct{ *solicit.Pool }

// newSolicitor returns one that asks as the kernel would. Its questions wait while the
// table is being dumped, so table must be one that nobody dumps whole.
func newSolicitor(table *kernel.Table) solicitor { return solicitor{solicit.NewPool(table.Sender)} }

// replyOf returns what an answer says, and false where it names no host. The kernel takes
// it for an answer if it is solicited.
func replyOf(a *solicit.Answer) (shield.Reply, bool) {
	lladdr, ok := neigh.LLAddrFrom(a.LLAddr)
	return shield.Reply{Addr: a.Addr, LLAddr: lladdr, RTT: a.RTT, Override: a.Override || a.Addr.Is4()}, ok
}

// explainAsk adds to an error of pkg/solicit what a caller can act on.
func explainAsk(err error) error {
	switch {
	case errors.Is(err, solicit.ErrPermission):
		return fmt.Errorf("%w: %w", neigh.ErrPermission, err)
	case errors.Is(err, solicit.ErrNotEthernet):
		return fmt.Errorf("%w: %w", neigh.ErrUnsupported, err)
	}
	return err
}

// Ask implements shield.Solicitor.
func (s solicitor) Ask(ctx context.Context, device int, q shield.Question, window time.Duration, reply func(shield.Reply)) error {
	return explainAsk(s.Pool.Ask(ctx, device, target(q.Addr, q.LLAddr), window, func(a solicit.Answer) {
		if r, ok := replyOf(&a); ok && a.Solicited {
			reply(r)
		}
	}))
}

// target returns whom to ask for an address: one host, or everybody where lladdr is zero.
func target(addr netip.Addr, lladdr neigh.LLAddr) solicit.Target {
	t := solicit.Target{Addr: addr}
	if lladdr.Len() > 0 {
		t.LLAddr = lladdr.Bytes()
	}
	return t
}

// Overhear implements shield.Solicitor.
func (s solicitor) Overhear(device int, addr netip.Addr, until time.Time, hear func(shield.Overheard)) error {
	return explainAsk(s.Pool.Overhear(device, addr, until, func(a solicit.Answer, announced bool) {
		if r, ok := replyOf(&a); ok {
			hear(shield.Overheard{Reply: r, Announced: announced})
		}
	}))
}

// line lets the watch over VIPs ask through a solicit.Line.
type line struct {
	*solicit.Line
	addr   netip.Addr
	sender *kernel.Sender
}

// dialLine opens a line for the VIP of an entry. It asks as the kernel would.
func dialLine(table *kernel.Table, k neigh.Key) (vip.Line, error) {
	l, err := solicit.DialLine(k.Index, k.Addr)
	if err != nil {
		return nil, explainAsk(err)
	}
	return line{l, k.Addr, table.NewSender(k.Addr, k.Index)}, nil
}

// Ask implements vip.Line.
func (l line) Ask(ctx context.Context, lladdr neigh.LLAddr, window time.Duration, reply func(shield.Reply) bool) error {
	source, err := l.sender.Addr()
	if err != nil {
		return err
	}
	t := target(l.addr, lladdr)
	t.Source = source.WithZone("")
	return explainAsk(l.Line.Ask(ctx, t, window, func(a solicit.Answer) bool {
		r, ok := replyOf(&a)
		return ok && a.Solicited && reply(r)
	}))
}
