package vip

import (
	"slices"
	"testing"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

func TestTracker(t *testing.T) {
	start := time.Unix(1e9, 0)
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	type lladdrs = []neigh.LLAddr
	type step struct {
		do   func(*Tracker) Change
		want string // the event and its cause or reason, "" for none
	}
	place := func(w Where) func(*Tracker) Change {
		return func(t *Tracker) Change { return t.Place(w, "why") }
	}
	names := func(n int, c Cause) func(*Tracker) Change {
		return func(t *Tracker) Change {
			holder := neigh.LLAddr{}
			if n > 0 {
				holder = mac(n)
			}
			return t.Names(at(10), holder, c, time.Time{})
		}
	}
	answered := func(n ...int) func(*Tracker) Change {
		return func(t *Tracker) Change {
			var all lladdrs
			for _, i := range n {
				all = append(all, mac(i))
			}
			return t.Answered(all)
		}
	}
	trouble := func(e Event) func(*Tracker) Change {
		return func(t *Tracker) Change { return t.Trouble(e, at(1), "check: timeout") }
	}
	works := func(t *Tracker) Change { return t.Works(at(20)) }
	pin := func(reason string) func(*Tracker) Change {
		return func(t *Tracker) Change { return t.Pin(reason) }
	}

	tests := []struct {
		name  string
		steps []step
	}{
		{"on link from the start", []step{{place(OnLink), ""}, {place(OnLink), ""}}},
		{"held here, and not any more", []step{{place(OnLink), ""}, {place(Here), "held_here"}, {place(Here), ""}, {place(OnLink), ""}, {place(Here), "held_here"}}},
		{"behind a gateway", []step{{place(Behind), "not_on_link why"}, {place(Behind), ""}, {place(OnLink), ""}}},
		{"moved by an announcement", []step{{names(1, Announced), ""}, {names(1, Announced), ""}, {names(2, Announced), "moved announced"}, {names(2, Stale), ""}}},
		{"resolved again, to the same and to another", []step{{names(1, Announced), ""}, {names(0, Announced), ""}, {names(2, Announced), ""}}},
		{"what was known before it was held here is forgotten", []step{{names(1, Announced), ""}, {trouble(Silent), "silent check: timeout"}, {place(Here), "held_here"}, {place(OnLink), ""}, {works, ""}, {names(2, Announced), ""}}},
		{"a duplicate is said once", []step{{answered(1, 2), "duplicate"}, {answered(2, 1), ""}, {answered(1), ""}, {answered(1, 2), ""}}},
		{"a third holder", []step{{answered(1, 2), "duplicate"}, {answered(1, 2, 3), "duplicate"}, {answered(1, 2, 3), ""}}},
		{"a duplicate after three quiet rounds", []step{{answered(1, 2), "duplicate"}, {answered(1), ""}, {answered(), ""}, {answered(1), ""}, {answered(1, 2), "duplicate"}}},
		{"trouble is said once", []step{{trouble(Silent), "silent check: timeout"}, {trouble(Silent), ""}, {works, "recovered"}, {works, ""}}},
		{"trouble of another kind", []step{{trouble(Failing), "failing check: timeout"}, {trouble(Silent), "silent check: timeout"}, {works, "recovered"}}},
		{"pinned", []step{{pin(""), ""}, {pin("permanent"), "pinned permanent"}, {pin("permanent"), ""}, {pin("ext_learned"), "pinned ext_learned"}, {pin(""), ""}, {pin("permanent"), "pinned permanent"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var tr Tracker
			for i, s := range tt.steps {
				got := ""
				c := s.do(&tr)
				if c.Event != "" {
					got = string(c.Event)
					if detail := string(c.Cause) + c.Reason; detail != "" {
						got += " " + detail
					}
				} else if len(c.Holders) > 0 {
					t.Errorf("step %d: no change, but %+v", i, c)
				}
				if got != s.want {
					t.Errorf("step %d: %q, want %q", i, got, s.want)
				}
			}
		})
	}
}

// What belongs to the events.
func TestTrackerDetails(t *testing.T) {
	start := time.Unix(1e9, 0)
	var tr Tracker
	tr.Names(start, mac(1), Announced, time.Time{})
	if c := tr.Trouble(Silent, start.Add(time.Second), ""); c.Old != mac(1) || tr.trouble != Silent {
		t.Errorf("trouble: %+v", c)
	}
	now := start.Add(4 * time.Second)
	if c := tr.Names(now, mac(2), WasSilent, start.Add(time.Second)); c.Old != mac(1) || c.New != mac(2) || c.Took != 3*time.Second {
		t.Errorf("moved: %+v", c)
	}
	if tr.holder != mac(2) || !tr.since.Equal(now) {
		t.Errorf("held by %s since %v", tr.holder, tr.since)
	}
	if c := tr.Works(now); c.Took != 3*time.Second || c.New != mac(2) || tr.trouble != "" {
		t.Errorf("recovered: %+v", c)
	}
	holders := []neigh.LLAddr{mac(2), mac(1)}
	if c := tr.Answered(holders); c.New != mac(2) || !slices.Equal(c.Holders, holders) || len(tr.holders) != 2 {
		t.Errorf("duplicate: %+v", c)
	}
	if tr.Trouble(Silent, now, ""); len(tr.holders) != 0 {
		t.Errorf("%d holders of a VIP for which nobody answers", len(tr.holders))
	}
}
