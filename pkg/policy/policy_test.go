package policy

import (
	"math/rand/v2"
	"net/netip"
	"regexp"
	"testing"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

var eth0 = neigh.Link{Index: 2, Name: "eth0", Uplink: true}

// learned returns an entry that the kernel learned by itself, with one change.
func learned(change func(*neigh.Entry)) neigh.Entry {
	lladdr, _ := neigh.LLAddrFrom([]byte{2, 0, 0, 0, 0, 2})
	e := neigh.Entry{
		Key:    neigh.Key{Addr: netip.MustParseAddr("10.0.0.2"), Index: eth0.Index},
		LLAddr: lladdr,
		State:  neigh.Stale,
		Used:   time.Hour, Confirmed: time.Hour, Updated: time.Hour,
	}
	change(&e)
	return e
}

func state(s neigh.State) neigh.Entry {
	return learned(func(e *neigh.Entry) { e.State = s })
}

func flags(f neigh.Flags) neigh.Entry {
	return learned(func(e *neigh.Entry) { e.Flags = f })
}

func flagsExt(f neigh.FlagsExt) neigh.Entry {
	return learned(func(e *neigh.Entry) { e.FlagsExt = f })
}

func protocol(p neigh.Protocol) neigh.Entry {
	return learned(func(e *neigh.Entry) { e.Protocol = p })
}

func device(change func(*neigh.Link)) neigh.Link {
	l := eth0
	change(&l)
	return l
}

func TestDecide(t *testing.T) {
	suppressed := neigh.Link{Index: 2, Name: "br0", Uplink: true, Suppresses: true}
	everything := learned(func(e *neigh.Entry) {
		e.State, e.Flags, e.FlagsExt, e.Protocol = neigh.Permanent, 0xff, ^neigh.FlagsExt(0), 186
	})
	tests := []struct {
		name    string
		scope   Scope
		entry   neigh.Entry
		link    neigh.Link
		nextHop bool
		want    Verdict
	}{
		// What is due, and how.
		{"stale", Scope{}, state(neigh.Stale), eth0, false, Verdict{Delete, Idle}},
		{"failed", Scope{}, state(neigh.Failed), eth0, false, Verdict{Delete, HasFailed}},
		{"probe", Scope{}, state(neigh.Probe), eth0, false, Verdict{Delete, Unanswered}},
		{"reachable", Scope{}, state(neigh.Reachable), eth0, false, Verdict{Verify, InUse}},
		{"delay", Scope{}, state(neigh.Delay), eth0, false, Verdict{Verify, InUse}},
		{"stale next hop", Scope{}, state(neigh.Stale), eth0, true, Verdict{Verify, NextHop}},
		{"reachable next hop", Scope{}, state(neigh.Reachable), eth0, true, Verdict{Verify, NextHop}},
		{"delay next hop", Scope{}, state(neigh.Delay), eth0, true, Verdict{Verify, NextHop}},
		{"incomplete", Scope{}, state(neigh.Incomplete), eth0, false, Verdict{Keep, Resolving}},
		{"incomplete next hop", Scope{}, state(neigh.Incomplete), eth0, true, Verdict{Keep, Resolving}},
		{"on a pod device", Scope{}, state(neigh.Stale), neigh.Link{Index: 9, Name: "cali0"}, false, Verdict{Delete, Idle}},

		// Behind a bridge that answers for others nothing valid is deleted.
		{"stale, suppressed", Scope{}, state(neigh.Stale), suppressed, false, Verdict{Verify, Suppressed}},
		{"stale next hop, suppressed", Scope{}, state(neigh.Stale), suppressed, true, Verdict{Verify, Suppressed}},
		{"reachable, suppressed", Scope{}, state(neigh.Reachable), suppressed, false, Verdict{Verify, Suppressed}},
		{"delay, suppressed", Scope{}, state(neigh.Delay), suppressed, true, Verdict{Verify, Suppressed}},
		{"probe, suppressed", Scope{}, state(neigh.Probe), suppressed, false, Verdict{Keep, Probing}},
		{"failed, suppressed", Scope{}, state(neigh.Failed), suppressed, false, Verdict{Delete, HasFailed}},
		{"incomplete, suppressed", Scope{}, state(neigh.Incomplete), suppressed, false, Verdict{Keep, Resolving}},
		{"extern_learn, suppressed", Scope{}, flags(neigh.FlagExtLearned), suppressed, false, Verdict{Keep, ExtLearned}},
		{"other prefix, suppressed", Scope{CIDRs: prefixes("10.1.0.0/16")}, state(neigh.Stale), suppressed, false, Verdict{Keep, OtherCIDR}},
		{"other device, suppressed", Scope{Interfaces: []string{"bond*"}}, state(neigh.Stale), suppressed, false, Verdict{Keep, OtherDevice}},
		{"noarp device, suppressed", Scope{}, state(neigh.Stale), neigh.Link{Index: 9, Name: "br1", NoARP: true, Suppresses: true}, false, Verdict{Keep, NoARPDevice}},

		// States that are nobody's to touch.
		{"permanent", Scope{}, state(neigh.Permanent), eth0, false, Verdict{Keep, IsPermanent}},
		{"permanent next hop", Scope{}, state(neigh.Permanent), eth0, true, Verdict{Keep, IsPermanent}},
		{"noarp", Scope{}, state(neigh.NoARP), eth0, false, Verdict{Keep, IsNoARP}},
		{"none", Scope{}, state(neigh.None), eth0, false, Verdict{Keep, IsNone}},
		{"two states", Scope{}, state(neigh.Reachable | neigh.Stale), eth0, false, Verdict{Keep, OtherState}},
		{"stale and failed", Scope{}, state(neigh.Stale | neigh.Failed), eth0, true, Verdict{Keep, OtherState}},
		{"permanent among others", Scope{}, state(neigh.Permanent | neigh.Reachable), eth0, false, Verdict{Keep, IsPermanent}},
		{"noarp among others", Scope{}, state(neigh.NoARP | neigh.Stale), eth0, false, Verdict{Keep, IsNoARP}},
		{"an unknown state", Scope{}, state(0x100), eth0, true, Verdict{Keep, OtherState}},
		{"an unknown state bit", Scope{}, state(0x8000 | neigh.Stale), eth0, false, Verdict{Keep, OtherState}},

		// Owners.
		{"proxy", Scope{}, flags(neigh.FlagProxy), eth0, false, Verdict{Keep, IsProxy}},
		{"extern_learn", Scope{}, flags(neigh.FlagExtLearned), eth0, false, Verdict{Keep, ExtLearned}},
		{"offload", Scope{}, flags(neigh.FlagOffloaded), eth0, false, Verdict{Keep, Offloaded}},
		{"sticky", Scope{}, flags(neigh.FlagSticky), eth0, false, Verdict{Keep, Sticky}},
		{"flag 0x01", Scope{}, flags(0x01), eth0, false, Verdict{Keep, OtherFlag}},
		{"flag 0x02", Scope{}, flags(0x02), eth0, false, Verdict{Keep, OtherFlag}},
		{"flag 0x04", Scope{}, flags(0x04), eth0, true, Verdict{Keep, OtherFlag}},
		{"managed", Scope{}, flagsExt(neigh.FlagManaged), eth0, false, Verdict{Keep, Managed}},
		{"locked, of a newer kernel", Scope{}, flagsExt(0x02), eth0, false, Verdict{Keep, OtherExtFlag}},
		{"an unknown ext flag", Scope{}, flagsExt(1 << 31), eth0, true, Verdict{Keep, OtherExtFlag}},
		{"protocol zebra", Scope{}, protocol(11), eth0, false, Verdict{Keep, OtherProtocol}},
		{"protocol redirect", Scope{}, protocol(1), eth0, false, Verdict{Keep, OtherProtocol}},
		{"protocol static next hop", Scope{}, protocol(4), eth0, true, Verdict{Keep, OtherProtocol}},

		// What is no owner.
		{"router", Scope{}, flags(neigh.FlagRouter), eth0, false, Verdict{Delete, Idle}},
		{"router and extern_learn", Scope{}, flags(neigh.FlagRouter | neigh.FlagExtLearned), eth0, false, Verdict{Keep, ExtLearned}},
		{"router and an unknown flag", Scope{}, flags(neigh.FlagRouter | 0x04), eth0, false, Verdict{Keep, OtherFlag}},
		{"protocol kernel", Scope{}, protocol(neigh.ProtocolKernel), eth0, false, Verdict{Delete, Idle}},

		// Which reason is named where several hold: scope, device, state, owner.
		{"permanent and extern_learn", Scope{}, learned(func(e *neigh.Entry) {
			e.State, e.Flags = neigh.Permanent, neigh.FlagExtLearned
		}), eth0, false, Verdict{Keep, IsPermanent}},
		{"incomplete and managed", Scope{}, learned(func(e *neigh.Entry) {
			e.State, e.FlagsExt = neigh.Incomplete, neigh.FlagManaged
		}), eth0, false, Verdict{Keep, Managed}},
		{"managed and a protocol", Scope{}, learned(func(e *neigh.Entry) {
			e.FlagsExt, e.Protocol = neigh.FlagManaged, 11
		}), eth0, false, Verdict{Keep, Managed}},
		{"managed and an unknown ext flag", Scope{}, flagsExt(neigh.FlagManaged | 0x02), eth0, false, Verdict{Keep, Managed}},
		{"two states and a mark", Scope{}, learned(func(e *neigh.Entry) {
			e.State, e.Flags = neigh.Stale|neigh.Failed, neigh.FlagSticky
		}), eth0, false, Verdict{Keep, OtherState}},
		{"every mark", Scope{}, everything, eth0, false, Verdict{Keep, IsPermanent}},
		{"every mark on loopback", Scope{}, everything, device(func(l *neigh.Link) { l.Loopback = true }), false, Verdict{Keep, Loopback}},

		// Devices. Being in use does not change what they are.
		{"unknown device", Scope{}, state(neigh.Stale), neigh.Link{}, false, Verdict{Keep, UnknownDevice}},
		{"unknown device, in use", Scope{}, state(neigh.Reachable), neigh.Link{}, true, Verdict{Keep, UnknownDevice}},
		{"loopback", Scope{}, state(neigh.Stale), device(func(l *neigh.Link) { l.Loopback = true }), false, Verdict{Keep, Loopback}},
		{"noarp device", Scope{}, state(neigh.Reachable), device(func(l *neigh.Link) { l.NoARP = true }), true, Verdict{Keep, NoARPDevice}},
		{"point to point", Scope{}, state(neigh.Stale), device(func(l *neigh.Link) { l.PointToPoint = true }), false, Verdict{Keep, PointToPoint}},

		// Scope.
		{"other family", Scope{Family: "ipv6"}, state(neigh.Stale), eth0, false, Verdict{Keep, OtherFamily}},
		{"other family on an unknown device", Scope{Family: "ipv6"}, state(neigh.Stale), neigh.Link{}, false, Verdict{Keep, OtherFamily}},
		{"other device", Scope{Interfaces: []string{"bond*"}}, state(neigh.Stale), eth0, false, Verdict{Keep, OtherDevice}},
		{"other prefix", Scope{CIDRs: prefixes("10.1.0.0/16")}, state(neigh.Stale), eth0, true, Verdict{Keep, OtherCIDR}},
		{"other device and prefix", Scope{Interfaces: []string{"bond*"}, CIDRs: prefixes("10.1.0.0/16")},
			state(neigh.Stale), eth0, false, Verdict{Keep, OtherDevice}},
		{"out of scope and permanent", Scope{CIDRs: prefixes("10.1.0.0/16")}, state(neigh.Permanent), eth0, false, Verdict{Keep, OtherCIDR}},
		{"in every scope", Scope{Family: "ipv4", Interfaces: []string{"eth*"}, CIDRs: prefixes("10.0.0.0/24")},
			state(neigh.Stale), eth0, false, Verdict{Delete, Idle}},
		{"scope does not lift protection", Scope{Family: "ipv4", Interfaces: []string{"eth*"}, CIDRs: prefixes("10.0.0.0/24")},
			state(neigh.Permanent), eth0, false, Verdict{Keep, IsPermanent}},
	}
	var covered [NumReasons]bool
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := tt.entry
			if got := tt.scope.Decide(&tt.entry, &tt.link, tt.nextHop); got != tt.want {
				t.Errorf("got %v because %v, want %v because %v", got.Action, got.Reason, tt.want.Action, tt.want.Reason)
			}
			if keeps := tt.want.Reason.Keeps(); keeps != (tt.want.Action == Keep) {
				t.Errorf("Keeps() of %v is %v", tt.want.Reason, keeps)
			}
			// An entry that is being resolved or verified is left alone, but not foreign.
			if foreign := tt.want.Reason.Foreign(); foreign != (tt.want.Action == Keep && tt.want.Reason != Resolving && tt.want.Reason != Probing) {
				t.Errorf("Foreign() of %v is %v", tt.want.Reason, foreign)
			}
			if tt.entry != before {
				t.Error("Decide changed the entry")
			}
		})
		covered[tt.want.Reason] = true
	}
	for r := Unknown + 1; r < numReasons; r++ {
		if !covered[r] && r != Watched { // which is for the sweep to say
			t.Errorf("no case for reason %q", r)
		}
	}
}

func prefixes(s ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(s))
	for i := range s {
		out[i] = netip.MustParsePrefix(s[i])
	}
	return out
}

func TestScope(t *testing.T) {
	tests := []struct {
		name  string
		scope Scope
		addr  string
		dev   string
		want  Reason
	}{
		{"zero value, IPv4", Scope{}, "10.0.0.2", "eth0", Idle},
		{"zero value, IPv6", Scope{}, "fe80::2", "eth0", Idle},
		{"ipv4 takes IPv4", Scope{Family: "ipv4"}, "10.0.0.2", "eth0", Idle},
		{"ipv4 leaves IPv6", Scope{Family: "ipv4"}, "fe80::2", "eth0", OtherFamily},
		{"ipv6 takes IPv6", Scope{Family: "ipv6"}, "fe80::2", "eth0", Idle},
		{"ipv6 leaves IPv4", Scope{Family: "ipv6"}, "10.0.0.2", "eth0", OtherFamily},

		{"exact name", Scope{Interfaces: []string{"eth0"}}, "10.0.0.2", "eth0", Idle},
		{"a name is no prefix", Scope{Interfaces: []string{"eth0"}}, "10.0.0.2", "eth01", OtherDevice},
		{"a VLAN is a device of its own", Scope{Interfaces: []string{"eth0"}}, "10.0.0.2", "eth0.100", OtherDevice},
		{"glob", Scope{Interfaces: []string{"eth*"}}, "10.0.0.2", "eth0.100", Idle},
		{"one of two globs", Scope{Interfaces: []string{"bond?", "ens*"}}, "10.0.0.2", "ens192", Idle},
		{"character class", Scope{Interfaces: []string{"eth[1-9]"}}, "10.0.0.2", "eth0", OtherDevice},
		{"excluded", Scope{ExcludeInterfaces: []string{"cali*"}}, "10.0.0.2", "cali12", OtherDevice},
		{"not excluded", Scope{ExcludeInterfaces: []string{"cali*"}}, "10.0.0.2", "eth0", Idle},
		{"excluding wins over including", Scope{Interfaces: []string{"*"}, ExcludeInterfaces: []string{"eth1"}}, "10.0.0.2", "eth1", OtherDevice},
		{"included and not excluded", Scope{Interfaces: []string{"*"}, ExcludeInterfaces: []string{"eth1"}}, "10.0.0.2", "eth0", Idle},
		{"neither included nor excluded", Scope{Interfaces: []string{"eth0"}, ExcludeInterfaces: []string{"eth1"}}, "10.0.0.2", "eth2", OtherDevice},
		{"a bad pattern takes nothing in", Scope{Interfaces: []string{"["}}, "10.0.0.2", "eth0", OtherDevice},

		{"in the prefix", Scope{CIDRs: prefixes("10.0.0.0/24")}, "10.0.0.255", "eth0", Idle},
		{"beside the prefix", Scope{CIDRs: prefixes("10.0.0.0/24")}, "10.0.1.0", "eth0", OtherCIDR},
		{"one of two prefixes", Scope{CIDRs: prefixes("192.0.2.0/24", "10.0.0.2/32")}, "10.0.0.2", "eth0", Idle},
		{"IPv4 prefixes leave IPv6 out", Scope{CIDRs: prefixes("0.0.0.0/0")}, "2001:db8::2", "eth0", OtherCIDR},
		{"IPv6 prefix", Scope{CIDRs: prefixes("2001:db8::/32")}, "2001:db8::2", "eth0", Idle},
		{"link-local prefix", Scope{CIDRs: prefixes("fe80::/10")}, "fe80::2", "eth0", Idle},
		{"excluded prefix", Scope{ExcludeCIDRs: prefixes("10.0.0.0/24")}, "10.0.0.2", "eth0", OtherCIDR},
		{"outside the excluded prefix", Scope{ExcludeCIDRs: prefixes("10.0.0.0/24")}, "10.0.1.2", "eth0", Idle},
		{"excluding wins, though narrower includes", Scope{CIDRs: prefixes("10.0.0.2/32"), ExcludeCIDRs: prefixes("10.0.0.0/8")}, "10.0.0.2", "eth0", OtherCIDR},
		{"a hole in a prefix", Scope{CIDRs: prefixes("10.0.0.0/8"), ExcludeCIDRs: prefixes("10.0.0.2/32")}, "10.0.0.3", "eth0", Idle},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := learned(func(e *neigh.Entry) { e.Addr = netip.MustParseAddr(tt.addr) })
			link := neigh.Link{Index: 2, Name: tt.dev}
			if got := tt.scope.Decide(&e, &link, false); got.Reason != tt.want {
				t.Errorf("%s on %s: %v because %v, want reason %v", tt.addr, tt.dev, got.Action, got.Reason, tt.want)
			}
			if got := tt.scope.Names(&e, &link); got != (tt.want == Idle) {
				t.Errorf("%s on %s: named %v, although %v", tt.addr, tt.dev, got, tt.want)
			}
		})
	}
}

// mayTouch is promise 2 of the design, written down a second time from the
// numbers of include/uapi/linux/neighbour.h and rtnetlink.h: only what the
// kernel learned by itself, on a device where it learns, may be touched.
func mayTouch(e *neigh.Entry, l *neigh.Link) bool {
	if l.Name == "" || l.Loopback || l.NoARP || l.PointToPoint {
		return false
	}
	switch uint16(e.State) {
	case 0x02, 0x04, 0x08, 0x10, 0x20: // reachable, stale, delay, probe, failed
	default:
		return false
	}
	if e.Flags != 0 && e.Flags != 0x80 { // NTF_ROUTER
		return false
	}
	return e.FlagsExt == 0 && (e.Protocol == 0 || e.Protocol == 2) // unspec, kernel
}

// Whatever comes out of the kernel, Decide touches exactly what promise 2
// leaves to the agent, and never deletes what is in use.
func TestHandsOff(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	one := func(n int) bool { return r.IntN(n) == 0 }
	var scope Scope
	touched := 0
	const rounds = 1_000_000
	for range rounds {
		e := neigh.Entry{Key: neigh.Key{Addr: netip.AddrFrom4([4]byte{10, 0, byte(r.Uint32()), byte(r.Uint32())}), Index: 1 + r.IntN(4)}}
		if one(2) {
			e.Addr = netip.AddrFrom16([16]byte{0xfe, 0x80, 15: byte(r.Uint32())})
		}
		// Mostly what the kernel produces, at times what it should not.
		e.State = neigh.States[r.IntN(len(neigh.States))]
		if one(8) {
			e.State |= 1 << r.IntN(16)
		}
		if one(3) {
			e.Flags = 1 << r.IntN(8)
		}
		if one(8) {
			e.Flags |= neigh.Flags(r.Uint32())
		}
		if one(8) {
			e.FlagsExt = 1 << r.IntN(32)
		}
		if one(2) {
			e.Protocol = neigh.Protocol(r.IntN(8))
		}
		if one(8) {
			e.Protocol = neigh.Protocol(r.Uint32())
		}
		for _, age := range []*time.Duration{&e.Used, &e.Confirmed, &e.Updated} {
			*age = time.Duration(r.Int64N(int64(48 * time.Hour)))
		}
		link := neigh.Link{Index: e.Index, Name: "eth0", Loopback: one(16), NoARP: one(16), PointToPoint: one(16), Uplink: one(2), Suppresses: one(4)}
		if one(16) {
			link = neigh.Link{}
		}
		nextHop := one(3)

		got := scope.Decide(&e, &link, nextHop)
		if got.Reason == Unknown || got.Reason >= numReasons {
			t.Fatalf("%+v on %+v: %v without a reason", e, link, got.Action)
		}
		if !mayTouch(&e, &link) {
			if got.Action != Keep {
				t.Fatalf("%+v on %+v: %v because %v, want keep", e, link, got.Action, got.Reason)
			}
			if !got.Reason.Foreign() && e.State != 0x01 {
				t.Fatalf("%+v on %+v: reason %v is not foreign", e, link, got.Reason)
			}
			continue
		}
		if link.Suppresses && e.State != 0x20 {
			if got.Action == Delete || got.Reason.Foreign() {
				t.Fatalf("%+v on %+v: %v because %v", e, link, got.Action, got.Reason)
			}
			continue
		}
		touched++
		inUse := e.State == 0x02 || e.State == 0x08 || e.State == 0x04 && nextHop
		if want := map[bool]Action{true: Verify, false: Delete}[inUse]; got.Action != want {
			t.Fatalf("%+v on %+v, next hop %v: %v because %v, want %v", e, link, nextHop, got.Action, got.Reason, want)
		}
		if got.Reason.Foreign() {
			t.Fatalf("%+v on %+v: reason %v of a touched entry is foreign", e, link, got.Reason)
		}
	}
	if touched < rounds/20 || touched > rounds/2 {
		t.Errorf("%d of %d entries may be touched: the generator tests one side only", touched, rounds)
	}
}

// Log fields, metric labels and tests are written in these words.
func TestReasonNames(t *testing.T) {
	snake := regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`)
	seen := make(map[string]Reason)
	for r := range numReasons {
		name := r.String()
		if !snake.MatchString(name) {
			t.Errorf("reason %d is called %q, want snake_case", r, name)
		}
		if other, ok := seen[name]; ok {
			t.Errorf("reasons %d and %d are both called %q", other, r, name)
		}
		seen[name] = r
	}
	if got := numReasons.String(); got != Unknown.String() {
		t.Errorf("beyond the last reason: %q, want %q", got, Unknown)
	}
}

func TestActionNames(t *testing.T) {
	for action, want := range map[Action]string{Keep: "keep", Delete: "delete", Verify: "verify", Verify + 1: "unknown"} {
		if got := action.String(); got != want {
			t.Errorf("Action(%d).String() = %q, want %q", action, got, want)
		}
	}
}

// costly is a scope that looks at everything there is to look at.
func costly() *Scope {
	return &Scope{
		Family:            "ipv4",
		Interfaces:        []string{"ens*", "eth*"},
		ExcludeInterfaces: []string{"veth*"},
		CIDRs:             prefixes("192.0.2.0/24", "10.0.0.0/8"),
		ExcludeCIDRs:      prefixes("10.1.0.0/16", "fe80::/10"),
	}
}

func TestDecideAllocatesNothing(t *testing.T) {
	e, s := state(neigh.Reachable), costly()
	var v Verdict
	if n := testing.AllocsPerRun(100, func() { v = s.Decide(&e, &eth0, true) }); n != 0 {
		t.Errorf("%v allocations for an entry", n)
	}
	if v.Reason != NextHop {
		t.Errorf("got %v: not all was looked at", v.Reason)
	}
}

func BenchmarkDecide(b *testing.B) {
	e := state(neigh.Stale)
	for name, s := range map[string]*Scope{"everything": {}, "by name and prefix": costly()} {
		b.Run(name, func(b *testing.B) {
			device := s.Device(&eth0)
			b.ReportAllocs()
			for b.Loop() {
				s.DecideOn(&e, device, false)
			}
		})
	}
}
