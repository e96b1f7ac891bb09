package solicit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// lineBuffer is room for the frames about one address that arrive while the
	// process waits for a CPU: 32 of them at 4 KiB of driver memory each, as the
	// kernel doubles it. When it is full, frames are dropped and wake nobody.
	lineBuffer = 64 << 10
	// lineFits is fewer frames than that holds.
	lineFits = 16

	// lineBurst is how many frames are read in linePeriod while nobody asks. Then
	// reading stops until the end of the period, or the next Ask. Holders announce
	// themselves every few seconds at most, and one frame is as good as many.
	lineBurst  = 64
	linePeriod = time.Second
	// lineMost is how many frames are read in one Ask, in which the answer may be
	// among those of a flood.
	lineMost = 1024
)

// Line is a packet socket for one address on one interface. It asks for the
// address, and hears when it is announced in between. It is for an address that
// is asked for again and again: a Pool sets up a socket in each Ask.
//
// Its filter is attached once, and passes what comes in about the address alone:
// ARP requests and replies from it, or Neighbor Advertisements with it as their
// target. The kernel runs the filter on each ARP frame that arrives; for an IPv6
// address, on each IPv6 packet, which costs about 80 ns. Nothing else wakes the
// process. Its methods may be called by several goroutines.
type Line struct {
	socket *socket
	addr   netip.Addr
	heard  chan struct{}
	turn   chan struct{} // held by the one Ask that is under way
	asking chan struct{} // signalled when an Ask begins
	claims chan received // for the Ask that is under way: maxHolders of them, and an error
	window *time.Timer   // of it
	close  func() error  // once
	closed chan struct{} // Close was called
	done   chan struct{} // nobody reads any more
	err    error         // why, once that is closed

	// mu is held while a frame is read and handed on: what arrived before an Ask
	// began cannot be an answer to it.
	mu    sync.Mutex
	query *query // the Ask that is under way
	read  int    // frames, in the period that began at since and not in an Ask
	since time.Time
	full  bool // reading has stopped, and frames may have been dropped since
}

// query is one Ask on a Line.
type query struct {
	asked
	frames int  // read since it began
	lost   bool // there were more claims than it took
}

// received is a claim and when it was read, or an error that ends the Ask.
type received struct {
	claim
	at  time.Time
	err error
}

// fail ends the Ask that is under way, unless an error has done so already.
func (l *Line) fail(err error) {
	select {
	case l.claims <- received{err: err}:
	default:
	}
}

// DialLine opens a Line for addr on the interface with this index, in the network
// namespace of the calling thread. It is used from any thread afterwards. The
// interface may be down. A zone of addr is ignored. It starts a goroutine that
// Close ends. The error wraps ErrPermission, ErrNotEthernet or ErrGone where it is one
// of these. An address that no neighbour can hold is refused.
func DialLine(index int, addr netip.Addr) (*Line, error) {
	addr = addr.WithZone("")
	if err := checkAddr(addr); err != nil {
		return nil, fmt.Errorf("listening on interface %d: %w", index, err)
	}
	s, err := openFor(index, addr)
	if err != nil {
		return nil, err
	}
	if err := s.size(lineBuffer); err != nil {
		_ = s.close()
		return nil, err
	}
	l := &Line{
		socket: s, addr: addr, heard: make(chan struct{}, 1), turn: make(chan struct{}, 1),
		asking: make(chan struct{}, 1), claims: make(chan received, maxHolders+1),
		window: time.NewTimer(0), closed: make(chan struct{}), done: make(chan struct{}),
	}
	l.close = sync.OnceValue(func() error {
		close(l.closed)
		err := s.close()
		<-l.done
		return err
	})
	go l.listen()
	return l, nil
}

// openFor opens a socket for the frames about one address. It stays bound to its
// EtherType.
func openFor(index int, addr netip.Addr) (*socket, error) {
	p := arpProtocol()
	if addr.Is6() {
		p = ndProtocol()
		p.busy = false
	}
	p.filter = lineFilter(addr)
	return open(index, p)
}

// Close ends the Line, and an Ask that is under way with an error that wraps
// net.ErrClosed. It takes some milliseconds (synchronize_net in packet_release).
func (l *Line) Close() error { return l.close() }

// Heard returns the channel that is signalled when a frame about the address has
// come in that answers no Ask: gratuitous ARP in either form, an unsolicited
// advertisement, an answer that comes late, any other ARP request from the address.
// It holds one signal, however many frames came. An announcement within an
// Ask is signalled, and reported as an Answer if it has the form of one.
//
// Anybody on the segment can cause signals without end. A receiver has to limit how
// often it does something costly.
func (l *Line) Heard() <-chan struct{} { return l.heard }

// Ask sends one solicitation for the Line's address, and listens until the window
// has passed since, or answer says that it is enough. What it reports and returns is
// as for the Ask of a Pool: nil then, the error of ctx if that was done earlier. answer
// is called by the calling goroutine. It may cancel ctx or close the Line to end the
// Ask with an error, and must not call Ask.
//
// More than a thousand frames about the address make it give up with ErrOverrun.
func (l *Line) Ask(ctx context.Context, t Target, window time.Duration, answer func(Answer) (enough bool)) error {
	t.Addr, t.Source = t.Addr.WithZone(""), t.Source.WithZone("")
	err := t.check()
	if err == nil && t.Addr != l.addr {
		err = fmt.Errorf("cannot ask for %s on the line of %s", t.Addr, l.addr)
	}
	if err != nil {
		return fmt.Errorf("asking on %s: %w", l.socket.name, err)
	}
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return fmt.Errorf("waiting to ask on %s: %w", l.socket.name, ctx.Err())
	}
	err = l.ask(ctx, &t, window, answer)
	select {
	case <-l.closed:
		if err != nil {
			return fmt.Errorf("asking on %s: %w", l.socket.name, net.ErrClosed)
		}
	default:
	}
	return err
}

func (l *Line) ask(ctx context.Context, t *Target, window time.Duration, answer func(Answer) bool) error {
	if ctx.Err() != nil {
		return fmt.Errorf("asking on %s: %w", l.socket.name, ctx.Err())
	}
	q, err := l.begin(t)
	if err != nil {
		return err
	}
	l.window.Reset(window)
	enough, err := l.collect(ctx, q, answer)
	l.window.Stop()
	if ended := l.end(q); err == nil && !enough {
		err = ended
	}
	return err
}

// collect reports what comes until the window is over, or answer says that it is enough.
func (l *Line) collect(ctx context.Context, q *query, answer func(Answer) bool) (enough bool, err error) {
	for over := false; ; {
		if ctx.Err() != nil { // by the callback, which the next answer must not hide
			return false, fmt.Errorf("asking on %s: %w", l.socket.name, ctx.Err())
		}
		var c received
		select {
		case c = <-l.claims:
		default:
			if over {
				return false, nil
			}
			select {
			case c = <-l.claims:
			case <-ctx.Done():
				continue
			case <-l.done:
				return false, l.err
			case <-l.window.C:
				over = true
				l.stop()
				continue
			}
		}
		if c.err != nil {
			return false, c.err
		}
		if a, ok := q.take(&c.claim, c.at); ok && answer(a) {
			return true, nil
		}
	}
}

// begin sends the solicitation of an Ask, and makes it the one that is answered. What
// arrived before it is not for it, and lies in the socket if reading has stopped.
func (l *Line) begin(t *Target) (*query, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.claims) > 0 { // what the Ask before has left
		<-l.claims
	}
	q := &query{}
	if err := l.socket.control(func(fd int) error {
		own, err := l.socket.lladdrBy(fd)
		if err != nil {
			return err
		}
		if l.socket.drain(fd) {
			l.announce()
		}
		if l.full {
			if err := l.socket.overrun(); err != nil && !errors.Is(err, ErrOverrun) {
				return err
			}
			l.full = false
		}
		frame, to := l.socket.frame(own, t)
		q.sent = time.Now()
		// An interface that does not take this one has not sent what it was given before.
		if err := l.socket.sendto(fd, frame, to); err != nil {
			return fmt.Errorf("asking for %s: %w", l.addr, l.socket.fail("sending", err))
		}
		return nil
	}); err != nil {
		return nil, err
	}
	l.query = q
	select {
	case l.asking <- struct{}{}:
	default:
	}
	return q, nil
}

// stop ends the Ask that is under way: what is read from now on does not answer it.
func (l *Line) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.query = nil
}

// end ends an Ask, and returns ErrOverrun if it may have missed answers.
func (l *Line) end(q *query) error {
	l.stop()
	switch {
	case q.lost:
		return fmt.Errorf("listening on %s: %w", l.socket.name, ErrOverrun)
	case q.frames >= lineFits: // fewer have left room for all
		return l.socket.overrun()
	}
	return nil
}

// announce signals that the address was announced.
func (l *Line) announce() {
	select {
	case l.heard <- struct{}{}:
	default:
	}
}

// listen reads frames until the Line is closed or its socket fails.
func (l *Line) listen() {
	defer close(l.done)
	for {
		err := l.next()
		if errors.Is(err, ErrDown) { // it may be up again some day
			err = nil
		}
		if err != nil {
			l.err = err
			return
		}
		if wait := l.tooMuch(time.Now()); wait > 0 {
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-l.asking:
			case <-l.closed:
			}
			timer.Stop()
		}
	}
}

// next reads one frame and hands it on.
func (l *Line) next() error {
	var err error
	r := l.socket.raw.Read(func(fd uintptr) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		var (
			b []byte
			h header
		)
		b, h, err = l.socket.recvfrom(int(fd))
		switch {
		case errors.Is(err, unix.EAGAIN):
			return false
		case err == nil:
			l.handle(b, h)
		case l.query != nil:
			l.fail(err)
		}
		return true
	})
	if r != nil {
		err = l.socket.fail("receiving", r)
	}
	return err
}

// handle hands on what came in about the address. Requests answer no Ask; most are
// announcements.
func (l *Line) handle(b []byte, h header) {
	now := time.Now()
	c, ok := l.socket.parse(b, h)
	q := l.query
	if q == nil || !ok || !c.solicited {
		l.announce()
	}
	if q == nil {
		if now.Sub(l.since) >= linePeriod {
			l.read, l.since = 0, now
		}
		l.read++
		return
	}
	if q.frames++; q.frames >= lineMost {
		l.fail(fmt.Errorf("listening on %s: %w: %d frames about %s", l.socket.name, ErrOverrun, q.frames, l.addr))
		l.query = nil
		l.read, l.since = lineBurst+1, now
	}
	switch {
	case !ok || c.request:
	case len(l.claims) < maxHolders:
		l.claims <- received{claim: c, at: now}
	default:
		q.lost = true
	}
}

// tooMuch returns how long reading has to stop.
func (l *Line) tooMuch(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.query != nil || l.read <= lineBurst {
		return 0
	}
	// What has been signalled is about an Ask that is over.
	select {
	case <-l.asking:
	default:
	}
	l.full = true
	return l.since.Add(linePeriod).Sub(now)
}
