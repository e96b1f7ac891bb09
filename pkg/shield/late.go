package shield

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

const (
	// lateWindows is for how many windows after an inquiry late answers are waited for:
	// two seconds, unless the windows are short. Linux as a proxy answers within 0.8 s
	// (proxy_delay), holders of IPv6 anycast addresses within 1 s
	// (MAX_ANYCAST_DELAY_TIME, RFC 4861 section 10). To correct an entry takes more
	// windows than that, so an entry that a later inquiry has corrected is not put back.
	lateWindows = 4
	// thereTries is how often the incumbent is asked whether it is still there.
	thereTries = 2
	// maxLate is how many answers and announcements may wait to be dealt with.
	maxLate = 16
	// maxUndone is how often in one inquiry an entry is put back from late answers: each
	// host has been asked so often.
	maxUndone = 2 * Tries
)

// LateFor returns for how long answers may come late that are waited for during window.
func LateFor(window time.Duration) time.Duration { return lateWindows * window }

// Answered reports whether an entry has been moved away from the incumbent by an answer
// to this host. Only that leaves it NUD_REACHABLE (arp_process, ndisc_recv_na): what was
// announced, or written by the agent, is in another state.
func Answered(e *neigh.Entry, incumbent neigh.LLAddr) bool {
	return e.LLAddr != incumbent && e.State == neigh.Reachable
}

// Overheard is what one host said of an address that it was not asked for just now.
type Overheard struct {
	Reply
	// Announced says that it is no answer to this host: gratuitous ARP, or an unsolicited
	// Neighbor Advertisement.
	Announced bool
}

// Late deals with the answers that come after an inquiry has waited for them. They are
// answers to this agent's own broadcast, and move an entry as others do: in Neighbor
// Discovery always, in ARP after locktime. Without the broadcast nobody would have
// answered, and the entry would be wrong until it is asked for again.
type Late struct {
	asker  *Asker
	q      *Inquiry
	heard  chan Overheard
	until  time.Time
	undone int
}

// Late listens for late answers to an inquiry that has been asked, and has moved nothing.
// The first has attend called, once; it must not block.
func (a *Asker) Late(q *Inquiry, attend func(*Late)) error {
	incumbent, until := q.Incumbent.LLAddr, time.Now().Add(LateFor(cmp.Or(a.Window, Window)))
	l := &Late{asker: a, q: q, heard: make(chan Overheard, maxLate), until: until}
	var once sync.Once
	hear := func(o Overheard) {
		if o.LLAddr == incumbent {
			return
		}
		select {
		case l.heard <- o:
		default:
		}
		once.Do(func() { attend(l) })
	}
	if err := a.Solicitor.Overhear(q.Key.Index, q.Key.Addr, until, hear); err != nil {
		return fmt.Errorf("listening for late answers for %s: %w", q.Key.Addr, err)
	}
	// It may have taken some milliseconds until anything is heard. What came before
	// shows in the entry.
	if q.Key.Addr.Is6() {
		if e, err := a.Table.Get(q.Key); err == nil && Answered(&e, incumbent) {
			hear(Overheard{Reply: Reply{Addr: q.Key.Addr, LLAddr: e.LLAddr, Override: true}})
		}
	}
	return nil
}

// Attend deals with late answers. It returns when no more are to be expected, ctx is
// done, or what the inquiry knows is outdated: another host has announced the address,
// or the incumbent has gone. It returns the holders of the inquiry if they have become
// more, and nil otherwise.
func (l *Late) Attend(ctx context.Context) []neigh.LLAddr {
	before := len(l.q.Holders)
	l.attend(ctx)
	if len(l.q.Holders) == before {
		return nil
	}
	return slices.Clone(l.q.Holders)
}

func (l *Late) attend(ctx context.Context) {
	timer := time.NewTimer(time.Until(l.until))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case o := <-l.heard:
			if o.Announced {
				return
			}
			l.q.Hear(o.Reply)
			if l.undo(ctx, o.LLAddr) != nil {
				return
			}
		}
	}
}

// undo gives the entry back to the incumbent where the late answer of another host has
// moved it. If the incumbent has gone, the other has the entry, and the error says so.
func (l *Late) undo(ctx context.Context, other neigh.LLAddr) error {
	a, q := l.asker, l.q
	incumbent := q.Incumbent.LLAddr
	if h, ok := q.Holder(); q.IncumbentHeard() && (!ok || h != incumbent) || l.undone == maxUndone {
		return nil
	}
	if e, err := a.Table.Get(q.Key); err != nil || e.LLAddr != other || !Answered(&e, incumbent) {
		return err
	}
	if err := a.Hold(q, incumbent); err != nil {
		return err
	}
	if l.undone++; l.undone > 1 {
		return nil // it was there a moment ago
	}
	for range thereTries {
		if err := a.turn(ctx, q); err != nil {
			return err
		}
		if there, err := a.ask(ctx, q, incumbent, q.Hear); there || err != nil {
			return err
		}
	}
	return cmp.Or(a.Hold(q, other), errGone)
}

// errGone says that the incumbent has gone.
var errGone = errors.New("the holder has gone")
