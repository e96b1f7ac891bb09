// Package shield asks for neighbour entries by broadcast, hears every answer,
// and keeps the answers from moving the entries.
//
// An ordinary answer moves an entry to the host that answers, whoever that is.
// While an entry carries traffic that must not happen just because somebody
// asked. So an entry is shielded first (Raise), which on IPv4 keeps the kernel
// from moving it for a second; and where that is not enough, because locktime
// is 0 or the protocol is Neighbor Discovery, which has none, the entry is put
// back: as soon as another has answered, and also if that answer comes late.
package shield

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/pace"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
)

const (
	// Tries is how often an entry that its holder does not answer for is asked
	// for. One answer may be lost, and another host is believed only once the
	// holder has missed them all.
	Tries = 3
	// Window is how long answers to one solicitation are collected: long enough
	// for a slow second holder.
	Window = 500 * time.Millisecond
	// lasts is how long after the shield was raised a solicitation may leave:
	// an answer to it must arrive within the kernel's locktime of 1 s.
	lasts = 800 * time.Millisecond
)

// Patience is for how long a holder must be silent before its entry is given to another
// that answers. Migrations and snapshots stop a virtual machine for 1 to 4 s, a router's
// failover takes as long, and a duplicate of the address would have the entry then for as
// long as it answers. The kernel asks by name for 8 s before it asks everybody
// (delay_first_probe_time, ucast_solicit).
const Patience = 8 * time.Second

// PatienceFor returns for how long a holder must be silent where an entry has to be done
// with within lead.
func PatienceFor(lead time.Duration) time.Duration { return min(Patience, lead*3/4) }

// WindowFor returns how long answers may be collected where an entry has to be done with
// within lead: short intervals leave less than Window.
func WindowFor(lead time.Duration) time.Duration { return min(Window, lead/(Tries+1)) }

// ErrChanged says that an entry, read again before it was touched, called for
// another verdict.
var ErrChanged = errors.New("entry changed meanwhile")

// Table is the kernel's neighbour table.
type Table interface {
	Get(k neigh.Key) (neigh.Entry, error)
	SetState(k neigh.Key, s neigh.State) error
	Use(k neigh.Key) error
	Give(k neigh.Key, lladdr neigh.LLAddr, flags neigh.Flags) error
}

// Question is an address to be asked for. The address to ask from is looked up as the
// solicitation is sent.
type Question struct {
	Addr netip.Addr
	// LLAddr is the one host that is asked. The zero value asks everybody.
	LLAddr neigh.LLAddr
}

// Reply is one answer to a Question.
type Reply struct {
	Addr   netip.Addr
	LLAddr neigh.LLAddr
	RTT    time.Duration
	// Override says that the kernel lets the answer change the link-layer address of
	// an entry: true for ARP, the O flag of a Neighbor Advertisement (RFC 4861
	// section 7.2.5).
	Override bool
}

// Solicitor asks for addresses on a device, by ARP requests and Neighbor
// Solicitations.
type Solicitor interface {
	// Ask sends one solicitation and hands every answer that arrives within window to
	// reply, one at a time. The error wraps neigh.ErrPermission where CAP_NET_RAW is
	// missing, and is that of ctx if it was done first; reply may be what ends it. After
	// any other error nothing is known of who did not answer.
	Ask(ctx context.Context, device int, q Question, window time.Duration, reply func(Reply)) error
	// Overhear hands what is heard of an address on a device to hear, one at a time, from
	// now until the given time. hear must not block. Nothing is sent.
	Overhear(device int, addr netip.Addr, until time.Time, hear func(Overheard)) error
}

// Inquiry is an entry that is asked for, and what has been heard of it.
type Inquiry struct {
	Key     neigh.Key
	Link    *neigh.Link
	NextHop bool // as policy.Scope.Decide takes it

	Incumbent neigh.Entry    // as it was read just before it was shielded
	Holders   []neigh.LLAddr // that answered, in the order of their first answers
	Complete  bool           // it was asked for as often as it takes: who was not heard is silent

	tries    int       // how often everybody was asked for it
	heard    []heard   // of each of Holders
	guarded  bool      // no answer may move it yet
	shielded time.Time // when its shield was raised last
}

// heard is what was heard of one holder.
type heard struct {
	tries    int // that it answered
	last     int // the latest of them
	override bool
}

// IncumbentHeard reports whether the holder that the entry names has answered.
func (q *Inquiry) IncumbentHeard() bool {
	return slices.Contains(q.Holders, q.Incumbent.LLAddr)
}

// Hear takes in one answer.
func (q *Inquiry) Hear(r Reply) {
	i := slices.Index(q.Holders, r.LLAddr)
	if i < 0 {
		i = len(q.Holders)
		q.Holders, q.heard = append(q.Holders, r.LLAddr), append(q.heard, heard{})
	}
	h := &q.heard[i]
	h.override = h.override || r.Override
	if h.tries == 0 || h.last != q.tries {
		h.tries, h.last = h.tries+1, q.tries
	}
}

// Holder returns which host the entry should name by the answers so far, and false where
// they do not decide: that is left to the kernel.
//
// The incumbent keeps the entry while it answers, even if only when it is asked by
// name. Another holder is given the entry if it alone has answered every try, and the
// incumbent none. Of Neighbor Advertisements, those with the Override flag beat those
// without, whichever came first: proxies and the holders of anycast addresses answer
// without it (RFC 4861 sections 7.2.4 and 7.2.7), and such an answer moves no valid
// entry (section 7.2.5; ndisc_recv_na, and NEIGH_UPDATE_F_WEAK_OVERRIDE in
// __neigh_update). So an incumbent that answers without it gives way to the one holder
// that answers with it.
func (q *Inquiry) Holder() (neigh.LLAddr, bool) {
	incumbent, other, others := -1, -1, 0
	for i, h := range q.Holders {
		switch {
		case h == q.Incumbent.LLAddr:
			incumbent = i
		case q.heard[i].override:
			other = i
			others++
		}
	}
	switch {
	case incumbent >= 0 && (others == 0 || q.heard[incumbent].override):
		return q.Incumbent.LLAddr, true
	case others == 1 && (incumbent >= 0 || q.Complete && q.heard[other].tries == q.tries):
		return q.Holders[other], true
	}
	return neigh.LLAddr{}, false
}

// Asker asks for entries under the shield.
type Asker struct {
	Table     Table
	Solicitor Solicitor
	Scope     *policy.Scope
	// Window is how long answers are collected; zero is the constant Window.
	Window time.Duration
	// Patience is over how long the tries are spread once others have answered and the
	// incumbent has not; zero: one follows the other.
	Patience time.Duration
	// Pace, if not nil, returns when another solicitation may be sent on the device, or
	// the error of ctx. It is called before each but the first: for that one, wait
	// before the shield is raised.
	Pace func(ctx context.Context, device int) error
	// Answered, if not nil, is called with each answer.
	Answered func(Reply)
}

// Raise reads the entry again and shields it.
func (a *Asker) Raise(q *Inquiry) (err error) {
	if q.Incumbent, err = Reread(a.Table, a.Scope, q.Key, q.Link, q.NextHop); err != nil {
		return err
	}
	q.shielded = time.Now()
	return Raise(a.Table, &q.Incumbent)
}

// Ask solicits for an entry whose shield is up, until its holder has answered or has
// had its tries.
//
// After each try but the last that somebody else answered, and the incumbent did not,
// the incumbent is asked by name. There are segments on which broadcasts do not reach
// a host that works (wireless isolation, ARP suppression), and another answers all of
// them. Of two that answer, the one that carries traffic keeps the entry: to move it
// is an outage that nobody would have had without the question. Then the next try
// waits, so that after the last one the incumbent has been silent for as long as
// Patience says.
func (a *Asker) Ask(ctx context.Context, q *Inquiry) error {
	q.guarded = true
	began := time.Now()
	for try := 0; try < Tries && !q.IncumbentHeard(); try++ {
		if try > 0 {
			if err := a.ready(ctx, q); err != nil {
				return err
			}
		}
		if err := a.AskOnce(ctx, q); err != nil {
			return err
		}
		if try == Tries-1 || len(q.Holders) == 0 || q.IncumbentHeard() {
			continue
		}
		if err := a.ready(ctx, q); err != nil {
			return err
		}
		answered, err := a.ask(ctx, q, q.Incumbent.LLAddr, func(r Reply) { a.hear(q, r) })
		if err != nil {
			return err
		}
		next := began.Add(a.Patience * time.Duration(try+1) / (Tries - 1))
		if !answered && !pace.Sleep(ctx, time.Until(next)) {
			return ctx.Err()
		}
	}
	q.Complete, q.guarded = true, false
	return nil
}

// AskOnce is one try of Ask.
func (a *Asker) AskOnce(ctx context.Context, q *Inquiry) error {
	q.tries++
	_, err := a.ask(ctx, q, neigh.LLAddr{}, func(r Reply) { a.hear(q, r) })
	return err
}

// ready waits until the entry may be asked for once more, and has its shield up then.
func (a *Asker) ready(ctx context.Context, q *Inquiry) error {
	if err := a.turn(ctx, q); err != nil {
		return err
	}
	if time.Since(q.shielded) > lasts {
		a.raiseAgain(q)
		q.shielded = time.Now()
	}
	return nil
}

// turn waits until the entry may be asked for once more.
func (a *Asker) turn(ctx context.Context, q *Inquiry) error {
	if a.Pace == nil {
		return nil
	}
	return a.Pace(ctx, q.Key.Index)
}

// ask sends one solicitation to everybody, or to one host, whose answer ends it. It
// reports whether that host has answered.
func (a *Asker) ask(ctx context.Context, q *Inquiry, host neigh.LLAddr, hear func(Reply)) (answered bool, err error) {
	asking, end := context.WithCancel(ctx)
	defer end()
	err = a.Solicitor.Ask(asking, q.Key.Index, Question{q.Key.Addr, host}, cmp.Or(a.Window, Window), func(r Reply) {
		if r.Addr != q.Key.Addr {
			return
		}
		if r.LLAddr == host {
			// Linux answers what is not multicast without the Override flag, whoever
			// it is (inc in ndisc_recv_ns): the flag says nothing then.
			answered, r.Override = true, true
			end()
		}
		hear(r)
	})
	if answered {
		err = nil
	}
	return answered, cmp.Or(err, ctx.Err())
}

// raiseAgain raises the shield of an entry that is still as it was. One that has moved
// between two tries may have been announced, and is not put back any more. In any case
// the entry is read once more when the answers are acted upon.
func (a *Asker) raiseAgain(q *Inquiry) {
	e, err := Reread(a.Table, a.Scope, q.Key, q.Link, q.NextHop)
	switch {
	case err != nil:
	case e.LLAddr == q.Incumbent.LLAddr:
		_ = Raise(a.Table, &e)
	default:
		q.guarded = false
	}
}

// hear takes in one answer. Where locktime is 0, and in Neighbor Discovery, which has
// none, the answer of another holder has moved the entry. The incumbent is put back at
// once while it has not answered and has tries left, and otherwise as soon as both have
// answered, if it is the one to hold the entry.
func (a *Asker) hear(q *Inquiry, r Reply) {
	if a.Answered != nil {
		a.Answered(r)
	}
	q.Hear(r)
	if !q.IncumbentHeard() {
		if q.guarded && a.moved(q) {
			_ = a.Hold(q, q.Incumbent.LLAddr)
		}
	} else if h, ok := q.Holder(); ok && len(q.Holders) > 1 {
		_ = a.Hold(q, h)
	}
}

// moved reports whether the entry names another host than the incumbent. One that the
// kernel has given up names nobody.
func (a *Asker) moved(q *Inquiry) bool {
	e, err := a.Table.Get(q.Key)
	return err == nil && e.State.Valid() && e.LLAddr != q.Incumbent.LLAddr
}

// Hold gives the entry to lladdr, unless it has it already. It returns ErrChanged where
// the entry has become somebody else's, or names a host that is neither the incumbent
// nor one that answered: that one was announced by gratuitous ARP, or written by an
// administrator, and is newer than what the inquiry knows.
func (a *Asker) Hold(q *Inquiry, lladdr neigh.LLAddr) error {
	e, err := a.Table.Get(q.Key)
	switch {
	case err != nil:
		return err
	case a.Scope.Decide(&e, q.Link, q.NextHop).Reason.Foreign():
		return ErrChanged
	case e.LLAddr == lladdr && e.State.Valid():
		return nil
	case e.State.Valid() && e.LLAddr != q.Incumbent.LLAddr && !slices.Contains(q.Holders, e.LLAddr):
		return ErrChanged
	}
	return a.Table.Give(e.Key, lladdr, e.Flags)
}

// Reread reads an entry again, just before it is touched: the kernel knows no
// compare-and-set. It returns ErrChanged where the entry is not (any more) one
// to be verified.
func Reread(t Table, scope *policy.Scope, k neigh.Key, link *neigh.Link, nextHop bool) (neigh.Entry, error) {
	e, err := t.Get(k)
	if err == nil && scope.Decide(&e, link, nextHop).Action != policy.Verify {
		err = ErrChanged
	}
	return e, err
}

// Raise sets e to NUD_STALE, and then uses it as a packet would: it goes to
// NUD_DELAY, from where the kernel verifies it by unicast unless something
// vouches for it within delay_first_probe_time (5 s; TCP does). Its used and
// updated ages restart. If no packet flows, the kernel lets it go NUD_STALE by
// itself after base_reachable_time, and it is idle.
//
// The change of state also restarts the kernel's locktime (1 s by default, ARP
// only), during which no ordinary answer moves the entry to another link-layer
// address (arp_process in net/ipv4/arp.c).
func Raise(t Table, e *neigh.Entry) error {
	var err error
	if e.State != neigh.Stale {
		err = t.SetState(e.Key, neigh.Stale)
		if errors.Is(err, neigh.ErrGone) || errors.Is(err, neigh.ErrNoAddress) || errors.Is(err, neigh.ErrTimeout) {
			return err
		}
	}
	// After any other error the entry may be NUD_STALE all the same: the kernel did
	// as it was told, and its answer was lost. It must not be left looking idle.
	return cmp.Or(err, t.Use(e.Key))
}
