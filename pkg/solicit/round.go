package solicit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/net/bpf"
)

const (
	// maxHolders bounds the memory that a flood of answers for one address can
	// take, and how often a caller is called.
	maxHolders = 64

	// maxFrame is longer than any answer: ND is not fragmented (RFC 6980), and
	// longer frames than the usual MTU have no reason to be an advertisement.
	maxFrame = 2048
)

// lladdr is an Ethernet address.
type lladdr [6]byte

var broadcast = lladdr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// header is the Ethernet header of a received frame, as far as answers need it.
type header struct {
	source lladdr
	toUs   bool // unicast to this interface
}

// claim is what an answer says, whether it was asked for or not.
type claim struct {
	addr      netip.Addr
	lladdr    lladdr
	solicited bool
	override  bool // ND only

	// Of ARP only: it asks others, and is no answer; it is from and for one address, by
	// which a host announces it, even if only to one host (RFC 5227 section 3;
	// arp_is_garp).
	request, gratuitous bool
}

// namesHost reports whether a host can have the claim's link-layer address.
func (c *claim) namesHost() bool { return c.lladdr != (lladdr{}) && c.lladdr != broadcast }

// answer returns what to report of the claim.
func (c *claim) answer(rtt time.Duration) Answer {
	return Answer{
		Addr:      c.addr,
		LLAddr:    net.HardwareAddr(slices.Clone(c.lladdr[:])),
		RTT:       rtt,
		Solicited: c.solicited,
		Override:  c.override,
	}
}

// protocol is one of ARP and ND.
type protocol struct {
	etherType uint16
	filter    []bpf.Instruction
	// solicitation appends the request for t to b, and returns it with the
	// Ethernet destination it has when everybody is asked.
	solicitation func(b []byte, own lladdr, t *Target) ([]byte, lladdr)
	// parse reports false for what is no valid answer.
	parse func(b []byte, h header) (claim, bool)
	// busy says that other packets than solicitations and answers have the
	// EtherType, so that listening costs something.
	busy bool
}

// round is one Ask.
type round struct {
	asked
	socket *socket
	target Target
	answer func(Answer)
	asks   bool // who asks others from the address is reported as well
}

// asked is what is known about an address that was asked for.
type asked struct {
	sent    time.Time // when it was asked for
	holders []reported
}

// reported is the most that was reported of a holder.
type reported struct {
	lladdr
	solicited, override bool
}

// run asks. Just before the target is asked for, complete adds what it lacks.
func (r *round) run(ctx context.Context, window time.Duration, complete func(*Target) error) error {
	s := r.socket
	own, err := s.listen()
	if err != nil {
		return err
	}
	defer s.rest()
	defer s.abortOn(ctx)()
	if ctx.Err() == nil {
		err = r.send(own, complete)
	}
	if ctx.Err() == nil && err == nil {
		err = r.collect(ctx, time.Now().Add(window))
	}
	if ctx.Err() != nil {
		return fmt.Errorf("asking on %s: %w", s.name, ctx.Err())
	}
	return errors.Join(err, s.overrun())
}

// send sends the solicitation.
func (r *round) send(own lladdr, complete func(*Target) error) error {
	t := &r.target
	if err := complete(t); err != nil {
		return fmt.Errorf("%s was not asked for: %w", t.Addr, err)
	}
	frame, to := r.socket.frame(own, t)
	r.sent = time.Now()
	if err := r.socket.send(frame, to); err != nil {
		return fmt.Errorf("asking for %s: %w", t.Addr, err)
	}
	return nil
}

// frame returns the solicitation for t, valid until the next call, and its Ethernet
// destination.
func (s *socket) frame(own lladdr, t *Target) ([]byte, lladdr) {
	frame, to := s.solicitation(s.out[:0], own, t)
	s.out = frame
	if t.LLAddr != nil {
		to = lladdr(t.LLAddr)
	}
	return frame, to
}

// collect reads answers until the deadline, or until the socket is aborted.
func (r *round) collect(ctx context.Context, deadline time.Time) error {
	if err := r.socket.readUntil(deadline); err != nil {
		return err
	}
	for {
		if ctx.Err() != nil {
			return ctx.Err() // by the callback, or just before, and readUntil undid the abort
		}
		b, h, err := r.socket.receive()
		switch now := time.Now(); {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case err != nil:
			return err
		case now.After(deadline):
			return nil // a flood keeps the socket readable for ever
		default:
			r.handle(b, h, now)
		}
	}
}

// handle takes what the frame says, and reports it if it was asked for and is new.
func (r *round) handle(b []byte, h header, now time.Time) {
	c, ok := r.socket.parse(b, h)
	if !ok || c.addr != r.target.Addr || c.request && !r.asks {
		return
	}
	if answer, ok := r.take(&c, now); ok {
		r.answer(answer)
	}
}

// take returns what to report of a claim that was read at the time, and whether it is
// new.
func (a *asked) take(c *claim, now time.Time) (Answer, bool) {
	if !c.namesHost() {
		return Answer{}, false
	}
	i := slices.IndexFunc(a.holders, func(r reported) bool { return r.lladdr == c.lladdr })
	switch {
	case i >= 0:
		was := &a.holders[i]
		more := c.solicited && !was.solicited || c.override && !was.override && (c.solicited || !was.solicited)
		if !more {
			return Answer{}, false
		}
		was.solicited, was.override = c.solicited, c.override
	case len(a.holders) >= maxHolders:
		return Answer{}, false
	default:
		a.holders = append(a.holders, reported{c.lladdr, c.solicited, c.override})
	}
	return c.answer(now.Sub(a.sent)), true
}
