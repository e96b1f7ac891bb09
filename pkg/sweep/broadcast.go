package sweep

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/pace"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/shield"
)

// kernelTries is how often the kernel asks, by unicast, for an entry that it is left
// with: ucast_solicit.
const kernelTries = 3

// When the kernel asks: delayTime after an entry was used that is NUD_STALE
// (delay_first_probe_time), and again every retransTime (retrans_time_ms) as long as
// nobody answers.
const (
	delayTime   = 5 * time.Second
	retransTime = time.Second
)

// Broadcast verifies entries on uplinks by asking for them by broadcast and
// hearing every answer, so that it notices a holder that the entry does not name.
// It never moves an entry while the holder that the entry names answers, even if only
// to unicast: both hosts work as far as can be told, and to move an entry away from a
// host that works is an outage of the agent's own making. Such an entry counts as
// renewed in place, and the other host as one of several holders.
//
// Entries on other devices, those behind a bridge that answers for others, and all
// of them where CAP_NET_RAW is missing, are left to Fallback.
//
// Whatever is sent on an uplink, by the agent or by a kernel that it leaves an
// entry to, waits for its turn first. Requests on other devices need none: there is
// no switch behind those devices, and most have one neighbour.
type Broadcast struct {
	Table     Table
	Solicitor shield.Solicitor
	Pacer     *pace.Pacer
	Scope     *policy.Scope
	Timing    policy.Timing
	Fallback  Verifier
	Log       *slog.Logger
	// Answered, if not nil, is called with the round-trip time of each answer.
	Answered func(time.Duration)

	wg       sync.WaitGroup
	disabled atomic.Bool

	mu      sync.Mutex
	waiting map[int][]task // by device, in order; a sender is at work where there is any, or nil
	late    time.Time      // until when late answers are listened for, and a goroutine waits; zero: none does
}

// task is a job that waits for its turn.
type task struct {
	Job
	report func(*Job, Outcome)
}

// end reports what came of it.
func (t *task) end(o Outcome) { t.report(&t.Job, o) }

// Available reports whether broadcasts can be sent, as far as is known.
func (b *Broadcast) Available() bool { return !b.disabled.Load() }

// Wait implements Verifier.
func (b *Broadcast) Wait() {
	b.wg.Wait()
	b.Fallback.Wait()
}

// Verify implements Verifier, with one goroutine for each uplink on which entries
// wait, and one for each entry that has been asked for and waits for answers. The
// context must be the same in all calls.
func (b *Broadcast) Verify(ctx context.Context, jobs []Job, report func(*Job, Outcome)) {
	var others []Job
	b.mu.Lock()
	if b.waiting == nil {
		b.waiting = make(map[int][]task)
	}
	for _, j := range jobs {
		if !j.Link.Uplink {
			others = append(others, j)
			continue
		}
		device := j.Link.Index
		waiting, sending := b.waiting[device]
		b.waiting[device] = append(waiting, task{j, report})
		if !sending {
			b.wg.Go(func() { b.send(ctx, device) })
		}
	}
	b.mu.Unlock()
	b.Fallback.Verify(ctx, others, report)
}

// send asks for the entries that wait on a device, one in each turn. A turn that an
// entry no longer needs goes to the next one.
func (b *Broadcast) send(ctx context.Context, device int) {
	turn := false
	for t := b.pop(device); t != nil; t = b.pop(device) {
		if !turn {
			turn = b.Pacer.Wait(ctx, device, 1, false) == nil
		}
		if ctx.Err() != nil {
			t.end(Outcome{Method: ByBroadcast, Err: errChanged})
		} else if b.begin(ctx, t) {
			turn = false
		}
	}
}

// pop returns the next entry that waits on a device, or nil, after which its sender
// must end.
func (b *Broadcast) pop(device int) *task {
	b.mu.Lock()
	defer b.mu.Unlock()
	waiting := b.waiting[device]
	if len(waiting) == 0 {
		delete(b.waiting, device)
		return nil
	}
	t := waiting[0]
	waiting[0] = task{} // for the garbage collector
	b.waiting[device] = waiting[1:]
	return &t
}

// begin starts to ask for an entry whose turn has come, and reports whether that used
// the turn. The shield is raised now, and not before: it does not last for as long as
// an entry may wait.
func (b *Broadcast) begin(ctx context.Context, t *task) bool {
	if !b.Available() || t.Link.Suppresses {
		b.leave(ctx, t)
		return true
	}
	asker := &shield.Asker{
		Table: b.Table, Solicitor: b.Solicitor, Scope: b.Scope, Answered: b.answered,
		Window: shield.WindowFor(b.Timing.Lead), Patience: shield.PatienceFor(b.Timing.Lead),
		Pace: func(ctx context.Context, device int) error { return b.Pacer.Wait(ctx, device, 1, false) },
	}
	q := &shield.Inquiry{Key: t.Entry.Key, Link: &t.Link, NextHop: t.NextHop}
	if err := asker.Raise(q); err != nil {
		t.end(Outcome{Method: ByBroadcast, Err: err})
		return false
	}
	b.wg.Go(func() { b.ask(ctx, asker, q, t) })
	return true
}

// leave leaves an entry to the kernel. The turn was for what the kernel sends at once;
// what it sends later takes turns then. Wait does not wait for that.
func (b *Broadcast) leave(ctx context.Context, t *task) {
	b.Fallback.Verify(ctx, []Job{t.Job}, func(j *Job, o Outcome) {
		t.report(j, o)
		switch {
		case o.Err != nil:
		case o.Method == ByProbe:
			go b.spend(ctx, j.Entry.Key, retransTime, kernelTries-1)
		case o.Method == ByStale:
			go b.spend(ctx, j.Entry.Key, delayTime, kernelTries)
		}
	})
}

// spend takes a turn shortly before each of n requests of the kernel's for an entry, the
// first of which comes in the given time, as long as nothing has vouched for it.
func (b *Broadcast) spend(ctx context.Context, k neigh.Key, in time.Duration, n int) {
	in -= retransTime / 20
	for range n {
		if !pace.Sleep(ctx, in) {
			return
		}
		e, err := b.Table.Get(k)
		if err != nil || e.State != neigh.Delay && e.State != neigh.Probe || e.Confirmed < e.Updated {
			return
		}
		b.Pacer.Spend(k.Index)
		in = retransTime
	}
}

// answered passes on how long an answer took.
func (b *Broadcast) answered(r shield.Reply) {
	if b.Answered != nil {
		b.Answered(r.RTT)
	}
}

// ask asks for one entry, whose shield is up, reports what came of it, and has late
// answers dealt with.
func (b *Broadcast) ask(ctx context.Context, asker *shield.Asker, q *shield.Inquiry, t *task) {
	if moved := b.settle(ctx, asker, q, t); moved || ctx.Err() != nil {
		return
	}
	b.listen(ctx, shield.LateFor(asker.Window))
	err := asker.Late(q, func(l *shield.Late) {
		b.attend(ctx, func() {
			if holders := l.Attend(ctx); holders != nil {
				t.end(Outcome{Method: ByBroadcast, Holders: holders, Late: true})
			}
		})
	})
	if err != nil {
		b.Log.Debug("late answers are not heard", "address", q.Key.Addr, "err", err)
	}
}

// listen makes Wait wait for late answers for the given time.
func (b *Broadcast) listen(ctx context.Context, d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.late.IsZero() {
		b.wg.Go(func() {
			for left := b.left(ctx); left > 0; left = b.left(ctx) {
				pace.Sleep(ctx, left)
			}
		})
	}
	b.late = time.Now().Add(d) // each entry is listened for as long
}

// left returns how long late answers are still listened for.
func (b *Broadcast) left(ctx context.Context) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	left := time.Until(b.late)
	if ctx.Err() != nil || left <= 0 {
		left, b.late = 0, time.Time{}
	}
	return left
}

// attend runs deal, which deals with late answers to one inquiry, while they are listened for.
func (b *Broadcast) attend(ctx context.Context, deal func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.late.IsZero() && ctx.Err() == nil {
		b.wg.Go(deal)
	}
}

// settle asks for one entry, and reports what came of it. It returns whether the entry
// names another holder now, or it is not known who answers.
func (b *Broadcast) settle(ctx context.Context, asker *shield.Asker, q *shield.Inquiry, t *task) (moved bool) {
	if err := asker.Ask(ctx, q); err != nil && ctx.Err() == nil {
		b.warn(err)
	}
	switch {
	case q.Complete || q.IncumbentHeard():
		err := b.correct(ctx, asker, q)
		t.end(Outcome{Method: ByBroadcast, Err: err, Holders: slices.Clone(q.Holders)})
		h, ok := q.Holder()
		return ok && h != q.Incumbent.LLAddr || err != nil && !errors.Is(err, errUnanswered) && !errors.Is(err, errUndecided)
	case b.Pacer.Wait(ctx, q.Key.Index, 1, false) == nil:
		b.leave(ctx, t)
	default:
		// Half heard is not heard: the incumbent may have been about to answer.
		t.end(Outcome{Method: ByBroadcast, Err: errChanged})
	}
	return true
}

// correct makes the entry name the holder that the answers call for. Where they call for
// none, because nobody answered, or only others that there is no reason to believe, the
// entry is left to the kernel.
func (b *Broadcast) correct(ctx context.Context, asker *shield.Asker, q *shield.Inquiry) error {
	h, ok := q.Holder()
	if ok {
		if err := asker.Hold(q, h); err != nil {
			return err
		}
	}
	err := b.confirm(ctx, q)
	switch {
	case ok && errors.Is(err, errChanged):
		return nil // the kernel is verifying it already
	case ok || err != nil:
		return err
	case len(q.Holders) > 0:
		return errUndecided
	}
	return errUnanswered
}

// confirm has the kernel verify an entry by unicast now, in its turn, if nothing has
// vouched for it in time: the answers need not have reached the kernel, whose firewall may
// have dropped them, and shielding the entry again and again would keep the kernel from
// asking for ever. Any other entry that is not confirmed yet it verifies when NUD_DELAY is
// over.
func (b *Broadcast) confirm(ctx context.Context, q *shield.Inquiry) error {
	e, due, err := b.unconfirmed(q)
	if err == nil && !due && e.State == neigh.Delay {
		go b.spend(ctx, q.Key, delayTime-e.Updated, kernelTries)
	}
	if !due || b.Pacer.Wait(ctx, q.Key.Index, 1, false) != nil {
		return err
	}
	if _, due, err = b.unconfirmed(q); !due {
		return err
	}
	if err = b.Table.SetState(q.Key, neigh.Probe); err == nil {
		go b.spend(ctx, q.Key, retransTime, kernelTries-1)
	}
	return err
}

// unconfirmed reads the entry again, and reports whether nothing has vouched for it in
// time. Timing.Unconfirmed leaves out those whose link-layer address was never confirmed,
// or every new entry would be due. This one was asked for, and the kernel has heard no
// answer.
func (b *Broadcast) unconfirmed(q *shield.Inquiry) (e neigh.Entry, due bool, err error) {
	e, err = shield.Reread(b.Table, b.Scope, q.Key, q.Link, q.NextHop)
	return e, err == nil && e.Confirmed >= b.Timing.Threshold(), err
}

// warn logs why broadcasts failed. Where CAP_NET_RAW is missing it does so once, and no
// more are sent.
func (b *Broadcast) warn(err error) {
	if !errors.Is(err, neigh.ErrPermission) {
		b.Log.Debug("asking by broadcast failed, leaving it to the kernel", "err", err)
	} else if !b.disabled.Swap(true) {
		b.Log.Warn("CAP_NET_RAW is missing: entries are verified by the kernel's unicast alone, which believes an old holder that still answers")
	}
}
