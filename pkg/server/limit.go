package server

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"time"
)

// maxConnections bounds the connections to one address: the ports are open to
// whoever reaches the node, and the memory of a DaemonSet is small.
const maxConnections = 64

// hearing is how long a connection may stay before it has to go for another:
// time for its request to come in. Without it a crowd that had gathered while the
// agent was busy would be accepted at one go, and a probe among it closed before its
// request was read.
const hearing = 10 * time.Millisecond

// limited is a listener with at most maxConnections connections. A new one takes
// the place of the oldest that is not being answered, so that clients who open
// connections and say nothing, or say it slowly, keep nobody out: neither a
// scrape, nor the probes by which the kubelet decides to restart the agent.
type limited struct {
	net.Listener

	mu    sync.Mutex
	conns []*conn // in the order of their coming
}

// listenLimited listens on a TCP address with that limit.
func listenLimited(ctx context.Context, address string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &limited{Listener: l}, nil
}

// conn is one of them.
type conn struct {
	net.Conn
	of        *limited
	came      time.Time
	answering bool // a request has been read, and the answer is being written
}

// Accept implements net.Listener.
func (l *limited) Accept() (net.Conn, error) {
	raw, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: raw, of: l}
	for yielded := false; ; {
		victim, wait := l.admit(c, time.Now())
		switch {
		case victim == nil:
			return c, nil
		case victim == c:
			_ = c.Close()
			return c, nil
		case wait > 0:
			<-time.After(wait) // the kernel queues new ones meanwhile
		case !yielded:
			// The time may have passed while the process was not running. There is
			// one Go thread: those who wait for it to read a request go first.
			runtime.Gosched()
			yielded = true
		default:
			_ = victim.Close()
		}
	}
}

// admit takes in a new connection, if there is room. If not it returns the one that
// has to go for it, and how long that may still stay; where all are being answered,
// it is the new one.
func (l *limited) admit(c *conn, now time.Time) (victim *conn, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.conns) < maxConnections {
		c.came = now
		l.conns = append(l.conns, c)
		return nil, 0
	}
	i := slices.IndexFunc(l.conns, func(c *conn) bool { return !c.answering })
	if i < 0 {
		return c, 0
	}
	return l.conns[i], l.conns[i].came.Add(hearing).Sub(now)
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.of.mu.Lock()
	c.of.conns = slices.DeleteFunc(c.of.conns, func(o *conn) bool { return o == c })
	c.of.mu.Unlock()
	return c.Conn.Close()
}

func (c *conn) answers(yes bool) {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.answering = yes
}

type connKey struct{}

// remember lets handlers find the connection of a request.
func remember(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	return context.WithValue(ctx, connKey{}, c)
}

// answered marks the connections of requests that h answers.
func answered(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(connKey{}).(*conn); ok {
			c.answers(true)
			defer c.answers(false)
		}
		h.ServeHTTP(w, r)
	})
}
