package vip

import (
	"testing"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// sample is what one look at the connections finds.
type sample struct {
	after   time.Duration // the one before
	sockets []neigh.Socket
	excuse  bool   // a check has found the server serving
	want    Reason // why it is suspect, before it is excused
}

func TestSuspicion(t *testing.T) {
	const (
		none       = Reason("")
		unanswered = RequestUnanswered
		syn        = AttemptUnanswered
		retransmit = Retransmits
		noneLeft   = NoConnectionLeft
		sec        = time.Second
	)
	// socket is an established one that sent and received data so long ago.
	socket := func(sent, received time.Duration, bytes uint64) neigh.Socket {
		return neigh.Socket{Cookie: 1, Established: true, SinceSent: sent, SinceReceived: received, Received: bytes}
	}
	with := func(s neigh.Socket, change func(*neigh.Socket)) neigh.Socket {
		change(&s)
		return s
	}
	list := func(s ...neigh.Socket) []neigh.Socket { return s }
	retrans := func(n int) func(*neigh.Socket) { return func(s *neigh.Socket) { s.Retransmits = n } }
	// asked has sent its first request, answered had the answer, and silent sent nothing.
	silent := func(cookie uint64) neigh.Socket {
		return neigh.Socket{Cookie: cookie, Established: true, SinceSent: sec, SinceReceived: sec}
	}
	asked := func(cookie uint64) neigh.Socket {
		return with(silent(cookie), func(s *neigh.Socket) { s.Sent = 517 })
	}
	answered := func(cookie uint64) neigh.Socket {
		return with(asked(cookie), func(s *neigh.Socket) { s.Received = 2000 })
	}
	connecting := func(n int) neigh.Socket { return neigh.Socket{Cookie: 2, Retransmits: n} }

	tests := []struct {
		name    string
		samples []sample
	}{
		{"none at all", []sample{{0, nil, false, none}, {time.Hour, nil, false, none}}},
		{"idle for hours", []sample{{0, list(socket(time.Hour, time.Hour, 9)), false, none}}},
		{"answered at once", []sample{{0, list(socket(10*sec, 10*sec-ms, 9)), false, none}}},
		{"the last act was a WINDOW_UPDATE", []sample{
			{0, list(socket(sec, sec+20*ms, 9)), false, none},
			{time.Hour, list(socket(time.Hour+sec, time.Hour+sec+20*ms, 9)), false, none},
		}},
		{"first request, in the same tick as the handshake, not answered for 3 s", []sample{
			{0, list(with(socket(sec, sec, 0), func(s *neigh.Socket) { s.Sent = 517 })), false, none},
			{sec, list(with(socket(2*sec, 2*sec, 0), func(s *neigh.Socket) { s.Sent = 517 })), false, none},
			{sec, list(with(socket(3*sec, 3*sec, 0), func(s *neigh.Socket) { s.Sent = 517 })), false, unanswered},
		}},
		{"nothing was ever sent", []sample{{0, list(socket(time.Hour, time.Hour, 0)), false, none}}},
		{"request not answered for 3 s", []sample{
			{0, list(socket(sec, 10*sec, 9)), false, none},
			{sec, list(socket(2*sec, 11*sec, 9)), false, none},
			{sec, list(socket(3*sec, 12*sec, 9)), false, unanswered},
		}},
		{"further requests do not start the wait over", []sample{
			{0, list(socket(sec, 10*sec, 9)), false, none},
			{sec, list(socket(0, 11*sec, 9)), false, none},
			{sec, list(socket(0, 12*sec, 9)), false, unanswered},
		}},
		{"an answer does", []sample{
			{0, list(socket(sec, 10*sec, 9)), false, none},
			{sec, list(socket(ms, 500*ms, 10)), false, none}, // it was answered, and sent again
			{2 * sec, list(socket(2*sec+ms, 2*sec+500*ms, 10)), false, none},
			{sec, list(socket(3*sec+ms, 3*sec+500*ms, 10)), false, unanswered},
		}},
		{"a TLS handshake that nobody answers", []sample{ // measured on a frozen server: 4000 and 4008 ms
			{0, list(socket(10*ms, 18*ms, 0)), false, none},
			{4 * sec, list(socket(4*sec, 4*sec+8*ms, 0)), false, unanswered},
		}},
		{"one retransmission may be a lost packet", []sample{{0, list(with(socket(0, 0, 9), retrans(1))), false, none}}},
		{"two are none", []sample{{0, list(with(socket(0, 0, 9), retrans(2))), false, retransmit}}},
		{"connecting", []sample{{0, list(connecting(0)), false, none}}},
		{"connecting for over a second", []sample{{0, list(connecting(1)), false, syn}}},
		{"the only one is gone", []sample{
			{0, list(socket(sec, sec, 9)), false, none},
			{sec, nil, false, noneLeft},
			{sec, nil, true, noneLeft},
			{sec, nil, false, none},
		}},
		{"one is gone, and one connects", []sample{
			{0, list(socket(sec, sec, 9)), false, none},
			{sec, list(connecting(0)), false, noneLeft},
		}},
		{"excused until something is received", []sample{
			{0, list(socket(5*sec, 10*sec, 9)), true, unanswered},
			{time.Hour, list(socket(time.Hour+5*sec, time.Hour+10*sec, 9)), false, none},
			{sec, list(socket(5*sec, 6*sec, 10)), false, unanswered},
		}},
		{"excused, and then another request is sent", []sample{
			{0, list(socket(5*sec, 10*sec, 9)), true, unanswered},
			{10 * sec, list(socket(sec, 20*sec, 9)), false, none},
			{3 * sec, list(socket(4*sec, 23*sec, 9)), false, unanswered},
		}},
		{"they end unanswered, and others take their place", []sample{
			{0, list(asked(1), asked(2)), false, none},
			{2 * sec, list(asked(3), asked(4)), false, none},
			{2 * sec, list(asked(5), asked(6)), true, unanswered},
			{2 * sec, list(asked(7), asked(8)), false, none}, // as before, and the server serves
			{2 * sec, list(asked(9), answered(10)), false, none},
			{2 * sec, list(asked(11)), false, none},
			{2 * sec, list(asked(12)), false, none},
			{2 * sec, list(asked(13)), false, unanswered},
		}},
		{"they end unanswered, and one is answered now and then", []sample{
			{0, list(asked(1), asked(2)), false, none},
			{2 * sec, list(asked(3), asked(4)), false, none},
			{2 * sec, list(asked(5), answered(6)), false, none},
			{2 * sec, list(asked(7), asked(8)), false, none},
			{2 * sec, list(answered(9), asked(10)), false, none},
		}},
		{"they end unanswered, and one that is old is answered", []sample{
			{0, list(asked(1), asked(2), with(socket(0, 0, 9), func(s *neigh.Socket) { s.Cookie = 99 })), false, none},
			{2 * sec, list(asked(3), asked(4), with(socket(0, 0, 10), func(s *neigh.Socket) { s.Cookie = 99 })), false, none},
			{2 * sec, list(asked(5), asked(6), with(socket(0, 0, 11), func(s *neigh.Socket) { s.Cookie = 99 })), false, none},
			{2 * sec, list(asked(7), asked(8), with(socket(0, 0, 12), func(s *neigh.Socket) { s.Cookie = 99 })), false, none},
		}},
		{"clients that connect, and ask for nothing", []sample{
			{0, list(silent(1), silent(2)), false, none},
			{2 * sec, list(silent(3), silent(4)), false, none},
			{2 * sec, list(silent(5), silent(6)), false, none},
			{2 * sec, list(silent(7), silent(8)), false, none},
		}},
		{"a server that closes idle connections", []sample{
			{0, list(answered(1), answered(2)), false, none},
			{2 * sec, list(answered(3), answered(4)), false, none},
			{2 * sec, list(answered(5), answered(6)), false, none},
		}},
		{"an excuse is for one", []sample{
			{0, list(socket(5*sec, 10*sec, 9), connecting(0)), true, unanswered},
			{2 * sec, list(socket(7*sec, 12*sec, 9), connecting(1)), false, syn},
		}},
		{"an excused connection that connects at last", []sample{
			{0, list(connecting(1)), true, syn},
			{sec, list(with(socket(0, 0, 5), func(s *neigh.Socket) { s.Cookie = 2 })), false, none},
			{4 * sec, list(with(socket(2*sec, 4*sec, 5), func(s *neigh.Socket) { s.Cookie = 2 })), false, none},
			{sec, list(with(socket(3*sec, 5*sec, 5), func(s *neigh.Socket) { s.Cookie = 2 })), false, unanswered},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var c connections
			now := time.Unix(1e9, 0)
			for i, s := range tt.samples {
				now = now.Add(s.after)
				c.update(now, s.sockets)
				if got := c.suspect(now); got != s.want {
					t.Errorf("look %d: %q, want %q", i, got, s.want)
				}
				if s.excuse {
					c.excuse(now)
				}
			}
		})
	}
}

func TestNextSuspicion(t *testing.T) {
	now := time.Unix(1e9, 0)
	socket := func(cookie uint64, sent time.Duration) neigh.Socket {
		return neigh.Socket{Cookie: cookie, Established: true, SinceSent: sent, SinceReceived: time.Minute, Received: 1}
	}
	var c connections
	if at := c.next(); !at.IsZero() {
		t.Errorf("%v with no connection", at)
	}
	c.update(now, []neigh.Socket{socket(1, time.Minute), socket(2, time.Second), socket(3, 2*time.Second)})
	if want := now.Add(time.Second); !c.next().Equal(want) {
		t.Errorf("in %v, want it when the first becomes suspect, in 1s", c.next().Sub(now))
	}
	c.excuse(now.Add(time.Second))
	if want := now.Add(2 * time.Second); !c.next().Equal(want) {
		t.Errorf("in %v, want the one that is not excused, in 2s", c.next().Sub(now))
	}
}

// However many connections there are, few are looked at.
func TestKnownConnectionsAreBounded(t *testing.T) {
	var many []neigh.Socket
	for i := range uint64(1000) {
		many = append(many, neigh.Socket{Cookie: i, Established: true})
	}
	var c connections
	for range 3 {
		if c.update(time.Unix(1e9, 0), many); len(c.known) != maxKnown {
			t.Fatalf("%d known, want %d", len(c.known), maxKnown)
		}
	}
}
