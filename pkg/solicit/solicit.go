// Package solicit asks a link for the link-layer address of protocol addresses,
// by ARP request (RFC 826) and IPv6 Neighbor Solicitation (RFC 4861), and
// reports every answer. Where the kernel's own resolution takes one answer,
// this sees all holders of an address: one, two that quarrel, or none.
//
// It works on packet sockets and leaves the neighbour table alone. The kernel
// sees the same answers, and does with them what it does with any: it updates
// an entry that exists, and makes none (arp_process in net/ipv4/arp.c with
// arp_accept 0, ndisc_recv_na in net/ipv6/ndisc.c).
//
// A Conn asks for any addresses, now and then, and a Pool of them overhears what comes
// later than an Ask listens (overhear.go). A Line (line.go) is for one that is
// asked for all the time, and hears it announced as well. SameHost tells two link-layer
// addresses of one host from two hosts, by a TCP connection.
//
// arp.go and nd.go are pure: bytes to values and back. filter.go is what the
// kernel runs on each frame, socket.go the only file that knows the socket.
package solicit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// What a caller can act on. The errors of Dial and Ask that are one of these
// wrap it, and the errno below it.
var (
	// ErrPermission: the namespace does not grant CAP_NET_RAW.
	ErrPermission = errors.New("not permitted")
	// ErrNotEthernet: the interface has no Ethernet addresses to ask for.
	ErrNotEthernet = errors.New("not an Ethernet interface")
	// ErrGone: the interface does not exist, or no longer exists.
	ErrGone = errors.New("interface is gone")
	// ErrDown: the interface is down.
	ErrDown = errors.New("interface is down")
	// ErrOverrun: answers came faster than they were taken, and the kernel
	// dropped some. Those that were reported are true, but there were more.
	ErrOverrun = errors.New("answers were lost")
)

// Target is one address to be asked for.
type Target struct {
	// Addr is the address whose holders are wanted. A zone is ignored.
	Addr netip.Addr
	// Source is the protocol address the solicitation comes from, of the same
	// family. It should be what the kernel would use: holders learn it, and
	// proxies and filters look at it. A Pool looks it up where it is the zero
	// value; a Conn needs it. Unspecified, it makes an ARP probe (RFC
	// 5227) or a solicitation as in duplicate address detection (RFC 4862
	// section 5.4.2): those leave no trace on the holder, but proxy ARP does
	// not answer, and a host that is about to take Addr would back off.
	Source netip.Addr
	// LLAddr is where the solicitation is sent. Nil asks everybody: broadcast,
	// or the solicited-node multicast group (RFC 4861 section 7.2.2).
	LLAddr net.HardwareAddr
}

// Answer is the claim of one host to hold Addr.
type Answer struct {
	Addr netip.Addr
	// LLAddr are the 6 bytes that the answer carries (ARP sender hardware
	// address, ND target link-layer address option); for a Neighbor
	// Advertisement without the option, the Ethernet source.
	LLAddr net.HardwareAddr
	// RTT is the time since just before the latest solicitation for Addr was
	// handed to the kernel, until the answer was read.
	RTT time.Duration
	// Solicited says that the answer is one to this host. Otherwise it is an
	// announcement to all that came within the window (gratuitous ARP reply,
	// unsolicited advertisement), or the answer to an ND solicitation without
	// a source. The kernel makes an entry NUD_REACHABLE on solicited answers
	// only. It reads an ARP reply's Ethernet destination, and so do we.
	Solicited bool
	// Override is the flag of a Neighbor Advertisement (RFC 4861 section 4.4).
	// Without it the kernel does not change an address it has.
	Override bool
}

// Unasked is the error of a Pool's Ask for targets that were not asked for, with
// what Sender said of each. All other targets of the Ask were asked for as usual.
type Unasked map[netip.Addr]error

func (u Unasked) Error() string {
	addrs := slices.SortedFunc(maps.Keys(u), netip.Addr.Compare)
	s := fmt.Sprintf("%s was not asked for: %v", addrs[0], u[addrs[0]])
	if len(addrs) > 1 {
		s += fmt.Sprintf(" (and so for %d others)", len(addrs)-1)
	}
	return s
}

// Conn asks on one interface. Its methods may be called by several goroutines.
type Conn struct {
	arp, nd *socket
	turn    chan struct{} // held by the one Ask that is listening
	closed  atomic.Bool
}

// Dial opens a Conn on the interface with this index, in the network namespace
// of the calling thread. It is used from any thread afterwards. The interface
// may be down. Nothing is sent before Ask.
//
// It opens one socket for each family: a socket for both would have to be one
// for all protocols, and have each packet in and out run through its filter.
func Dial(index int) (*Conn, error) {
	arp, err := open(index, arpProtocol())
	if err != nil {
		return nil, err
	}
	nd, err := open(index, ndProtocol())
	if err != nil {
		_ = arp.close()
		return nil, err
	}
	return &Conn{arp: arp, nd: nd, turn: make(chan struct{}, 1)}, nil
}

// Close closes the sockets and makes an Ask that is under way return an error
// that wraps net.ErrClosed. It takes some milliseconds: the kernel waits for
// all CPUs to be done with a packet socket (synchronize_net in packet_release).
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	return errors.Join(c.arp.close(), c.nd.close())
}

// Ask sends one solicitation for each target, all at once, and listens until
// the window has passed since the last was sent. It returns nil then, however
// few answered, and the error of ctx if that was done earlier.
//
// Each distinct (Addr, LLAddr) is reported once, when it is first heard, and
// once more if it was first heard in an announcement and then answers, or if its
// answer has the Override flag and the one before had not: Linux answers the kernel's
// own unicast solicitation without it. Of the
// holders of one Addr the first 64 are reported. What comes for an address not
// asked for, or before it was asked for, is dropped. ARP and ND cannot tell
// answers to one solicitation from late ones to the one before.
//
// answer is called by one goroutine at a time, which may be another one, and never
// after Ask has returned; while it runs, further answers queue in the kernel.
// It may cancel ctx or close the Conn, to end the Ask.
//
// A second Ask on the same Conn waits for the first, so answer must not call
// it. On any error of the interface Ask gives up at once: what was sent may
// still be answered, so no conclusion can be drawn from what was not reported.
//
// The kernel looks at ARP frames all the time the Conn is open, which costs
// nothing: what a call leaves unread, and a few frames after it, lie in the socket
// until the next call drops them. Looking at IPv6 packets cost about 80 ns for each that arrives, so that
// is done only while asking for IPv6 addresses, at the price of one RCU grace
// period (5 to 20 ms) before the first solicitation and one at the end.
func (c *Conn) Ask(ctx context.Context, targets []Target, window time.Duration, answer func(Answer)) error {
	for i := range targets {
		if err := targets[i].check(); err != nil {
			return fmt.Errorf("asking on %s: %w", c.arp.name, err)
		}
	}
	_, err := c.ask(ctx, targets, window, answer, func(*Target) error { return nil })
	return err
}

// ask is Ask for targets that may lack a Source. Just before each of them is
// asked for, address completes it; what that returns an error for is not asked
// for, and returned.
func (c *Conn) ask(ctx context.Context, targets []Target, window time.Duration, answer func(Answer), address func(*Target) error) (Unasked, error) {
	if len(targets) == 0 {
		return nil, nil
	}
	var mu sync.Mutex
	rounds := c.rounds(targets, func(a Answer) {
		mu.Lock()
		defer mu.Unlock()
		answer(a)
	})
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting to ask on %s: %w", c.arp.name, ctx.Err())
	}
	errs := make([]error, len(rounds))
	var wg sync.WaitGroup
	for i, r := range rounds[1:] {
		wg.Go(func() { errs[i+1] = r.run(ctx, window, address) })
	}
	errs[0] = rounds[0].run(ctx, window, address)
	wg.Wait()
	err := errors.Join(errs...)
	if err != nil && c.closed.Load() {
		return nil, fmt.Errorf("asking on %s: %w", c.arp.name, net.ErrClosed)
	}
	unasked := make(Unasked)
	for _, r := range rounds {
		maps.Copy(unasked, r.unasked)
	}
	return unasked, err
}

// rounds sorts the targets by family.
func (c *Conn) rounds(targets []Target, answer func(Answer)) []*round {
	arp := &round{socket: c.arp, answer: answer, asked: make(map[netip.Addr]*asked)}
	nd := &round{socket: c.nd, answer: answer, asked: make(map[netip.Addr]*asked)}
	for _, t := range targets {
		if t.Addr.Is4() {
			arp.add(t)
		} else {
			nd.add(t)
		}
	}
	var rounds []*round
	for _, r := range []*round{arp, nd} {
		if len(r.targets) > 0 {
			rounds = append(rounds, r)
		}
	}
	return rounds
}

// checkAddr says what is wrong with an address that cannot be asked for.
func checkAddr(a netip.Addr) error {
	if !a.IsValid() || a.Is4In6() || a.IsUnspecified() || a.IsMulticast() {
		return fmt.Errorf("%s is not an address that a neighbour holds", a)
	}
	return nil
}

// check says what is wrong with a target that cannot be asked for.
func (t *Target) check() error {
	if err := checkAddr(t.Addr); err != nil {
		return err
	}
	switch {
	case !t.Source.IsValid() || t.Source.Is4() != t.Addr.Is4() || t.Source.Is4In6() || t.Source.IsMulticast():
		return fmt.Errorf("cannot ask for %s from %s", t.Addr, t.Source)
	case t.LLAddr != nil && len(t.LLAddr) != len(lladdr{}):
		return fmt.Errorf("cannot ask %s for %s: %w", t.LLAddr, t.Addr, ErrNotEthernet)
	}
	return nil
}
