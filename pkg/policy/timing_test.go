package policy

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

func TestNewTiming(t *testing.T) {
	const ms = time.Millisecond
	tests := []struct {
		interval, scanPeriod   time.Duration
		lead, grace, threshold time.Duration
	}{
		{300 * time.Second, 5 * time.Second, 18500 * ms, 10 * time.Second, 281500 * ms},
		{60 * time.Second, time.Second, 6500 * ms, 2 * time.Second, 53500 * ms},
		{24 * time.Hour, 15 * time.Second, 48500 * ms, 30 * time.Second, 24*time.Hour - 48500*ms},
		{6 * time.Second, 100 * ms, 3 * time.Second, 200 * ms, 3 * time.Second}, // no room for the kernel's verdict
		{time.Second, 20 * ms, 500 * ms, 100 * ms, 500 * ms},                    // a scan may take longer than its period
	}
	for _, tt := range tests {
		t.Run(tt.interval.String(), func(t *testing.T) {
			got := NewTiming(tt.interval, tt.scanPeriod)
			if want := (Timing{tt.interval, tt.lead, tt.grace}); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			if got.Threshold() != tt.threshold {
				t.Errorf("threshold %v, want %v", got.Threshold(), tt.threshold)
			}
		})
	}
}

// What the sweep relies on, for every interval that may be asked for.
func TestTimingHoldsForEveryInterval(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	check := func(interval time.Duration) {
		period := min(max(interval/15, 10*time.Millisecond), 30*time.Second)
		got := NewTiming(interval, period)
		if got.Interval != interval {
			t.Errorf("interval %v became %v", interval, got.Interval)
		}
		if got.Threshold() <= 0 {
			t.Errorf("interval %v: threshold %v, want more than 0", interval, got.Threshold())
		}
		// One scan too early, one that renews, one that finds out.
		if got.Lead < 3*period && got.Lead != interval/2 {
			t.Errorf("interval %v: lead %v has no room for three scans of %v", interval, got.Lead, period)
		}
		if got.Lead < period+got.Grace {
			t.Errorf("interval %v: lead %v has no room for a scan of %v and grace %v", interval, got.Lead, period, got.Grace)
		}
		if got.Grace <= 0 || got.Grace >= got.Lead {
			t.Errorf("interval %v: grace %v, want less than lead %v", interval, got.Grace, got.Lead)
		}
	}
	for interval := time.Second; interval <= 24*time.Hour; interval += time.Second {
		check(interval)
	}
	for range 10_000 {
		check(time.Second + time.Duration(r.Int64N(int64(24*time.Hour-time.Second))))
	}
}

func TestDue(t *testing.T) {
	const s, ms = time.Second, time.Millisecond
	long := NewTiming(300*s, 5*s)   // threshold 281.5 s, the last limit 290 s
	minute := NewTiming(61*s, s)    // threshold 54.5 s, the last limit 59 s
	roomy := NewTiming(67*s, s)     // threshold 60.5 s
	short := NewTiming(60*s, s)     // threshold 53.5 s, the last limit 58 s
	shortest := NewTiming(s, 20*ms) // threshold 0.5 s
	type ages struct{ used, confirmed, updated time.Duration }
	tests := []struct {
		name     string
		timing   Timing
		state    neigh.State
		ages     ages
		resolved time.Duration
		want     bool
	}{
		{"young", long, neigh.Stale, ages{0, 60 * s, 0}, 0, false},
		{"all just below", long, neigh.Stale, ages{281490 * ms, 281490 * ms, 281490 * ms}, 281490 * ms, false},
		{"used", long, neigh.Stale, ages{281500 * ms, 0, 5 * s}, 5 * s, true},
		{"confirmed", long, neigh.Stale, ages{0, 281500 * ms, 5 * s}, 5 * s, true},
		{"updated", long, neigh.Stale, ages{0, 0, 281500 * ms}, 5 * s, true},
		{"own clock", long, neigh.Reachable, ages{0, 0, 0}, 281500 * ms, true},
		{"own clock just below", long, neigh.Reachable, ages{0, 0, 0}, 281490 * ms, false},

		// An entry in PROBE is being verified: it has until the last limit.
		{"probe, used over the threshold", long, neigh.Probe, ages{281500 * ms, 0, 0}, 0, false},
		{"probe, all just below the last limit", long, neigh.Probe, ages{289990 * ms, 289990 * ms, 289990 * ms}, 0, false},
		{"probe, used", long, neigh.Probe, ages{290 * s, 0, 0}, 0, true},
		{"probe, confirmed", long, neigh.Probe, ages{0, 290 * s, 0}, 0, true},
		{"probe, updated", long, neigh.Probe, ages{0, 0, 290 * s}, 0, true},
		{"probe, own clock", long, neigh.Probe, ages{0, 0, 0}, time.Hour, false},
		{"delay is no probe", long, neigh.Delay, ages{281500 * ms, 0, 0}, 0, true},

		{"never confirmed, default interval", long, neigh.Stale, ages{230 * s, 290 * s, 230 * s}, 5 * s, true},
		// Up to a minute, and a little more, the head start alone would make every
		// new entry due at birth: there the confirmed age does not count.
		{"never confirmed, interval of little more than a minute", minute, neigh.Stale, ages{0, 60 * s, 0}, 5 * s, false},
		{"never confirmed, interval with room for the head start", roomy, neigh.Stale, ages{0, 60 * s, 0}, 5 * s, false},
		{"never confirmed, interval with room for the head start, older", roomy, neigh.Stale, ages{s, 61 * s, s}, 5 * s, true},
		{"never confirmed, shorter interval", short, neigh.Stale, ages{0, 60 * s, 0}, 0, false},
		{"never confirmed, shortest interval", shortest, neigh.Stale, ages{0, 60 * s, 0}, 0, false},
		{"never confirmed, older", short, neigh.Stale, ages{50 * s, 110 * s, 50 * s}, 0, false},
		{"never confirmed, used since", short, neigh.Stale, ages{10 * s, 110 * s, 50 * s}, 0, false},
		{"never confirmed, used is over", short, neigh.Stale, ages{53500 * ms, 113500 * ms, 10 * s}, 5 * s, true},
		{"never confirmed, updated is over", short, neigh.Stale, ages{0, 113500 * ms, 53500 * ms}, 5 * s, true},
		{"never confirmed, own clock is over", short, neigh.Stale, ages{0, 60 * s, s}, 53500 * ms, true},
		{"never confirmed, in probe", short, neigh.Probe, ages{0, 60 * s, 0}, 0, false},
		{"a second less than the head start is rounding", short, neigh.Stale, ages{s, 60 * s, s}, 0, false},
		{"more than that was confirmed once", short, neigh.Stale, ages{s, 59990 * ms, s}, 5 * s, true},
		{"ahead of one of the others only was confirmed once", short, neigh.Stale, ages{0, 60 * s, 20 * s}, 5 * s, true},
		{"confirmed once, shorter interval", short, neigh.Stale, ages{20 * s, 53500 * ms, 20 * s}, 5 * s, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := neigh.Entry{State: tt.state, Used: tt.ages.used, Confirmed: tt.ages.confirmed, Updated: tt.ages.updated}
			if got := tt.timing.Due(&e, &eth0, tt.resolved); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			// How long that takes says the same.
			if left := tt.timing.Left(&e, &neigh.Link{}, tt.resolved); (left <= 0) != tt.want {
				t.Errorf("due in %v, want due: %v", left, tt.want)
			}
		})
	}
}

func TestUnconfirmed(t *testing.T) {
	const s = time.Second
	long, short := NewTiming(300*s, 5*s), NewTiming(30*s, 500*time.Millisecond)
	at := long.Threshold()
	tests := []struct {
		name   string
		timing Timing
		entry  neigh.Entry
		want   bool
	}{
		{"young", long, neigh.Entry{Confirmed: 60 * s}, false},
		{"just below", long, neigh.Entry{Used: at - 1, Confirmed: at - 1, Updated: at - 1}, false},
		{"used", long, neigh.Entry{Used: at}, false},
		{"confirmed", long, neigh.Entry{Confirmed: at}, true},
		{"updated", long, neigh.Entry{Updated: at}, false},
		{"all, in probe too", long, neigh.Entry{State: neigh.Probe, Used: at, Confirmed: at, Updated: at}, true},
		{"never confirmed", short, neigh.Entry{Confirmed: 60 * s}, false},
		{"never confirmed, and old", short, neigh.Entry{Used: 29 * s, Confirmed: 89 * s, Updated: 29 * s}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.timing.Unconfirmed(&tt.entry, &eth0); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestExceeded(t *testing.T) {
	const s, ms = time.Second, time.Millisecond
	long, short := NewTiming(300*s, 5*s), NewTiming(60*s, s)
	tests := []struct {
		name   string
		timing Timing
		entry  neigh.Entry
		want   bool
	}{
		{"due", long, neigh.Entry{Used: 299 * s, Confirmed: 299 * s, Updated: 299 * s}, false},
		{"at the bound", long, neigh.Entry{Used: 300 * s, Confirmed: 300 * s, Updated: 300 * s}, false},
		{"used", long, neigh.Entry{Used: 300*s + 10*ms}, true},
		{"confirmed", long, neigh.Entry{Confirmed: 300*s + 10*ms}, true},
		{"updated", long, neigh.Entry{Updated: 300*s + 10*ms}, true},
		{"in probe", long, neigh.Entry{State: neigh.Probe, Used: 301 * s}, true},
		{"never confirmed", short, neigh.Entry{Used: 50 * s, Confirmed: 110 * s, Updated: 50 * s}, false},
		{"never confirmed, and used is over", short, neigh.Entry{Used: 61 * s, Confirmed: 121 * s}, true},
		{"confirmed once", short, neigh.Entry{Used: 20 * s, Confirmed: 61 * s, Updated: 20 * s}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.timing.Exceeded(&tt.entry, &eth0); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// base_reachable_time says where the confirmed age of a new entry starts, for each
// device and family; a sysctl or a router advertisement may have changed it since.
func TestNewEntryIsNotOld(t *testing.T) {
	const s = time.Second
	long, short := NewTiming(300*s, 5*s), NewTiming(30*s, 500*time.Millisecond)
	link := eth0
	link.BaseReachable = [2]time.Duration{200 * s, 1800 * s}
	plain := eth0
	plain.BaseReachable = [2]time.Duration{30 * s, 30 * s}
	quick := eth0
	quick.BaseReachable = [2]time.Duration{5 * s, 5 * s}
	for _, tt := range []struct {
		name                     string
		timing                   Timing
		addr                     string
		link                     *neigh.Link
		used, confirmed, updated time.Duration
		want                     bool // due, because of its ages
	}{
		{"new", long, "10.0.0.2", &link, 0, 400 * s, 0, false},
		{"new, IPv6", long, "2001:db8::2", &link, 0, 3600 * s, 0, false},
		{"older", long, "10.0.0.2", &link, 281 * s, 681 * s, 281 * s, false},
		{"old", long, "10.0.0.2", &link, 282 * s, 682 * s, 282 * s, true},
		{"old, IPv6", long, "2001:db8::2", &link, 282 * s, 3882 * s, 282 * s, true},
		{"used just now, and old", long, "10.0.0.2", &link, 0, 682 * s, 282 * s, true},
		{"updated just now, and old", long, "10.0.0.2", &link, 282 * s, 682 * s, 0, true},
		{"confirmed once", long, "10.0.0.2", &link, 50 * s, 282 * s, 50 * s, true},
		{"confirmed once, IPv6", long, "2001:db8::2", &link, 50 * s, 282 * s, 50 * s, true},
		{"a device that is not known so well", long, "10.0.0.2", &eth0, 0, 60 * s, 0, false},
		{"a device that is not known so well, short interval", short, "10.0.0.2", &eth0, 0, 60 * s, 0, false},
		{"no head start to speak of", short, "10.0.0.2", &quick, 0, 27 * s, 0, true},
		// Made before the time was raised, or lowered: renewed early, once.
		{"made when it was shorter", long, "10.0.0.2", &link, 0, 60 * s, 0, false},
		{"made when it was shorter, old", long, "10.0.0.2", &link, 222 * s, 282 * s, 222 * s, true},
		{"made when it was longer", long, "10.0.0.2", &plain, 0, 400 * s, 0, true},
		{"made when it was longer, short interval", short, "10.0.0.2", &plain, 0, 400 * s, 0, false},
		{"made when it was shorter, short interval", short, "10.0.0.2", &link, 0, 60 * s, 0, true},
	} {
		e := neigh.Entry{Key: neigh.Key{Addr: netip.MustParseAddr(tt.addr)}, State: neigh.Stale, Used: tt.used, Confirmed: tt.confirmed, Updated: tt.updated}
		if got := tt.timing.Due(&e, tt.link, 0); got != tt.want {
			t.Errorf("%s: due is %v, want %v", tt.name, got, tt.want)
		}
		if tt.timing.Exceeded(&e, tt.link) && !tt.want {
			t.Errorf("%s: counted as older than the interval", tt.name)
		}
		if got := tt.timing.Due(&e, tt.link, tt.timing.Threshold()); !got {
			t.Errorf("%s: not due by the agent's own clock", tt.name)
		}
	}
}
