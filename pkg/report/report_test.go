package report

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
)

const s = time.Second

var deleteIdle = policy.Verdict{Action: policy.Delete, Reason: policy.Idle}

func uplink(i int) *neigh.Link {
	return &neigh.Link{Index: i, Name: fmt.Sprintf("eth%d", i), Uplink: true}
}

func podLink(i int) *neigh.Link { return &neigh.Link{Index: i, Name: fmt.Sprintf("cali%d", i)} }

func entry(addr string, index int, state neigh.State) *neigh.Entry {
	return &neigh.Entry{Key: neigh.Key{Addr: netip.MustParseAddr(addr), Index: index}, State: state}
}

// add adds an idle entry, all of whose ages are age.
func add(b *Builder, addr string, link *neigh.Link, age time.Duration, nextHop, isDefault bool) {
	b.Add(entry(addr, link.Index, neigh.Stale), link, deleteIdle, &neigh.Ages{age, age, age, age}, nextHop, isDefault)
}

func device(t *testing.T, r *Report, name string) Device {
	t.Helper()
	i := slices.IndexFunc(r.Devices, func(d Device) bool { return d.Name == name })
	if i < 0 {
		t.Fatalf("there is no device %q in %+v", name, r.Devices)
	}
	return r.Devices[i]
}

func stale(d Device) int { return d.Families[0].States[stateIndex(neigh.Stale)] }

func TestEmptyReport(t *testing.T) {
	now := time.Now()
	got := NewBuilder(now, 3).Finish()
	if !got.At.Equal(now) || len(got.Devices) != 0 || len(got.Entries) != 0 || got.Overdue != 0 {
		t.Errorf("got %+v", got)
	}
}

func TestDevicesAreNamedAsUplinks(t *testing.T) {
	b := NewBuilder(time.Now(), 0)
	// A dump comes in runs, but may start over.
	for range 2 {
		for i := range 3 {
			add(b, "10.0.0.1", uplink(1+i), s, false, false)
			add(b, "10.0.0.2", uplink(1+i), s, false, false)
			add(b, "10.4.0.1", podLink(11+i), s, false, false)
		}
	}
	got := b.Finish()
	if len(got.Devices) != 4 {
		t.Errorf("%d devices, want 3 uplinks and %q", len(got.Devices), Other)
	}
	for name, want := range map[string]int{"eth1": 4, "eth2": 4, "eth3": 4, Other: 6} {
		if n := stale(device(t, got, name)); n != want {
			t.Errorf("%s has %d entries, want %d", name, n, want)
		}
	}
}

func TestNamedDevicesAreBounded(t *testing.T) {
	for _, podFirst := range []bool{false, true} {
		t.Run(fmt.Sprint("podFirst=", podFirst), func(t *testing.T) {
			b := NewBuilder(time.Now(), 1000)
			if podFirst {
				add(b, "10.4.0.1", podLink(1000), s, false, false)
			}
			const n = 100
			for i := range n {
				add(b, fmt.Sprintf("10.0.0.%d", i), uplink(1+i), s, false, false)
				b.AddContested(uplink(1 + i))
			}
			if !podFirst {
				add(b, "10.4.0.1", podLink(1000), s, false, false)
			}
			got := b.Finish()
			named, entries, contested := 0, 0, 0
			for _, d := range got.Devices {
				entries, contested = entries+stale(d), contested+d.Contested
				if d.Name != Other {
					if named++; stale(d) != 1 || d.Contested != 1 {
						t.Errorf("%+v, want one entry, contested", d)
					}
				}
			}
			if named > maxDevices || named < maxDevices-1 || len(got.Devices) != named+1 {
				t.Errorf("%d devices, %d of them named; want %d and %q", len(got.Devices), named, maxDevices, Other)
			}
			if other := device(t, got, Other); stale(other) != n+1-named || other.Contested != n-named || entries != n+1 || contested != n {
				t.Errorf("%s: %+v, want all that are not named", Other, other)
			}
			// One by one, each names its own.
			for i, e := range got.Entries[:n] {
				if want := uplink(1 + i).Name; e.Device != want {
					t.Errorf("%s is on %s, want %s", e.Addr, e.Device, want)
				}
			}
			if e := got.Entries[n]; e.Device != "cali1000" {
				t.Errorf("%s is on %s, want cali1000", e.Addr, e.Device)
			}
		})
	}
}

func TestStates(t *testing.T) {
	unknown := len(neigh.States)
	tests := map[neigh.State]int{neigh.Stale | neigh.Failed: unknown, neigh.Permanent | neigh.NoARP: unknown, 0x100: unknown, 0x8000: unknown}
	for i, s := range neigh.States {
		tests[s] = i
	}
	for state, want := range tests {
		t.Run(fmt.Sprintf("%#x", uint16(state)), func(t *testing.T) {
			for f, addr := range []string{"10.0.0.1", "fe80::1"} {
				b := NewBuilder(time.Now(), 0)
				link := uplink(1)
				b.Add(entry(addr, 1, state), link, deleteIdle, nil, false, false)
				b.Add(entry(addr, 1, state), link, deleteIdle, nil, true, false)
				d := b.Finish().Devices[0]
				var states, none [len(neigh.States) + 1]int
				states[want] = 2
				if d.Families[f].States != states || d.Families[1-f].States != none {
					t.Errorf("%s: %+v, want 2 at %d", FamilyNames[f], d.Families, want)
				}
				states[want] = 1
				if d.NextHops != states {
					t.Errorf("next hops %v, want 1 at %d", d.NextHops, want)
				}
			}
			if want < unknown && StateName(want) != state.String() || StateName(unknown) != "unknown" {
				t.Errorf("StateName(%d) = %q", want, StateName(want))
			}
		})
	}
}

func TestAges(t *testing.T) {
	b := NewBuilder(time.Now(), 0)
	link := uplink(1)
	b.Add(entry("10.0.0.1", 1, neigh.Stale), link, deleteIdle, &neigh.Ages{1 * s, 20 * s, 3 * s, 40 * s}, false, false)
	b.Add(entry("10.0.0.2", 1, neigh.Stale), link, deleteIdle, &neigh.Ages{10 * s, 2 * s, 30 * s, 4 * s}, true, false)
	b.Add(entry("fe80::1", 1, neigh.Reachable), link, deleteIdle, &neigh.Ages{5 * s, 5 * s, 5 * s, 5 * s}, false, false)
	b.AddOverdue()
	b.AddOverdue()
	// Their ages are nobody's business, but they are counted.
	for range 3 {
		b.Add(entry("10.0.0.3", 1, neigh.Permanent), link, policy.Verdict{Action: policy.Keep, Reason: policy.IsPermanent}, nil, true, true)
	}
	b.Add(entry("10.0.0.4", 1, neigh.Incomplete), link, policy.Verdict{Action: policy.Keep, Reason: policy.Resolving}, nil, false, false)
	got := b.Finish()
	f := device(t, got, "eth1").Families
	if want := (neigh.Ages{10 * s, 20 * s, 30 * s, 40 * s}); f[0].Oldest != want || f[0].Learned != 2 {
		t.Errorf("ipv4: %+v, want 2 entries, %v", f[0], want)
	}
	if want := (neigh.Ages{5 * s, 5 * s, 5 * s, 5 * s}); f[1].Oldest != want || f[1].Learned != 1 {
		t.Errorf("ipv6: %+v, want 1 entry, %v", f[1], want)
	}
	var kept [policy.NumReasons]int
	kept[policy.IsPermanent], kept[policy.Resolving] = 3, 1
	if got.Kept != kept || got.Overdue != 2 {
		t.Errorf("kept %v, overdue %d; want %v, 2", got.Kept, got.Overdue, kept)
	}
	if len(got.Entries) != 1 {
		t.Errorf("one by one: %+v, want the learned next hop", got.Entries)
	}
}

func TestContested(t *testing.T) {
	b := NewBuilder(time.Now(), 0)
	add(b, "10.0.0.1", uplink(1), s, false, false)
	for _, link := range []*neigh.Link{uplink(1), uplink(2), uplink(1), podLink(3), {}} { // eth2 was not seen before
		b.AddContested(link)
	}
	add(b, "10.0.0.2", uplink(1), s, false, false)
	got := b.Finish()
	for name, want := range map[string]int{"eth1": 2, "eth2": 1, Other: 2} {
		if d := device(t, got, name); d.Contested != want {
			t.Errorf("%s: %d contested, want %d", name, d.Contested, want)
		}
	}
	if n := stale(device(t, got, "eth1")); n != 2 {
		t.Errorf("eth1 has %d entries, want 2", n)
	}
}

// One by one come default gateways, then other next hops, 32 of them in all,
// then as many others as were asked for: those with the lowest keys, so that it
// is the same ones from scan to scan.
func TestEntriesOneByOne(t *testing.T) {
	hops := func(from, to int) (addrs []string) {
		for i := from; i < to; i++ {
			addrs = append(addrs, fmt.Sprintf("10.0.0.%d", i))
		}
		return addrs
	}
	others := []string{"10.0.1.1", "10.0.1.2", "10.0.1.3", "fe80::1"}
	tests := []struct {
		name     string
		hops     int
		defaults []int
		perEntry int
		want     []string
	}{
		{"none asked for", 0, nil, 0, nil},
		{"next hops come unasked", 3, nil, 0, hops(0, 3)},
		{"the lowest keys", 0, nil, 3, others[:3]},
		{"fewer than asked for", 1, nil, 10, slices.Concat(hops(0, 1), others)},
		{"default gateways first", 5, []int{4, 2}, 1, slices.Concat([]string{"10.0.0.2", "10.0.0.4"}, hops(0, 2), hops(3, 4), others[:1])},
		{"no more than 32 next hops", 40, []int{39, 20}, 2,
			slices.Concat([]string{"10.0.0.20", "10.0.0.39"}, hops(0, 20), hops(21, 31), others[:2])},
	}
	r := rand.New(rand.NewPCG(1, 2))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for range 20 {
				b := NewBuilder(time.Now(), tt.perEntry)
				var adds []func()
				for i, addr := range hops(0, tt.hops) {
					adds = append(adds, func() { add(b, addr, uplink(1), s, true, slices.Contains(tt.defaults, i)) })
				}
				for _, addr := range others {
					adds = append(adds, func() { add(b, addr, uplink(1), 2*s, false, false) })
				}
				adds = append(adds, adds...) // a dump may show an entry twice
				r.Shuffle(len(adds), func(i, j int) { adds[i], adds[j] = adds[j], adds[i] })
				for _, add := range adds {
					add()
				}
				var got []string
				for i, e := range b.Finish().Entries {
					got = append(got, e.Addr.String())
					age := 2 * s
					if i < min(tt.hops, MaxNextHops) {
						age = s
					}
					if want := (neigh.Ages{age, age, age, age}); e.Ages != want || e.Device != "eth1" {
						t.Errorf("%s: %v on %s, want %v on eth1", e.Addr, e.Ages, e.Device, want)
					}
				}
				if !slices.Equal(got, tt.want) {
					t.Fatalf("got  %v\nwant %v", got, tt.want)
				}
			}
		})
	}
}

// The interface comes before the address: link-local ones occur on all of them.
func TestEntriesAreOrderedByDevice(t *testing.T) {
	b := NewBuilder(time.Now(), 3)
	for _, i := range []int{3, 1, 4, 2} {
		add(b, "fe80::1", podLink(i), s, false, false)
	}
	var got []string
	for _, e := range b.Finish().Entries {
		got = append(got, e.Device)
	}
	if want := []string{"cali1", "cali2", "cali3"}; !slices.Equal(got, want) {
		t.Errorf("on %v, want %v", got, want)
	}
}
