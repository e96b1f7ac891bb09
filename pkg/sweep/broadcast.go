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
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/shield"
)

const (
	// roundSize is how many entries are asked for at once, so that requests leave
	// within 100 ms of the shield.
	roundSize = 64
	// roundPause is the time between the beginning of a full round on a device and
	// that of the next, and less for one that is not full: at most 640 broadcasts
	// a second, which is enough for passLimit entries within the lead, the silent
	// ones included.
	roundPause = 100 * time.Millisecond
)

// Broadcast verifies entries on uplinks by asking for them by broadcast and
// hearing every answer, so that a holder is noticed that the entry does not
// name. It never moves an entry while the holder that the entry names answers.
//
// Entries on other devices, and all of them where CAP_NET_RAW is missing, are
// left to Fallback.
type Broadcast struct {
	Table     Table
	Solicitor shield.Solicitor
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
			start := b.turn(device, len(chunk))
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

// turn returns when the next round on the device may begin, of so many entries,
// and takes it.
func (b *Broadcast) turn(device, entries int) time.Time {
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
	b.next[device] = start.Add(roundPause * time.Duration(entries) / roundSize)
	return start
}

// inquiry is one job in a round.
type inquiry struct {
	shield.Inquiry
	job *Job
}

// round verifies a few entries of one device.
func (b *Broadcast) round(ctx context.Context, jobs []Job, report func(*Job, Outcome)) {
	asker := &shield.Asker{
		Table: b.Table, Solicitor: b.Solicitor, Scope: b.Scope, Answered: b.Answered,
		Window: shield.WindowFor(b.Timing.Lead),
	}
	inquiries := make([]inquiry, 0, len(jobs))
	for i := range jobs {
		j := &jobs[i]
		if ctx.Err() != nil {
			report(j, Outcome{Method: ByBroadcast, Err: errChanged})
			continue
		}
		inquiries = append(inquiries, inquiry{shield.Inquiry{Key: j.Entry.Key, Link: &j.Link, NextHop: j.NextHop}, j})
	}
	open := make(map[netip.Addr]*shield.Inquiry, len(inquiries))
	for i := range inquiries {
		q := &inquiries[i]
		if err := asker.Raise(&q.Inquiry); err != nil {
			report(q.job, Outcome{Method: ByBroadcast, Err: err})
			continue
		}
		open[q.Key.Addr] = &q.Inquiry
	}
	err := asker.Ask(ctx, jobs[0].Link.Index, open)
	if err != nil && ctx.Err() == nil {
		b.warn(err)
	}
	var others []Job // that could not be asked for
	for i := range inquiries {
		q := &inquiries[i]
		switch {
		case open[q.Key.Addr] == nil: // reported above
		case q.Complete || q.IncumbentHeard():
			report(q.job, Outcome{Method: ByBroadcast, Err: b.settle(asker, q), Holders: q.Holders})
		case ctx.Err() != nil:
			// Half heard is not heard: the incumbent may have been about to answer.
			report(q.job, Outcome{Method: ByBroadcast, Err: errChanged})
		default:
			if q.Unasked != nil {
				b.Log.Debug("no address to ask from, leaving it to the kernel", "address", q.Key.Addr, "err", q.Unasked)
			}
			others = append(others, *q.job)
		}
	}
	b.Fallback.Verify(ctx, others, report)
}

// settle makes the entry name the holder that the answers call for.
func (b *Broadcast) settle(asker *shield.Asker, q *inquiry) error {
	switch {
	case q.IncumbentHeard():
		return asker.Hold(&q.Inquiry, q.Incumbent.LLAddr)
	case len(q.Holders) > 0:
		return asker.Hold(&q.Inquiry, q.Holders[0])
	}
	return b.leave(q)
}

// leave leaves an entry that nobody answers for to the kernel, which verifies
// it by unicast when it is used. Where nothing else has vouched for the entry
// either, the kernel is made to do so now: shielding it again and again would
// keep it from that for ever.
func (b *Broadcast) leave(q *inquiry) error {
	e, err := shield.Reread(b.Table, b.Scope, q.Key, q.Link, q.NextHop)
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

// warn says why broadcasts failed, where CAP_NET_RAW is missing once and for all.
func (b *Broadcast) warn(err error) {
	if !errors.Is(err, neigh.ErrPermission) {
		b.Log.Debug("asking by broadcast failed, leaving it to the kernel", "err", err)
	} else if !b.disabled.Swap(true) {
		b.Log.Warn("CAP_NET_RAW is missing: entries are verified by the kernel's unicast alone, which believes an old holder that still answers")
	}
}
