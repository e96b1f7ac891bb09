package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Stream is traffic from one host to another that counts what arrives.
type Stream struct {
	sent, received, holes atomic.Uint64
	stall                 atomic.Int64 // greatest, in nanoseconds
	ctx                   context.Context
	stop                  context.CancelFunc
	wg                    sync.WaitGroup
	err                   error
	once                  sync.Once
}

func newStream() *Stream {
	s := &Stream{}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s
}

// Stall returns the longest time a TCP message took to come back.
func (s *Stream) Stall() time.Duration { return time.Duration(s.stall.Load()) }

// Counts says how many packets (UDP) or messages (TCP) were sent and received,
// and how many were missing in between.
func (s *Stream) Counts() (sent, received, holes uint64) {
	return s.sent.Load(), s.received.Load(), s.holes.Load()
}

// Stop ends the stream and returns the first error of either end.
func (s *Stream) Stop() error {
	s.stop()
	s.wg.Wait()
	return s.err
}

func (s *Stream) fail(err error) {
	if err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF) {
		s.once.Do(func() { s.err = err })
	}
}

// UDP sends numbered datagrams one way, one each period, until stopped. The
// receiver never answers, so nothing but the kernel's own probes confirms the
// neighbour entry.
func UDP(from, to *Host, dst netip.AddrPort, period time.Duration) (*Stream, error) {
	return datagrams(from, to, dst, func(s *Stream, tx net.Conn) error {
		return every(s.ctx, period, func(n uint64) error {
			s.sent.Add(1)
			return sendNumber(tx, n)
		})
	})
}

// datagramSize is that of ordinary traffic. It matters: the kernel's queue for
// an unresolved neighbour is counted in bytes of memory (unres_qlen_bytes), and
// holds a hundred packets of this size but several hundred small ones.
const datagramSize = 1200

func sendNumber(tx net.Conn, n uint64) error {
	var b [datagramSize]byte
	binary.BigEndian.PutUint64(b[:], n)
	_, err := tx.Write(b[:])
	return err
}

// receiveBuffer holds a second of a fast stream, so that what is missing was
// lost on the way and not by a receiver that had no CPU.
const receiveBuffer = 128 << 20

// datagrams starts a receiver, and a sender that runs send.
func datagrams(from, to *Host, dst netip.AddrPort, send func(*Stream, net.Conn) error) (*Stream, error) {
	var rx *net.UDPConn
	if err := to.Do(func() (err error) {
		if rx, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(dst)); err != nil {
			return err
		}
		raw, err := rx.SyscallConn()
		if err != nil {
			return err
		}
		return raw.Control(func(fd uintptr) {
			// Beyond net.core.rmem_max; where that is not allowed, up to it.
			if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
			}
		})
	}); err != nil {
		return nil, fmt.Errorf("udp receiver: %w", err)
	}
	var tx net.Conn
	if err := from.Do(func() (err error) {
		tx, err = net.Dial("udp", dst.String())
		return err
	}); err != nil {
		_ = rx.Close()
		return nil, fmt.Errorf("udp sender: %w", err)
	}
	s := newStream()
	s.wg.Go(func() { s.fail(receiveNumbers(rx, s)) })
	s.wg.Go(func() {
		defer func() {
			s.arrive()
			_ = rx.SetReadDeadline(time.Now())
		}()
		defer tx.Close()
		s.fail(send(s, tx))
	})
	return s, nil
}

// arrive waits for the last datagrams, unless they were lost. The receiver may have
// no CPU for a while.
func (s *Stream) arrive() {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range 200 {
		if s.received.Load() >= s.sent.Load() {
			return
		}
		<-tick.C
	}
}

func receiveNumbers(rx net.PacketConn, s *Stream) error {
	defer rx.Close()
	var b [datagramSize]byte
	for next := uint64(0); ; {
		n, _, err := rx.ReadFrom(b[:])
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			return nil
		}
		if err != nil {
			return err
		}
		if n != datagramSize {
			continue
		}
		s.received.Add(1)
		if got := binary.BigEndian.Uint64(b[:]); got >= next {
			s.holes.Add(got - next)
			next = got + 1
		}
	}
}

// TCP sends numbered messages one each period and has each echoed.
func TCP(from, to *Host, dst netip.AddrPort, period time.Duration) (*Stream, error) {
	var l net.Listener
	if err := to.Do(func() (err error) {
		l, err = net.Listen("tcp", dst.String())
		return err
	}); err != nil {
		return nil, fmt.Errorf("tcp receiver: %w", err)
	}
	var tx net.Conn
	if err := from.Do(func() (err error) {
		tx, err = net.DialTimeout("tcp", dst.String(), 5*time.Second)
		return err
	}); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("tcp sender: %w", err)
	}
	s := newStream()
	s.wg.Go(func() {
		defer l.Close()
		c, err := l.Accept()
		if err != nil {
			s.fail(err)
			return
		}
		defer c.Close()
		_, err = io.Copy(c, c)
		s.fail(err)
	})
	s.wg.Go(func() {
		defer tx.Close()
		s.fail(every(s.ctx, period, func(n uint64) error {
			sent := time.Now()
			var b [8]byte
			binary.BigEndian.PutUint64(b[:], n)
			_ = tx.SetDeadline(time.Now().Add(30 * time.Second))
			if _, err := tx.Write(b[:]); err != nil {
				return err
			}
			s.sent.Add(1)
			if _, err := io.ReadFull(tx, b[:]); err != nil {
				return err
			}
			s.received.Add(1)
			s.stall.Store(max(s.stall.Load(), int64(time.Since(sent))))
			return nil
		}))
	})
	return s, nil
}

// every calls fn once a period until ctx is done.
func every(ctx context.Context, period time.Duration, fn func(n uint64) error) error {
	t := time.NewTicker(period)
	defer t.Stop()
	for n := uint64(0); ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if err := fn(n); err != nil {
			return err
		}
	}
}

// Touch sends one datagram from the host to the discard port of addr, which
// makes the kernel resolve it.
func (h *Host) Touch(addr string) {
	var c net.Conn
	err := h.Do(func() (err error) {
		c, err = net.Dial("udp", net.JoinHostPort(addr, "9"))
		return err
	})
	h.lab.check(err, "sending to %s from host %s", addr, h.Name)
	_, err = c.Write([]byte("touch"))
	h.lab.check(errors.Join(err, c.Close()), "sending to %s from host %s", addr, h.Name)
}
