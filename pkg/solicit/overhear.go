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

	"golang.org/x/sys/unix"
)

// earKey is what an ear listens to: one interface, in one family.
type earKey struct {
	index int
	v4    bool
}

// ear is a socket that listens for all who overhear an address. There is one at most
// for an interface and family, however many listen: the kernel runs the filter of
// each socket on each packet.
type ear struct {
	open   func() error // once; whoever else wants to listen waits for it
	conn   *Conn
	socket *socket
	done   chan struct{} // nobody reads any more
	users  int           // guarded by the Pool's mu

	mu     sync.Mutex
	wanted map[netip.Addr][]*overhearer
}

// overhearer is one who listens.
type overhearer struct {
	hear func(a Answer, announced bool)
}

// Overhear calls hear with what arrives about addr on the interface with this index,
// from now until stop is called: answers to this host, be they late, and announcements.
// Nothing is sent. An announcement is gratuitous ARP in either form, a reply that is
// not to this host alone, or an unsolicited advertisement. What repeats is
// reported each time; RTT is 0.
//
// hear is called by one goroutine at a time, never after stop has returned, and must
// neither block nor call stop. When the interface fails, nothing more is heard. Of an
// IPv6 address the kernel looks at each IPv6 packet meanwhile, see Conn.Ask.
func (p *Pool) Overhear(index int, addr netip.Addr, hear func(a Answer, announced bool)) (stop func(), err error) {
	if err := checkAddr(addr); err != nil {
		return nil, fmt.Errorf("listening on interface %d: %w", index, err)
	}
	addr = addr.WithZone("")
	key := earKey{index, addr.Is4()}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, fmt.Errorf("listening on interface %d: %w", index, net.ErrClosed)
	}
	e := p.ears[key]
	if e == nil {
		e = p.newEar(key)
		p.ears[key] = e
	}
	e.users++
	p.mu.Unlock()
	if err := e.open(); err != nil {
		p.leave(key, e)
		return nil, err
	}
	o := &overhearer{hear}
	e.mu.Lock()
	e.wanted[addr] = append(e.wanted[addr], o)
	e.mu.Unlock()
	return sync.OnceFunc(func() {
		e.mu.Lock()
		if e.wanted[addr] = slices.DeleteFunc(e.wanted[addr], func(other *overhearer) bool { return other == o }); len(e.wanted[addr]) == 0 {
			delete(e.wanted, addr)
		}
		e.mu.Unlock()
		p.leave(key, e)
	}), nil
}

// newEar returns an ear that is to be opened. It takes a Conn for that, and gives it
// back in the end.
func (p *Pool) newEar(key earKey) *ear {
	e := &ear{wanted: make(map[netip.Addr][]*overhearer), done: make(chan struct{})}
	e.open = sync.OnceValue(func() (err error) {
		if e.conn, err = p.take(key.index); err != nil {
			return err
		}
		e.socket = e.conn.nd
		if key.v4 {
			e.socket = e.conn.arp
		}
		if err := e.socket.listen(); err != nil {
			_ = e.conn.Close()
			return err
		}
		go func() {
			defer close(e.done)
			if err := e.run(); err != nil {
				p.mu.Lock()
				p.forget(key, e)
				p.mu.Unlock()
				_ = e.conn.Close()
				return
			}
			e.socket.rest()
			p.give(key.index, e.conn)
		}()
		return nil
	})
	return e
}

// leave is called when one has ended to listen. The last one ends the ear.
func (p *Pool) leave(key earKey, e *ear) {
	p.mu.Lock()
	e.users--
	last := e.users == 0
	if last {
		p.forget(key, e)
	}
	p.mu.Unlock()
	if last && e.socket != nil {
		e.end()
	}
}

// forget has the next one who wants to listen open another ear. The caller holds mu.
func (p *Pool) forget(key earKey, e *ear) {
	if p.ears[key] == e {
		delete(p.ears, key)
	}
}

// end has run return.
func (e *ear) end() { _ = e.socket.readUntil(time.Unix(1, 0)) }

// run reads until nobody listens any more, and returns nil then.
func (e *ear) run() error {
	for {
		b, h, err := e.socket.receive(true)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case err != nil:
			return err
		}
		e.handle(b, h)
	}
}

// handle hands on what a frame says.
func (e *ear) handle(b []byte, h header) {
	parse, gratuitous := parseNA, false
	if e.socket.etherType == unix.ETH_P_ARP {
		parse, gratuitous = parseARPSender, isGratuitous(b)
	}
	c, ok := parse(b, h)
	if !ok || c.lladdr == (lladdr{}) || c.lladdr == broadcast {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, o := range e.wanted[c.addr] {
		o.hear(Answer{
			Addr: c.addr, LLAddr: net.HardwareAddr(slices.Clone(c.lladdr[:])), Solicited: c.solicited, Router: c.router, Override: c.override,
		}, gratuitous || !c.solicited)
	}
}
