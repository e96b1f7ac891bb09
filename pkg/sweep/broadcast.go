package sweep

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
)

const (
	// answerWindow is how long answers to one solicitation are collected: long
	// enough for a slow second holder. Short intervals leave less.
	answerWindow = 500 * time.Millisecond
	// tries is how often an entry that nobody answers for is asked for.
	tries = 3
	// shieldAge is how long after the shield was raised a solicitation may
	// leave: an answer to it must arrive within the kernel's locktime of 1 s.
	shieldAge = 800 * time.Millisecond
	// roundSize is how many entries are asked for at once, so that requests leave
	// within 100 ms of the shield.
	roundSize = 64
	// roundPause is the time between the beginnings of two rounds on a device:
	// at most 640 broadcasts a second, which is enough for passLimit entries
	// within the lead, the silent ones included.
	roundPause = 100 * time.Millisecond
)

// Question is an address to be asked for by broadcast, and the address to ask
// from.
type Question struct{ Addr, Source netip.Addr }

// Reply is one answer to a Question.
type Reply struct {
	Addr   netip.Addr
	LLAddr neigh.LLAddr
	RTT    time.Duration
}

// Solicitor asks for addresses on a device, by broadcast ARP requests and
// multicast Neighbor Solicitations.
type Solicitor interface {
	// Ask sends one solicitation for each question and hands every answer that
	// arrives within window to reply, one at a time. The error
	// wraps neigh.ErrPermission where CAP_NET_RAW is missing.
	Ask(ctx context.Context, device int, questions []Question, window time.Duration, reply func(Reply)) error
}

// Broadcast verifies entries on uplinks by asking for them by broadcast and
// hearing every answer, so that a holder is noticed that the entry does not
// name. It never moves an entry while the holder that the entry names answers.
//
// Entries on other devices, and all of them where CAP_NET_RAW is missing, are
// left to Fallback.
type Broadcast struct {
	Table     Table
	Solicitor Solicitor
	Scope     *policy.Scope
	Timing    policy.Timing
	Fallback  Verifier
	Log       *slog.Logger
	// Answered, if not nil, is called with the round-trip time of each answer.
	Answered func(time.Duration)

	wg       sync.WaitGroup
	disabled atomic.Bool

	mu   sync.Mutex
	next map[int]time.Time // when the next round on a device may begin
}

// Available reports whether broadcasts can be sent, as far as is known.
func (b *Broadcast) Available() bool { return !b.disabled.Load() }

// Wait implements Verifier.
func (b *Broadcast) Wait() {
	b.wg.Wait()
	b.Fallback.Wait()
}

// Verify implements Verifier: one goroutine for each round.
func (b *Broadcast) Verify(ctx context.Context, jobs []Job, report func(*Job, Outcome)) {
	byLink := make(map[int][]Job)
	var others []Job
	for i := range jobs {
		if jobs[i].Link.Uplink && b.Available() {
			byLink[jobs[i].Link.Index] = append(byLink[jobs[i].Link.Index], jobs[i])
		} else {
			others = append(others, jobs[i])
		}
	}
	for device, jobs := range byLink {
		for chunk := range slices.Chunk(jobs, roundSize) {
			start := b.turn(device)
			b.wg.Go(func() {
				sleep(ctx, time.Until(start))
				if b.Available() {
					b.round(ctx, chunk, report)
				} else {
					b.Fallback.Verify(ctx, chunk, report)
				}
			})
		}
	}
	b.Fallback.Verify(ctx, others, report)
}

// turn returns when the next round on the device may begin, and takes it.
func (b *Broadcast) turn(device int) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	start := time.Now()
	if next := b.next[device]; next.After(start) {
		start = next
	}
	if b.next == nil {
		b.next = make(map[int]time.Time)
	}
	for d, next := range b.next { // devices come and go
		if time.Since(next) > time.Minute {
			delete(b.next, d)
		}
	}
	b.next[device] = start.Add(roundPause)
	return start
}

// inquiry is one entry in a round.
type inquiry struct {
	job       *Job
	incumbent neigh.Entry // as read just before it was shielded
	source    netip.Addr
	holders   []neigh.LLAddr // in the order of their answers
	asked     bool           // as often as it takes: what was not heard is silent
}

// incumbentHeard reports whether the holder that the entry names has answered.
func (q *inquiry) incumbentHeard() bool {
	return slices.Contains(q.holders, q.incumbent.LLAddr)
}

// round verifies a few entries of one device.
func (b *Broadcast) round(ctx context.Context, jobs []Job, report func(*Job, Outcome)) {
	open := make(map[netip.Addr]*inquiry, len(jobs))
	var others []Job // that cannot be asked for
	for i := range jobs {
		j := &jobs[i]
		source, err := b.Table.Source(j.Entry.Key)
		switch {
		case ctx.Err() != nil:
			report(j, Outcome{Method: ByBroadcast, Err: errChanged})
		case err != nil:
			b.Log.Debug("no address to ask from, leaving it to the kernel", "address", j.Entry.Addr, "err", err)
			others = append(others, *j)
		default:
			open[j.Entry.Addr] = &inquiry{job: j, source: source}
		}
	}
	for addr, q := range open {
		var err error
		if q.incumbent, err = reread(b.Table, b.Scope, q.job); err == nil {
			err = shield(b.Table, &q.incumbent)
		}
		if err != nil {
			report(q.job, Outcome{Method: ByBroadcast, Err: err})
			delete(open, addr)
		}
	}
	err := b.ask(ctx, jobs[0].Link.Index, open)
	if err != nil && ctx.Err() == nil {
		b.warn(err)
	}
	for _, q := range open {
		switch {
		case q.asked || q.incumbentHeard():
			report(q.job, Outcome{Method: ByBroadcast, Err: b.settle(q), Holders: q.holders})
		case ctx.Err() != nil:
			// Half heard is not heard: the incumbent may have been about to answer.
			report(q.job, Outcome{Method: ByBroadcast, Err: errChanged})
		default:
			others = append(others, *q.job)
		}
	}
	b.Fallback.Verify(ctx, others, report)
}

// ask solicits until the incumbents have answered, or have had their tries. One
// answer of theirs may be lost: another holder is believed only once the
// incumbent has missed them all.
func (b *Broadcast) ask(ctx context.Context, device int, open map[netip.Addr]*inquiry) error {
	shielded := time.Now()
	for try := range tries {
		var questions []Question
		for addr, q := range open {
			if q.incumbentHeard() {
				continue
			}
			if try > 0 && time.Since(shielded) > shieldAge {
				b.shieldAgain(q)
			}
			questions = append(questions, Question{Addr: addr, Source: q.source})
		}
		if len(questions) == 0 {
			break
		}
		if try > 0 && time.Since(shielded) > shieldAge {
			shielded = time.Now()
		}
		window := min(answerWindow, b.Timing.Lead/(tries+1))
		err := b.Solicitor.Ask(ctx, device, questions, window, func(r Reply) {
			if q := open[r.Addr]; q != nil {
				b.hear(q, r)
			}
		})
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
	}
	for _, q := range open {
		q.asked = true
	}
	return nil
}

// shieldAgain raises the shield of an entry that is still as it was. Whatever
// it finds, the entry is looked at once more when the round is settled.
func (b *Broadcast) shieldAgain(q *inquiry) {
	e, err := reread(b.Table, b.Scope, q.job)
	if err == nil && e.LLAddr == q.incumbent.LLAddr {
		_ = shield(b.Table, &e)
	}
}

// hear takes in one answer. Where locktime is 0, and for Neighbor Discovery,
// which has none, the answer of another holder has moved the entry: as soon as
// both have answered, the incumbent is put back.
func (b *Broadcast) hear(q *inquiry, r Reply) {
	if b.Answered != nil {
		b.Answered(r.RTT)
	}
	if !slices.Contains(q.holders, r.LLAddr) {
		q.holders = append(q.holders, r.LLAddr)
	}
	if len(q.holders) > 1 && q.incumbentHeard() {
		_ = b.hold(q, q.incumbent.LLAddr)
	}
}

// settle makes the entry name the holder that the answers call for.
func (b *Broadcast) settle(q *inquiry) error {
	switch {
	case q.incumbentHeard():
		return b.hold(q, q.incumbent.LLAddr)
	case len(q.holders) > 0:
		return b.hold(q, q.holders[0])
	}
	return b.leave(q)
}

// leave leaves an entry that nobody answers for to the kernel, which verifies
// it by unicast when it is used. Where nothing else has vouched for the entry
// either, the kernel is made to do so now: shielding it again and again would
// keep it from that for ever.
func (b *Broadcast) leave(q *inquiry) error {
	e, err := reread(b.Table, b.Scope, q.job)
	if err != nil {
		return err
	}
	if b.Timing.Overdue(&e, neigh.Confirmed) {
		if err := b.Table.SetState(e.Key, neigh.Probe); err != nil {
			return err
		}
	}
	return errUnanswered
}

// hold writes lladdr into the entry, unless it is there already, or the entry
// has become somebody else's. It undoes what an answer to this round did, and
// nothing else: an address that neither was there nor answered has been
// announced meanwhile, by gratuitous ARP or by an administrator, and is newer
// than what the round knows.
func (b *Broadcast) hold(q *inquiry, lladdr neigh.LLAddr) error {
	e, err := b.Table.Get(q.job.Entry.Key)
	switch {
	case err != nil:
		return err
	case b.Scope.Decide(&e, &q.job.Link, q.job.NextHop).Reason.Foreign():
		return errChanged
	case e.LLAddr == lladdr && e.State.Valid():
		return nil
	case e.State.Valid() && e.LLAddr != q.incumbent.LLAddr && !slices.Contains(q.holders, e.LLAddr):
		return errChanged
	}
	return b.Table.Replace(e.Key, lladdr, e.Flags)
}

// warn says why broadcasts failed, where CAP_NET_RAW is missing once and for all.
func (b *Broadcast) warn(err error) {
	if !errors.Is(err, neigh.ErrPermission) {
		b.Log.Debug("asking by broadcast failed, leaving it to the kernel", "err", err)
	} else if !b.disabled.Swap(true) {
		b.Log.Warn("CAP_NET_RAW is missing: entries are verified by the kernel's unicast alone, which believes an old holder that still answers")
	}
}
