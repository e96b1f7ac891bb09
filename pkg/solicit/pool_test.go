package solicit

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var errNoSender = errors.New("no sender")

// pool is one on the segment's host.
func (s *segment) pool(sender func(addr string) (string, error)) *Pool {
	p := NewPool(func(addr netip.Addr, index int) (netip.Addr, error) {
		if index != s.port.Index {
			return netip.Addr{}, errors.New("another device")
		}
		from, err := sender(addr.String())
		if err != nil {
			return netip.Addr{}, err
		}
		return netip.ParseAddr(from)
	})
	s.t.Cleanup(p.Close)
	return p
}

// through asks everybody through a pool.
func (s *segment) through(p *Pool, window time.Duration, addr string) ([]Answer, error) {
	var answers []Answer
	err := s.a.Do(func() error {
		return p.Ask(s.t.Context(), s.port.Index, Target{Addr: netip.MustParseAddr(addr)}, window, func(a Answer) { answers = append(answers, a) })
	})
	return answers, err
}

// The sender is looked up as a frame is sent: the host may have lost the one before.
func TestPoolLooksTheSenderUpForEachFrame(t *testing.T) {
	t.Parallel()
	s := newSegment(t)
	ear := s.l.Host("ear")
	heard := ear.HearSolicitations(ear.Plug(s.sw, "eth0", "02:00:00:00:00:0e"))
	s.settle(ear)
	froms := []string{"10.0.0.1", "10.0.0.7", "0.0.0.0", "10.9.9.9"}
	n := 0
	p := s.pool(func(string) (string, error) {
		if n++; n > len(froms) {
			return "", errors.New("looked up too often")
		}
		return froms[n-1], nil
	})
	for _, addr := range []string{"10.0.0.50", "10.0.0.51", "10.0.0.50", "10.0.0.50"} {
		if _, err := s.through(p, time.Millisecond, addr); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range froms {
		select {
		case got := <-heard:
			if got.Sender.String() != want || !got.ToAll {
				t.Errorf("frame %d: %+v, want it from %s", i, got, want)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("frame %d was not heard", i)
		}
	}
}

// What there is no sender for is not asked for, in either family, and the socket stays.
func TestPoolWithoutSender(t *testing.T) {
	t.Parallel()
	s := newSegment(t)
	s.host("b", macB, "10.0.0.2/24", "10.0.0.3/24", "2001:db8::2/64", "2001:db8::3/64")
	without := map[string]bool{"10.0.0.2": true, "2001:db8::2": true}
	p := s.pool(func(addr string) (string, error) {
		switch {
		case without[addr]:
			return "", errNoSender
		case addr == "2001:db8::4":
			return "10.0.0.1", nil
		case strings.Contains(addr, ":"):
			return "2001:db8::1%eth0", nil
		}
		return "10.0.0.1", nil
	})
	for _, addr := range []string{"10.0.0.3", "2001:db8::3"} {
		answers, err := s.through(p, window, addr)
		if got, want := holders(answers), []string{addr + " " + macB}; err != nil || !slices.Equal(got, want) {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	at4, at6 := socketKey{s.port.Index, true}, socketKey{s.port.Index, false}
	kept := map[socketKey]*socket{at4: p.idle[at4][0].socket, at6: p.idle[at6][0].socket}
	for addr, why := range map[string]string{
		"10.0.0.2": "no sender", "2001:db8::2": "no sender",
		"2001:db8::4": "cannot ask for 2001:db8::4 from 10.0.0.1",
		"224.0.0.1":   "224.0.0.1 is not an address that a neighbour holds",
	} {
		start := time.Now()
		answers, err := s.through(p, time.Minute, addr)
		if err == nil || err.Error() != addr+" was not asked for: "+why || errors.Is(err, errNoSender) != without[addr] || len(answers) > 0 {
			t.Errorf("%s: %d answers, %v, want %s", addr, len(answers), err, why)
		}
		// Where nothing was asked, there is nothing to wait for.
		if took := time.Since(start); took > 30*time.Second {
			t.Errorf("%s: took %v", addr, took)
		}
		for key, s := range kept {
			if idle := p.idle[key]; len(idle) != 1 || idle[0].socket != s {
				t.Errorf("%s: the socket was not kept", addr)
			}
		}
	}
	// A Source that a target has is taken.
	var answers []Answer
	err := s.a.Do(func() error {
		return p.Ask(t.Context(), s.port.Index, at("10.0.0.2"), window, func(a Answer) { answers = append(answers, a) })
	})
	if err != nil || len(answers) != 1 {
		t.Errorf("from a given address: %d answers, %v", len(answers), err)
	}
}

// A socket that is not in use serves the next Ask; one that failed does not.
func TestPoolKeepsWhatWorks(t *testing.T) {
	t.Parallel()
	s := newSegment(t)
	s.host("b", macB, "10.0.0.2/24")
	p := s.pool(func(string) (string, error) { return "10.0.0.1", nil })
	idle := func() *socket {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, i := range p.idle[socketKey{s.port.Index, true}] {
			return i.socket
		}
		return nil
	}
	if answers, err := s.through(p, window, "10.0.0.2"); err != nil || len(answers) != 1 {
		t.Errorf("%d answers, %v", len(answers), err)
	}
	first := idle()
	if _, err := s.through(p, time.Millisecond, "10.0.0.2"); err != nil || first == nil || idle() != first {
		t.Errorf("the socket was not kept: %v", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.a.Do(func() error {
		return p.Ask(cancelled, s.port.Index, Target{Addr: netip.MustParseAddr("10.0.0.2")}, window, func(Answer) {})
	}); !errors.Is(err, context.Canceled) || idle() != first {
		t.Errorf("after an Ask that was cut short: %v, kept %v", err, idle() == first)
	}
	s.a.IP("link set dev eth0 down")
	if _, err := s.through(p, window, "10.0.0.2"); !errors.Is(err, ErrDown) || idle() != nil {
		t.Errorf("with the interface down: %v, kept %v", err, idle() != nil)
	}
	s.a.IP("link set dev eth0 up")
	if _, err := s.through(p, time.Millisecond, "10.0.0.2"); err != nil || idle() == nil || idle() == first {
		t.Errorf("with the interface up again: %v", err)
	}
}

// Asks that overlap use a socket each, and the next ones use the same again: opening
// and closing packet sockets ten times a second would cost more than all else.
func TestPoolKeepsWhatOverlaps(t *testing.T) {
	t.Parallel()
	s := newSegment(t)
	p := NewPool(func(netip.Addr, int) (netip.Addr, error) { return netip.MustParseAddr("10.0.0.1"), nil })
	key := socketKey{s.port.Index, true}
	overlap := func(n int) {
		t.Helper()
		var wg sync.WaitGroup
		for range n {
			wg.Go(func() {
				err := s.a.Do(func() error {
					return p.Ask(t.Context(), s.port.Index, Target{Addr: netip.MustParseAddr("10.0.0.9")}, 300*time.Millisecond, func(Answer) {})
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	overlap(5)
	kept := make(map[*socket]bool)
	for _, i := range p.idle[key] {
		kept[i.socket] = true
	}
	if len(kept) != 5 {
		t.Errorf("%d are kept of 5 that overlapped", len(kept))
	}
	overlap(5)
	for _, i := range p.idle[key] {
		if !kept[i.socket] {
			t.Error("a socket was opened although 5 were idle")
		}
	}
	overlap(maxKept + 3)
	if n := len(p.idle[key]); n != maxKept {
		t.Errorf("%d are kept, want %d", n, maxKept)
	}
	// What nobody has used for long is closed by the next one, whatever its device.
	old := p.idle[key]
	for i := range old[:maxKept-1] {
		old[i].since = time.Now().Add(-2 * maxIdle)
	}
	overlap(1)
	if n := len(p.idle[key]); n != 1 {
		t.Errorf("%d are kept for longer than %v", n-1, maxIdle)
	}
	if !old[0].closed() {
		t.Error("one that is not kept is not closed")
	}
	p.Close()
	overlap(2)
	if len(p.idle) != 0 {
		t.Errorf("%d devices have any after Close", len(p.idle))
	}
}
