package solicit

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

// Sender returns the address that a solicitation for addr, on the device with
// this index, has to come from: see Target.Source.
type Sender func(addr netip.Addr, device int) (netip.Addr, error)

// Pool asks on any interface, and keeps a Conn that is not in use for the next
// Ask there. Its methods may be called by several goroutines, and several Asks
// may be under way at once.
type Pool struct {
	sender Sender

	mu     sync.Mutex
	idle   map[int]idleConn // one for each interface
	closed bool
}

// idleConn is a Conn that nobody uses.
type idleConn struct {
	*Conn
	since time.Time
}

// maxIdle is how long a Conn is kept for the next Ask: interfaces come and go.
const maxIdle = 10 * time.Minute

// NewPool returns a Pool without any Conn. It calls sender for each target that
// has no Source, just before the frame is sent: a node can lose an address at
// any time, and a frame that still names it takes the address away from its new
// holder in the tables of whoever hears it.
func NewPool(sender Sender) *Pool { return &Pool{sender: sender, idle: make(map[int]idleConn)} }

// Ask is Conn.Ask on the interface with this index, in the network namespace of
// the calling thread. Targets without a Source are asked for from where sender
// says. Those for which it knows none are not asked for; all the others are, and
// the error is an Unasked then.
func (p *Pool) Ask(ctx context.Context, index int, targets []Target, window time.Duration, answer func(Answer)) error {
	c, err := p.take(index)
	if err != nil {
		return err
	}
	unasked, err := c.ask(ctx, targets, window, answer, func(t *Target) error {
		if !t.Source.IsValid() {
			source, err := p.sender(t.Addr, index)
			if err != nil {
				return err
			}
			t.Source = source.WithZone("")
		}
		return t.check()
	})
	if err != nil && ctx.Err() == nil {
		_ = c.Close() // the interface may be another one of the same index by now
		return err
	}
	p.give(index, c)
	if err == nil && len(unasked) > 0 {
		return unasked
	}
	return err
}

// take returns a Conn that is not in use.
func (p *Pool) take(index int) (*Conn, error) {
	p.mu.Lock()
	idle, ok := p.idle[index]
	delete(p.idle, index)
	var old []idleConn
	for i, c := range p.idle {
		if time.Since(c.since) > maxIdle {
			old = append(old, c)
			delete(p.idle, i)
		}
	}
	p.mu.Unlock()
	for _, c := range old {
		_ = c.Close()
	}
	if ok {
		return idle.Conn, nil
	}
	return Dial(index)
}

// give keeps a Conn for the next Ask, or closes it where one is kept already.
func (p *Pool) give(index int, c *Conn) {
	p.mu.Lock()
	if _, ok := p.idle[index]; !ok && !p.closed {
		p.idle[index], c = idleConn{c, time.Now()}, nil
	}
	p.mu.Unlock()
	if c != nil {
		_ = c.Close()
	}
}

// Close closes what is kept. An Ask that is under way goes on to its end.
func (p *Pool) Close() {
	p.mu.Lock()
	idle := p.idle
	p.idle, p.closed = nil, true
	p.mu.Unlock()
	for _, c := range idle {
		_ = c.Close()
	}
}
