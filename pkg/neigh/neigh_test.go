package neigh

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
)

func TestState(t *testing.T) {
	tests := []struct {
		state State
		name  string
		valid bool
	}{
		{None, "none", false},
		{Incomplete, "incomplete", false},
		{Reachable, "reachable", true},
		{Stale, "stale", true},
		{Delay, "delay", true},
		{Probe, "probe", true},
		{Failed, "failed", false},
		{NoARP, "noarp", false},         // usable, but nobody learned it
		{Permanent, "permanent", false}, // likewise
		{0x100, "unknown", false},       // a bit of a future kernel
		{Incomplete | Failed, "unknown", false},
		{Reachable | Stale, "unknown", true},
	}
	covered := make(map[State]bool)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.state.String(); got != tt.name {
				t.Errorf("State(%#x).String() = %q, want %q", uint16(tt.state), got, tt.name)
			}
			if got := tt.state.Valid(); got != tt.valid {
				t.Errorf("State(%#x).Valid() = %v, want %v", uint16(tt.state), got, tt.valid)
			}
		})
		covered[tt.state] = true
	}
	for _, s := range States {
		if !covered[s] {
			t.Errorf("States lists %v, which this test does not cover", s)
		}
	}
}

func TestLLAddr(t *testing.T) {
	long := bytes.Repeat([]byte{0xa5}, 33)
	tests := []struct {
		name string
		in   []byte
		ok   bool
		want string
	}{
		{"none", nil, true, ""},
		{"empty", []byte{}, true, ""},
		{"one byte", []byte{0x0a}, true, "0a"},
		{"all zero is an address", make([]byte, 6), true, "00:00:00:00:00:00"},
		{"Ethernet", []byte{0x02, 0, 0, 0xab, 0xcd, 0xef}, true, "02:00:00:ab:cd:ef"},
		{"InfiniBand", long[:20], true, "a5:a5:a5:a5:a5:a5:a5:a5:a5:a5:a5:a5:a5:a5:a5:a5:a5:a5:a5:a5"},
		{"longest", long[:32], true, "a5:a5:a5:a5:a5:a5:a5:a5:a5:a5:a5:a5:a5:a5:a5:a5:a5:a5:a5:a5:a5:a5:a5:a5:a5:a5:a5:a5:a5:a5:a5:a5"},
		{"too long", long, false, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, ok := LLAddrFrom(tt.in)
			if ok != tt.ok {
				t.Fatalf("LLAddrFrom of %d bytes: ok = %v, want %v", len(tt.in), ok, tt.ok)
			}
			if got := a.String(); got != tt.want {
				t.Errorf("String() = %q, want %q", got, tt.want)
			}
			if !ok {
				if a != (LLAddr{}) {
					t.Errorf("a refused address is not the zero value: %v", a)
				}
				return
			}
			if a.Len() != len(tt.in) || !bytes.Equal(a.Bytes(), tt.in) {
				t.Errorf("Len() = %d, Bytes() = %x, want %x", a.Len(), a.Bytes(), tt.in)
			}
		})
	}
}

// The address is a value: neither its source nor what Bytes returned reaches
// into it, and two of them are equal exactly where their bytes are.
func TestLLAddrIsAValue(t *testing.T) {
	from := func(b ...byte) LLAddr {
		a, ok := LLAddrFrom(b)
		if !ok {
			t.Fatalf("LLAddrFrom(%x) refused", b)
		}
		return a
	}
	source := []byte{1, 2, 3, 4, 5, 6}
	a := from(source...)
	a2, _ := LLAddrFrom(source)
	source[0] = 0xff
	a.Bytes()[1] = 0xff
	if want := "01:02:03:04:05:06"; a.String() != want || a2.String() != want {
		t.Errorf("got %v and %v, want %s unchanged", a, a2, want)
	}
	if a != a2 {
		t.Error("two addresses of the same bytes differ")
	}
	if a == from(1, 2, 3, 4, 5, 7) {
		t.Error("two addresses of different bytes are equal")
	}
	if from(0) == (LLAddr{}) {
		t.Error("an address of one zero byte equals no address")
	}
	if from() != (LLAddr{}) {
		t.Error("an empty address is not the zero value")
	}
}

func TestLLAddrDigest(t *testing.T) {
	guid := make([]byte, 20) // of IP over InfiniBand
	seen := map[uint64]string{0: "none"}
	for _, b := range [][]byte{
		{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}, {2, 0, 0, 0, 1, 0}, {1, 0, 0, 0, 0, 2},
		{1, 2, 3, 4, 5, 6, 7, 8}, {8, 2, 3, 4, 5, 6, 7, 1},
		append(guid[:19:19], 1), append(guid[:18:18], 1, 0), append([]byte{1}, guid[1:]...),
	} {
		a, _ := LLAddrFrom(b)
		d := a.Digest()
		if other, ok := seen[d]; ok {
			t.Errorf("%s has the digest of %s", a, other)
		}
		seen[d] = a.String()
	}
	if d := new(LLAddr).Digest(); d != 0 {
		t.Errorf("digest of no address: %d", d)
	}
}

// An address of up to eight bytes is told by its digest, and no other.
func TestUndigest(t *testing.T) {
	for _, tt := range []struct {
		bytes []byte
		ok    bool
	}{
		{[]byte{2, 0, 0, 0, 0, 1}, true},
		{[]byte{2, 1, 0, 0, 0, 0}, true},
		{[]byte{1}, true},
		{[]byte{1, 2, 3, 4, 5, 6, 7, 8}, true},
		{[]byte{1, 2, 3, 4, 5, 6, 7, 8, 9}, false},
		{bytes.Repeat([]byte{1}, 20), false},
		{nil, false},
	} {
		a, _ := LLAddrFrom(tt.bytes)
		got, ok := Undigest(a.Digest(), a.Len())
		if ok != tt.ok || ok && got != a {
			t.Errorf("%s: %s, %v", a, got, ok)
		}
	}
}

func TestClock(t *testing.T) {
	want := map[Clock]string{Used: "used", Confirmed: "confirmed", Updated: "updated", Resolved: "resolved"}
	for _, c := range Clocks {
		if got := c.String(); got != want[c] {
			t.Errorf("Clock(%d).String() = %q, want %q", c, got, want[c])
		}
		var ages Ages
		ages[c] = 1 // every clock is an index of Ages
	}
	if len(want) != len(Clocks) {
		t.Errorf("Clocks has %d elements, want %d", len(Clocks), len(want))
	}
	if got := Clock(len(Clocks)).String(); got != "unknown" {
		t.Errorf("String() of no clock = %q, want unknown", got)
	}
}

func TestFamily(t *testing.T) {
	for addr, want := range map[string]string{
		"0.0.0.0":          "ipv4",
		"10.0.0.1":         "ipv4",
		"::":               "ipv6",
		"fe80::1":          "ipv6",
		"2001:db8::1":      "ipv6",
		"::ffff:192.0.2.1": "ipv6", // an entry of the ND table, whatever its address looks like
	} {
		if got := Family(netip.MustParseAddr(addr)); got != want {
			t.Errorf("Family(%s) = %q, want %q", addr, got, want)
		}
	}
}

func TestUnconfirmedAge(t *testing.T) {
	v4, v6 := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fe80::1")
	link := Link{BaseReachable: [2]time.Duration{200 * time.Second, 30 * time.Minute}}
	for _, tt := range []struct {
		link Link
		addr netip.Addr
		want time.Duration
	}{
		{link, v4, 400 * time.Second},
		{link, v6, time.Hour},
		{Link{}, v4, time.Minute}, // unknown: the kernel's default
		{Link{}, v6, time.Minute},
	} {
		if got := tt.link.UnconfirmedAge(tt.addr); got != tt.want {
			t.Errorf("%v, %v: %v, want %v", tt.link.BaseReachable, tt.addr, got, tt.want)
		}
	}
}

func TestFailureReason(t *testing.T) {
	tests := []struct {
		err  error
		want string
	}{
		{ErrPermission, "permission"},
		{ErrOverrun, "overrun"},
		{ErrInterrupted, "interrupted"},
		{ErrTimeout, "timeout"},
		{ErrMalformed, "malformed"},
		{ErrNoMemory, "memory"},
		{ErrGone, "other"}, // not a failure, so nobody should ask
		{errors.New("anything"), "other"},
	}
	for _, tt := range tests {
		if got := FailureReason(fmt.Errorf("dumping: %w", tt.err)); got != tt.want {
			t.Errorf("FailureReason(%v) = %q, want %q", tt.err, got, tt.want)
		}
		if !slices.Contains(FailureReasons[:], tt.want) {
			t.Errorf("FailureReasons does not list %q", tt.want)
		}
	}
}

// Logs in JSON show addresses as logs in text do.
func TestLLAddrInJSON(t *testing.T) {
	a, _ := LLAddrFrom([]byte{2, 0, 0, 0, 0, 1})
	got, err := json.Marshal(map[string]any{"one": a, "several": []LLAddr{a, a}})
	if want := `{"one":"02:00:00:00:00:01","several":["02:00:00:00:00:01","02:00:00:00:00:01"]}`; err != nil || string(got) != want {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
}
