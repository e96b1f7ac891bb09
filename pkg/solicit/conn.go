package solicit

import (
	"context"
	"errors"
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

// ask is Pool.Ask. Just before the target is asked for, complete adds what it lacks.
func (c *conn) ask(ctx context.Context, t Target, window time.Duration, answer func(Answer), complete func(*Target) error) error {
	t.Addr, t.Source = t.Addr.WithZone(""), t.Source.WithZone("")
	r := &round{socket: c.nd, target: t, answer: answer}
	if t.Addr.Is4() {
		r.socket = c.arp
	}
	return r.run(ctx, window, complete)
}
