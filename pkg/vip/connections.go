package vip

import (
	"maps"
	"slices"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

const (
	// unansweredFor is how long data may stay without an answer before the
	// server is suspect. The kernel of a frozen server still acknowledges it.
	unansweredFor = 3 * time.Second
	// echo is how much later than the last data received data must have been
	// sent to be a request. Clients send of their own accord in reply to what
	// they receive (HTTP/2 WINDOW_UPDATE and SETTINGS, RFC 9113 section 6), and
	// wait for nothing then. What is sent before anything was received is a
	// request: the ClientHello.
	echo = 100 * time.Millisecond
	// retransmits is how many timeouts in a row make an established connection
	// suspect: the first may be a lost packet. The first of SYN_SENT comes after
	// a second (RFC 6298 section 2).
	retransmits = 2
	// refusedFor is how long a refused attempt to connect is a reason for suspicion.
	// Clients try again within that time.
	refusedFor = 15 * time.Second
	// drops is how many connections have to end with their first request unanswered, while
	// nothing is received on any other, to be a reason for suspicion: a balancer without
	// a server behind it takes connections, and closes them after a second or two.
	drops = 3
)

// connections is what the connections of this host to one VIP say about it. It
// is pure: what sock_diag reports goes in.
type connections struct {
	known       map[uint64]*connection // by cookie
	established bool                   // there has been an established one since the last verdict
	patience    time.Time              // until when there need not be one
	progress    bool                   // something was received since the update before, on one that was known then: an impostor answers at first, too
	refused     time.Time              // when an attempt was refused last
	dropped     int                    // connections that ended with their first request unanswered, since anything was received on any
	tolerated   bool                   // and the server was found to serve all the same
}

// connection is what is remembered of one connection.
type connection struct {
	neigh.Socket
	unanswered time.Time // when the first data was sent that had no answer yet; zero: none
	excused    bool      // it was suspect, and the server was found to serve all the same
	sent       time.Time // when data was last sent
}

// update takes in the connections as they are now: one that is missing is gone. Of
// more than maxKnown, those that are known are kept: only they can show progress.
func (c *connections) update(now time.Time, sockets []neigh.Socket) {
	maps.DeleteFunc(c.known, func(cookie uint64, k *connection) bool {
		if slices.ContainsFunc(sockets, func(s neigh.Socket) bool { return s.Cookie == cookie }) {
			return false
		}
		if k.Received == 0 && !k.unanswered.IsZero() {
			c.dropped++
		}
		return true
	})
	if c.known == nil {
		c.known = make(map[uint64]*connection)
	}
	c.progress = false
	for i := range sockets {
		s := &sockets[i]
		c.established = c.established || s.Established
		k := c.known[s.Cookie]
		switch {
		case k != nil:
			c.progress = c.progress || s.Received > k.Received
		case len(c.known) >= maxKnown:
			continue
		default:
			k = &connection{}
			c.known[s.Cookie] = k
		}
		if s.Received > k.Received {
			c.dropped, c.tolerated = 0, false
		}
		k.update(now, s)
	}
}

func (k *connection) update(now time.Time, s *neigh.Socket) {
	sent := now.Add(-s.SinceSent)
	again := sent.Sub(k.sent) > echo // than when it was last looked at
	if s.Received != k.Received || s.Established != k.Established || k.excused && again && s.Established {
		k.unanswered, k.excused = time.Time{}, false
	}
	k.Socket, k.sent = *s, sent
	switch {
	case !s.Established || !waits(s):
		k.unanswered = time.Time{}
	case k.unanswered.IsZero() && !k.excused:
		k.unanswered = sent
	}
}

// waits reports whether data was sent that calls for an answer, and nothing was
// received since. The ClientHello leaves in the tick of the kernel's clock in which
// the connection was established: nothing but the count of bytes shows that it was sent.
func waits(s *neigh.Socket) bool {
	after := s.SinceReceived - s.SinceSent
	if s.Received == 0 {
		return after > 0 || s.Sent > 0
	}
	return after > echo
}

// suspect returns what makes one of the connections suspect, "" if nothing does.
func (c *connections) suspect(now time.Time) Reason {
	established := false
	for _, k := range c.known {
		established = established || k.Established
		if reason := k.suspect(now); reason != "" && !k.excused {
			return reason
		}
	}
	switch {
	case c.dropped >= drops && !c.tolerated:
		return RequestUnanswered
	case established || now.Before(c.patience):
		return ""
	case now.Sub(c.refused) < refusedFor:
		return AttemptRefused
	case c.established:
		return NoConnectionLeft
	}
	return ""
}

func (k *connection) suspect(now time.Time) Reason {
	switch {
	case !k.Established && k.Retransmits > 0:
		return AttemptUnanswered
	case k.Established && k.Retransmits >= retransmits:
		return Retransmits
	case !k.unanswered.IsZero() && now.Sub(k.unanswered) >= unansweredFor:
		return RequestUnanswered
	}
	return ""
}

// next returns when a connection becomes suspect if nothing is received on it
// until then; zero if there is no such time.
func (c *connections) next() (at time.Time) {
	for _, k := range c.known {
		if k.unanswered.IsZero() || k.excused {
			continue
		}
		if t := k.unanswered.Add(unansweredFor); at.IsZero() || t.Before(at) {
			at = t
		}
	}
	return at
}

// excuse notes that the server serves, whatever the connections look like. What
// they look like now is no reason for suspicion until one of them has changed.
func (c *connections) excuse(now time.Time) {
	c.established, c.refused, c.tolerated = false, time.Time{}, c.dropped >= drops
	for _, k := range c.known {
		c.established = c.established || k.Established
		k.excused = k.suspect(now) != ""
	}
}

// stuck reports whether nothing was received on a connection since the given time.
func stuck(s *neigh.Socket, now, since time.Time) bool {
	return !s.Established || now.Add(-s.SinceReceived).Before(since)
}

// made reports whether a connection was made in the given time, and nothing was received
// on it.
func made(s *neigh.Socket, now, since, until time.Time) bool {
	at := now.Add(-s.SinceReceived)
	return s.Established && s.Received == 0 && !at.Before(since) && at.Before(until)
}

// reconnecting notes that connections were closed, whose owners connect again
// within some time.
func (c *connections) reconnecting(now time.Time, within time.Duration) {
	*c = connections{established: c.established, patience: now.Add(within)}
}
