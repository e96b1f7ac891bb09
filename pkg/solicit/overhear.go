package solicit

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"
)

// ear is a socket that listens for all who overhear an address. There is one at most
// for an interface and family, however many listen: the kernel runs the filter of
// each socket on each packet, and each wakes the process.
type ear struct {
	open   func() error // once; whoever else wants to listen waits for it
	socket *socket
	done   chan struct{} // nobody reads any more

	mu     sync.Mutex
	wanted []overhearer
	until  time.Time // when the last of them ends
}

// overhearer is one who listens.
type overhearer struct {
	addr  netip.Addr
	until time.Time
	hear  func(a Answer, announced bool)
}

// over reports whether its time is over.
func (o overhearer) over(now time.Time) bool { return now.After(o.until) }

// Overhear calls hear with what arrives about addr on the interface with this index,
// from now until the given time: answers to this host, late ones too, and announcements.
// Nothing is sent. An announcement is gratuitous ARP in either form, a reply that is
// not to this host alone, or an unsolicited advertisement. What repeats is
// reported each time; RTT is 0.
//
// hear is called by one goroutine at a time, and must not block. When the interface
// fails, nothing more is heard. For an IPv6 address the kernel looks at each IPv6 packet
// meanwhile, and the first call waits for a grace period, as Ask does.
func (p *Pool) Overhear(index int, addr netip.Addr, until time.Time, hear func(a Answer, announced bool)) error {
	if err := checkAddr(addr); err != nil {
		return fmt.Errorf("listening on interface %d: %w", index, err)
	}
	addr = addr.WithZone("")
	key := socketKey{index, addr.Is4()}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return fmt.Errorf("listening on interface %d: %w", index, net.ErrClosed)
	}
	e := p.ears[key]
	if e == nil {
		e = p.newEar(key)
		p.ears[key] = e
	}
	e.add(overhearer{addr, until, hear})
	p.mu.Unlock()
	if err := e.open(); err != nil {
		p.forget(key, e, true)
		return err
	}
	return nil
}

// add adds one who listens, and forgets those whose time is over.
func (e *ear) add(o overhearer) {
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.wanted = append(slices.DeleteFunc(e.wanted, func(o overhearer) bool { return o.over(now) }), o)
	if o.until.After(e.until) {
		e.until = o.until
	}
}

// newEar returns an ear that has not been opened yet. Opening it takes a socket from the
// Pool, which gets it back in the end.
func (p *Pool) newEar(key socketKey) *ear {
	e := &ear{done: make(chan struct{})}
	e.open = sync.OnceValue(func() (err error) {
		if e.socket, err = p.take(key); err != nil {
			return err
		}
		if _, err := e.socket.listen(); err != nil {
			_ = e.socket.close()
			return err
		}
		go func() {
			defer close(e.done)
			if err := e.run(func() bool { return p.forget(key, e, false) }); err != nil {
				p.forget(key, e, true)
				_ = e.socket.close()
				return
			}
			e.socket.rest()
			p.give(key, e.socket)
		}()
		return nil
	})
	return e
}

// forget removes an ear that has failed, or with which nobody listens any more: the next
// who wants to listen opens another one. It reports whether that is so.
func (p *Pool) forget(key socketKey, e *ear, failed bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	if !failed && time.Now().Before(e.until) {
		return false
	}
	if p.ears[key] == e {
		delete(p.ears, key)
	}
	return true
}

// end ends the time of everybody who listens.
func (e *ear) end() {
	e.mu.Lock()
	e.until = time.Unix(1, 0)
	e.mu.Unlock()
	e.wait()
}

// run reads until nobody listens any more, and returns nil then.
func (e *ear) run(over func() bool) error {
	e.wait()
	for {
		b, h, err := e.socket.receive()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if over() {
				return nil
			}
			e.wait()
		case err != nil:
			return err
		default:
			e.handle(b, h)
		}
	}
}

// wait sets when run checks next whether anybody still listens.
func (e *ear) wait() {
	e.mu.Lock()
	defer e.mu.Unlock()
	_ = e.socket.readUntil(e.until)
}

// handle hands on what a frame says.
func (e *ear) handle(b []byte, h header) {
	c, ok := e.socket.parse(b, h)
	if !ok || !c.namesHost() {
		return
	}
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, o := range e.wanted {
		if o.addr == c.addr && !o.over(now) {
			o.hear(c.answer(0), c.gratuitous || !c.solicited)
		}
	}
}
