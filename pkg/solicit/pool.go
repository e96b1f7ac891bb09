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

// Pool asks on any interface, and keeps sockets that are not in use for the next
// Asks there. Its methods may be called by several goroutines, and several Asks
// may be under way at once.
type Pool struct {
	sender Sender

	mu     sync.Mutex
	idle   map[socketKey][]idleSocket // the one used last behind
	ears   map[socketKey]*ear         // that somebody listens with
	closed bool
}

// socketKey is what a socket is for: one interface, in one family. A socket for both
// families would have to be one for all protocols, and have each packet in and out run
// through its filter.
type socketKey struct {
	index int
	v4    bool
}

// idleSocket is one that nobody uses.
type idleSocket struct {
	*socket
	since time.Time
}

const (
	// maxIdle is how long a socket is kept for the next Ask: interfaces come and go.
	maxIdle = 10 * time.Minute
	// maxKept is how many are kept for an interface and family. Ten Asks a second, of
	// half a second each, need five.
	maxKept = 8
)

// NewPool returns a Pool without any sockets. It calls sender for a target that has no
// Source, just before the frame is sent: a node can lose an address at any time, and a
// frame that still names it takes the address away from its new holder in the tables of
// whoever hears it.
func NewPool(sender Sender) *Pool {
	return &Pool{sender: sender, idle: make(map[socketKey][]idleSocket), ears: make(map[socketKey]*ear)}
}

// Ask sends one solicitation on the interface with this index, in the network namespace
// of the calling thread, and listens until the window has passed since. It returns nil
// then, however few answered, and the error of ctx if that was done earlier. A target
// without a Source is asked for from where sender says. Where sender fails, or the target
// cannot be asked for, nothing is sent, and the error says why.
//
// Each distinct LLAddr is reported once, when it is first heard, and once more if it was
// first heard in an announcement and then answers, or if its answer has the Override flag
// and the one before had not: Linux answers the kernel's own unicast solicitation without
// it. The first 64 holders are reported. What comes for another address, or before this
// one was asked for, is dropped. ARP and ND cannot tell answers to one solicitation from
// late ones to the one before.
//
// answer is called by the calling goroutine; while it runs, further answers queue in the
// kernel. It may cancel ctx to end the Ask.
//
// On any error of the interface Ask gives up at once: what was sent may still be
// answered, so no conclusion can be drawn from what was not reported.
//
// The kernel looks at ARP frames between Asks too, which costs nothing: what an Ask
// leaves unread, and a few frames after it, lie in the socket until the next one drops
// them. Looking at IPv6 packets costs about 80 ns for each that arrives, so that is done
// only while asking for an IPv6 address, at the price of one RCU grace period (5 to 20 ms)
// before the first solicitation and one at the end.
func (p *Pool) Ask(ctx context.Context, index int, t Target, window time.Duration, answer func(Answer)) error {
	t.Addr, t.Source = t.Addr.WithZone(""), t.Source.WithZone("")
	key := socketKey{index, t.Addr.Is4()}
	s, err := p.take(key)
	if err != nil {
		return err
	}
	r := &round{socket: s, target: t, answer: answer}
	var unasked error
	err = r.run(ctx, window, func(t *Target) error {
		unasked = p.complete(t, index)
		return unasked
	})
	if err != nil && unasked == nil && ctx.Err() == nil {
		_ = s.close() // the interface may be another one of the same index by now
		return err
	}
	p.give(key, s)
	return err
}

// complete adds to a target the Source that it lacks, and checks it.
func (p *Pool) complete(t *Target, index int) error {
	if !t.Source.IsValid() {
		source, err := p.sender(t.Addr, index)
		if err != nil {
			return err
		}
		t.Source = source.WithZone("")
	}
	return t.check()
}

// take returns a socket that is not in use.
func (p *Pool) take(key socketKey) (*socket, error) {
	p.mu.Lock()
	var s *socket
	if idle := p.idle[key]; len(idle) > 0 {
		s, p.idle[key] = idle[len(idle)-1].socket, idle[:len(idle)-1]
	}
	var old []idleSocket
	for k, idle := range p.idle {
		kept := slices.IndexFunc(idle, func(i idleSocket) bool { return time.Since(i.since) <= maxIdle })
		if kept < 0 {
			kept = len(idle)
			delete(p.idle, k)
		} else {
			p.idle[k] = idle[kept:]
		}
		old = append(old, idle[:kept]...)
	}
	p.mu.Unlock()
	for _, o := range old {
		_ = o.close()
	}
	if s != nil {
		return s, nil
	}
	if key.v4 {
		return open(key.index, arpProtocol())
	}
	return open(key.index, ndProtocol())
}

// give keeps a socket for the next Ask, or closes it where enough are kept already.
func (p *Pool) give(key socketKey, s *socket) {
	p.mu.Lock()
	if !p.closed && len(p.idle[key]) < maxKept {
		p.idle[key], s = append(p.idle[key], idleSocket{s, time.Now()}), nil
	}
	p.mu.Unlock()
	if s != nil {
		_ = s.close()
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
	for _, sockets := range idle {
		for _, s := range sockets {
			_ = s.close()
		}
	}
}
