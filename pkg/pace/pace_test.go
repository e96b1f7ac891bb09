package pace

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const (
	ms   = time.Millisecond
	eth0 = 2
	eth1 = 3
)

// log is what was sent, by device.
type log struct {
	mu   sync.Mutex
	sent map[int][]time.Time
}

func (l *log) note(device, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sent == nil {
		l.sent = make(map[int][]time.Time)
	}
	for range n {
		l.sent[device] = append(l.sent[device], time.Now())
	}
}

// most returns the most that were sent within any time of the given length.
func (l *log) most(device int, window time.Duration) (most int) {
	sent, from := l.sent[device], 0
	for i, at := range sent {
		for at.Sub(sent[from]) >= window {
			from++
		}
		most = max(most, i-from+1)
	}
	return most
}

// ask waits for so many turns, one after the other, and notes them.
func (l *log) ask(ctx context.Context, p *Pacer, device, turns int, first bool) error {
	for range turns {
		if err := p.Wait(ctx, device, 1, first); err != nil {
			return err
		}
		l.note(device, 1)
	}
	return nil
}

func TestEverySecondIsBounded(t *testing.T) {
	for seed := range uint64(50) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			var p Pacer
			var l log
			var wg sync.WaitGroup
			for range 200 {
				device, n, first, at := eth0+r.IntN(2), 1+r.IntN(3), r.IntN(4) == 0, time.Duration(r.IntN(20_000))*ms
				wg.Go(func() {
					time.Sleep(at)
					if err := p.Wait(t.Context(), device, n, first); err != nil {
						t.Error(err)
					}
					l.note(device, n)
				})
			}
			wg.Wait()
			for _, device := range []int{eth0, eth1} {
				if most := l.most(device, time.Second); most > PerSecond || most < PerSecond-2 {
					t.Errorf("seed %d: device %d has %d in a second, want %d at most, and nearly as many", seed, device, most, PerSecond)
				}
			}
		})
	}
}

// What leaves a little after its turn must not meet what is behind it.
func TestLateSenders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(1, 1))
		var p Pacer
		var l log
		var wg sync.WaitGroup
		for range 300 {
			if err := p.Wait(t.Context(), eth0, 1, false); err != nil {
				t.Fatal(err)
			}
			late := time.Duration(r.IntN(50)) * ms
			wg.Go(func() {
				time.Sleep(late)
				l.note(eth0, 1)
			})
		}
		wg.Wait()
		if most := l.most(eth0, time.Second); most > PerSecond {
			t.Errorf("%d in a second", most)
		}
	})
}

// Whatever waits leaves evenly, devices do not wait for each other, and nothing
// waits where nothing was sent.
func TestTurnsAreEven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pacer
		var l log
		var wg sync.WaitGroup
		begun := time.Now()
		for _, device := range []int{eth0, eth1} {
			wg.Go(func() { _ = l.ask(t.Context(), &p, device, 101, false) })
		}
		wg.Wait()
		for _, device := range []int{eth0, eth1} {
			if at := l.sent[device][0]; !at.Equal(begun) {
				t.Errorf("device %d: the first waited for %v", device, at.Sub(begun))
			}
			if most := l.most(device, second/PerSecond); most != 1 {
				t.Errorf("device %d: %d within %v", device, most, second/PerSecond)
			}
			if took := l.sent[device][100].Sub(begun); took != 10*second {
				t.Errorf("device %d: a hundred took %v, want %v", device, took, 10*second)
			}
		}
	})
}

// A thousand wait. One that goes first waits for a tenth of a second, and five for
// half of one: each place that becomes free is theirs.
func TestFirstGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pacer
		var l log
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() { _ = l.ask(ctx, &p, eth0, 1, false) })
		}
		time.Sleep(10 * time.Second)
		for _, n := range []int{1, 5} {
			begun := time.Now()
			if err := l.ask(t.Context(), &p, eth0, n, true); err != nil {
				t.Fatal(err)
			}
			if took, want := time.Since(begun), time.Duration(n)*second/PerSecond; took > want {
				t.Errorf("%d took %v, want %v at most", n, took, want)
			}
			time.Sleep(3 * time.Second)
		}
		cancel()
		wg.Wait()
		if most := l.most(eth0, time.Second); most > PerSecond {
			t.Errorf("%d in a second", most)
		}
	})
}

// However many want to go first, the others get their share of each second.
func TestTheRestDoesNotStarve(t *testing.T) {
	for _, n := range []int{1, reserve} {
		synctest.Test(t, func(t *testing.T) {
			var p Pacer
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
			defer cancel()
			var firsts, rest log
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() { _ = firsts.ask(ctx, &p, eth0, 1000, true) })
			}
			wg.Go(func() {
				for p.Wait(ctx, eth0, n, false) == nil {
					rest.note(eth0, n)
				}
			})
			wg.Wait()
			if got, want := len(rest.sent[eth0]), reserve*90; got < want {
				t.Errorf("%d at a time: %d turns in 100 s, want %d", n, got, want)
			}
			if got, want := len(firsts.sent[eth0]), (PerSecond-reserve)*90; got < want {
				t.Errorf("%d at a time: %d turns for those that go first, want %d", n, got, want)
			}
		})
	}
}

func TestCancelledWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pacer
		var l log
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range 500 {
			wg.Go(func() {
				if err := l.ask(ctx, &p, eth0, 1, i%2 == 0); err != nil && !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		cancel()
		begun := time.Now()
		wg.Wait()
		if took := time.Since(begun); took != 0 {
			t.Errorf("they ended after %v", took)
		}
		if p.Wait(ctx, eth0, 1, false) == nil {
			t.Error("a turn for one whose context was done before")
		}
		// They have taken no turns with them.
		time.Sleep(second)
		before := time.Now()
		if err := p.Wait(t.Context(), eth0, PerSecond-reserve, true); err != nil || time.Since(before) != 0 {
			t.Errorf("%v after %v", err, time.Since(before))
		}
	})
}

// More is allowed where more is needed, as evenly, and as soon as it is.
func TestSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pacer
		var l log
		begun := time.Now()
		time.AfterFunc(10*time.Second, func() { p.Set(eth0, 40) })
		time.AfterFunc(20*time.Second, func() { p.Set(eth0, 1) })
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := l.ask(ctx, &p, eth0, 10_000, false); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		var per [3]int
		for _, at := range l.sent[eth0] {
			per[at.Sub(begun)/(10*time.Second)]++
		}
		for i, want := range []int{95, 400, 95} {
			if per[i] < want-10 || per[i] > want+6 {
				t.Errorf("part %d has %d, want about %d", i, per[i], want)
			}
		}
		if most := l.most(eth0, second/42); most != 1 {
			t.Errorf("%d within %v", most, second/42)
		}
	})
}

func TestUnusedDevicesAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pacer
		for device := range 1000 {
			if err := p.Wait(t.Context(), device, 1, false); err != nil {
				t.Fatal(err)
			}
			p.Set(device, 1)
			time.Sleep(100 * ms)
		}
		if n := len(p.devices); n > 20 {
			t.Errorf("%d devices are remembered", n)
		}
		// One that is allowed more is not, until it is not any more.
		p.Set(7, 100)
		time.Sleep(second)
		_ = p.Wait(t.Context(), 8, 1, false)
		if p.devices[7] == nil {
			t.Error("what was set is forgotten")
		}
		p.Set(7, 0)
		_ = p.Wait(t.Context(), 9, 1, false)
		if p.devices[7] != nil {
			t.Error("a device is remembered that nobody uses")
		}
	})
}

// Turns that are spent are missing to those that wait, and to nobody later.
func TestSpend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pacer
		begun := time.Now()
		for range PerSecond + 3 {
			p.Spend(eth0)
		}
		if err := p.Wait(t.Context(), eth1, 1, false); err != nil || time.Since(begun) != 0 {
			t.Errorf("another device: %v after %v", err, time.Since(begun))
		}
		if err := p.Wait(t.Context(), eth0, 1, true); err != nil || time.Since(begun) != second {
			t.Errorf("one that goes first: %v after %v, want %v", err, time.Since(begun), second)
		}
		if err := p.Wait(t.Context(), eth0, 1, false); err != nil || time.Since(begun) != second*(PerSecond+3)/PerSecond {
			t.Errorf("one that does not: %v after %v, want %v", err, time.Since(begun), second*(PerSecond+3)/PerSecond)
		}
	})
}

// An n of more than the limit waits for an empty second and goes.
func TestMoreThanTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pacer
		if err := p.Wait(t.Context(), eth0, 1, false); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		for _, n := range []int{3 * PerSecond, 0} {
			if err := p.Wait(t.Context(), eth0, n, true); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(begun); took != second {
			t.Errorf("took %v, want %v", took, second)
		}
	})
}
