package solicit

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Sender returns the address that a solicitation for addr, on the device with
// this index, has to come from: see Target.Source.
type Sender func(addr netip.Addr, device int) (netip.Addr, error)

// Pool asks on any interface, and keeps Conns that are not in use for the next
// Asks there. Its methods may be called by several goroutines, and several Asks
// may be under way at once.
type Pool struct {
	sender Sender

	mu     sync.Mutex
	idle   map[int][]idleConn // by interface, the one used last behind
	ears   map[earKey]*ear    // that somebody listens with
	closed bool
}

// idleConn is a Conn that nobody uses.
type idleConn struct {
	*Conn
	since time.Time
}

const (
	// maxIdle is how long a Conn is kept for the next Ask: interfaces come and go.
	maxIdle = 10 * time.Minute
	// maxKept is how many are kept for an interface. Ten Asks a second, of half a
	// second each, need five.
	maxKept = 8
)

// NewPool returns a Pool without any Conn. It calls sender for each target that
// has no Source, just before the frame is sent: a node can lose an address at
// any time, and a frame that still names it takes the address away from its new
// holder in the tables of whoever hears it.
func NewPool(sender Sender) *Pool {
	return &Pool{sender: sender, idle: make(map[int][]idleConn), ears: make(map[earKey]*ear)}
}

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
	var conn *Conn
	if idle := p.idle[index]; len(idle) > 0 {
		conn, p.idle[index] = idle[len(idle)-1].Conn, idle[:len(idle)-1]
	}
	var old []idleConn
	for i, idle := range p.idle {
		kept := slices.IndexFunc(idle, func(c idleConn) bool { return time.Since(c.since) <= maxIdle })
		if kept < 0 {
			kept = len(idle)
			delete(p.idle, i)
		} else {
			p.idle[i] = idle[kept:]
		}
		old = append(old, idle[:kept]...)
	}
	p.mu.Unlock()
	for _, c := range old {
		_ = c.Close()
	}
	if conn != nil {
		return conn, nil
	}
	return Dial(index)
}

// give keeps a Conn for the next Ask, or closes it where enough are kept already.
func (p *Pool) give(index int, c *Conn) {
	p.mu.Lock()
	if !p.closed && len(p.idle[index]) < maxKept {
		p.idle[index], c = append(p.idle[index], idleConn{c, time.Now()}), nil
	}
	p.mu.Unlock()
	if c != nil {
		_ = c.Close()
	}
}

// Close closes what is kept. An Ask that is under way goes on to its end; Overhear ends.
func (p *Pool) Close() {
	p.mu.Lock()
	idle, ears := p.idle, slices.Collect(maps.Values(p.ears))
	p.idle, p.closed = nil, true
	p.mu.Unlock()
	for _, e := range ears {
		if e.open() == nil {
			e.end()
			<-e.done
		}
	}
	for _, conns := range idle {
		for _, c := range conns {
			_ = c.Close()
		}
	}
}
