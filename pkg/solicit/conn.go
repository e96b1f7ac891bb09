package solicit

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"sync"
	"time"
)

// conn asks on one interface, once at a time.
type conn struct{ arp, nd *socket }

// dial opens a conn on the interface with this index, in the network namespace of the
// calling thread. It is used from any thread afterwards. The interface may be down.
//
// It opens one socket for each family: a socket for both would have to be one
// for all protocols, and have each packet in and out run through its filter.
func dial(index int) (*conn, error) {
	arp, err := open(index, arpProtocol())
	if err != nil {
		return nil, err
	}
	nd, err := open(index, ndProtocol())
	if err != nil {
		_ = arp.close()
		return nil, err
	}
	return &conn{arp, nd}, nil
}

// close closes the sockets. It takes some milliseconds: the kernel waits for all CPUs to
// be done with a packet socket (synchronize_net in packet_release).
func (c *conn) close() error { return errors.Join(c.arp.close(), c.nd.close()) }

// ask is Pool.Ask. Just before a target is asked for, complete adds what it lacks. The
// error is an Unasked where complete has failed for some, and nothing else has.
func (c *conn) ask(ctx context.Context, targets []Target, window time.Duration, answer func(Answer), complete func(*Target) error) error {
	if len(targets) == 0 {
		return nil
	}
	var mu sync.Mutex
	rounds := c.rounds(targets, func(a Answer) {
		mu.Lock()
		defer mu.Unlock()
		answer(a)
	})
	errs := make([]error, len(rounds))
	var wg sync.WaitGroup
	for i, r := range rounds[1:] {
		wg.Go(func() { errs[i+1] = r.run(ctx, window, complete) })
	}
	errs[0] = rounds[0].run(ctx, window, complete)
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	unasked := make(Unasked)
	for _, r := range rounds {
		maps.Copy(unasked, r.unasked)
	}
	if len(unasked) > 0 {
		return unasked
	}
	return nil
}

// rounds sorts the targets by family.
func (c *conn) rounds(targets []Target, answer func(Answer)) []*round {
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
