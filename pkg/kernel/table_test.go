package kernel

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// open returns the table of a lab host.
func open(t testing.TB, h *lab.Host) *Table {
	t.Helper()
	var table *Table
	err := h.Do(func() (err error) {
		table, err = Open()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(table.Close)
	return table
}

// host returns a lab host with a device eth0 that has 10.0.0.1/24 and
// 2001:db8::1/64, and the index of that device.
func host(t testing.TB) (*lab.Host, int) {
	t.Helper()
	l := lab.Start(t)
	h := l.Host("a")
	port := h.Plug(l.Switch(), "eth0", "02:00:00:00:00:01", "10.0.0.1/24", "2001:db8::1/64")
	return h, port.Index
}

func dump(t testing.TB, table *Table) map[neigh.Key]neigh.Entry {
	t.Helper()
	entries := make(map[neigh.Key]neigh.Entry)
	if err := table.Dump(func(e *neigh.Entry) { entries[e.Key] = *e }); err != nil {
		t.Fatal(err)
	}
	return entries
}

func key(addr string, index int) neigh.Key {
	return neigh.Key{Addr: netip.MustParseAddr(addr), Index: index}
}

func TestDumpReadsEveryMark(t *testing.T) {
	h, index := host(t)
	h.IP("neigh add 10.0.0.2 lladdr 02:00:00:00:00:02 dev eth0 nud stale")
	h.IP("neigh add 10.0.0.3 lladdr 02:00:00:00:00:03 dev eth0 nud permanent")
	h.IP("neigh add 10.0.0.4 lladdr 02:00:00:00:00:04 dev eth0 nud reachable extern_learn")
	h.IP("neigh add 10.0.0.5 lladdr 02:00:00:00:00:05 dev eth0 nud stale protocol zebra")
	h.IP("neigh add 2001:db8::2 lladdr 02:00:00:00:00:06 dev eth0 nud stale router")
	h.IP("neigh add 10.0.0.7 dev eth0 managed")
	table := open(t, h)
	got := dump(t, table)
	marked := neigh.FlagManaged
	if older(t, 5, 16) {
		marked = 0 // the kernel takes no notice of NDA_FLAGS_EXT
	}

	for _, want := range []neigh.Entry{
		{Key: key("10.0.0.2", index), State: neigh.Stale},
		{Key: key("10.0.0.3", index), State: neigh.Permanent},
		{Key: key("10.0.0.4", index), State: neigh.Reachable, Flags: neigh.FlagExtLearned},
		{Key: key("10.0.0.5", index), State: neigh.Stale, Protocol: unix.RTPROT_ZEBRA},
		{Key: key("2001:db8::2", index), State: neigh.Stale, Flags: neigh.FlagRouter},
		{Key: key("10.0.0.7", index), State: got[key("10.0.0.7", index)].State, FlagsExt: marked},
	} {
		e, ok := got[want.Key]
		if !ok {
			t.Errorf("%s is missing from the dump", want.Addr)
			continue
		}
		if e.State != want.State || e.Flags != want.Flags || e.FlagsExt != want.FlagsExt || e.Protocol != want.Protocol {
			t.Errorf("%s: got %+v, want %+v", want.Addr, e, want)
		}
		single, err := table.Get(want.Key)
		if err != nil {
			t.Errorf("Get(%s): %v", want.Addr, err)
		}
		if single.LLAddr != e.LLAddr || single.State != e.State || single.Protocol != e.Protocol || single.FlagsExt != e.FlagsExt {
			t.Errorf("Get(%s) = %+v, the dump said %+v", want.Addr, single, e)
		}
	}
	if got := got[key("10.0.0.2", index)].LLAddr.String(); got != "02:00:00:00:00:02" {
		t.Errorf("lladdr = %q", got)
	}
}

// older reports whether this kernel is older than a version. Tests may ask: what
// they want of an old kernel is that it lacks what it lacked. The product asks
// for the thing itself.
func older(t *testing.T, major, minor int) bool {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	var gotMajor, gotMinor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &gotMajor, &gotMinor); err != nil {
		t.Fatal(err)
	}
	return gotMajor < major || gotMajor == major && gotMinor < minor
}

// The library's NeighList is the reference for all fields it knows.
func TestDumpAgreesWithNeighList(t *testing.T) {
	h, _ := host(t)
	var batch strings.Builder
	for i := range 100 { // gc_thresh3 is shared by all namespaces: stay well below its 1024
		batch.WriteString("neigh add 10.0." + strconv.Itoa(i/50) + "." + strconv.Itoa(i%50+2) + " lladdr 02:00:00:00:01:02 dev eth0 nud stale\n")
		batch.WriteString("neigh add 2001:db8::1:" + strconv.Itoa(i) + " lladdr 02:00:00:00:01:02 dev eth0 nud permanent\n")
	}
	h.Batch(batch.String())
	got := dump(t, open(t, h))
	var list []netlink.Neigh
	if err := h.Do(func() (err error) {
		list, err = netlink.NeighList(0, netlink.FAMILY_ALL)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, n := range list {
		addr, ok := netip.AddrFromSlice(n.IP)
		if !ok {
			continue
		}
		seen++
		e, ok := got[neigh.Key{Addr: addr.Unmap(), Index: n.LinkIndex}]
		if !ok {
			t.Errorf("%s is missing", addr)
			continue
		}
		if int(e.State) != n.State || int(e.Flags) != n.Flags || int(e.FlagsExt) != n.FlagsExt || e.LLAddr.String() != n.HardwareAddr.String() {
			t.Errorf("%s: got %+v, NeighList said %+v", addr, e, n)
		}
		for _, age := range []struct {
			name  string
			got   time.Duration
			ticks uint32
		}{{"used", e.Used, n.Used}, {"confirmed", e.Confirmed, n.Confirmed}, {"updated", e.Updated, n.Updated}} {
			if d := time.Duration(age.ticks)*10*time.Millisecond - age.got; d < 0 || d > 5*time.Second {
				t.Errorf("%s: %s age %v, NeighList later said %d ticks", addr, age.name, age.got, age.ticks)
			}
		}
	}
	if seen != len(got) || seen < 200 {
		t.Errorf("NeighList has %d entries, Dump %d; want the same and at least 200", seen, len(got))
	}
}

func TestDelete(t *testing.T) {
	h, index := host(t)
	const count = maxBatch + 50 // more than one batch
	var keys []neigh.Key
	var batch strings.Builder
	for i := range count {
		addr := "10.0." + strconv.Itoa(i/250) + "." + strconv.Itoa(i%250+2)
		keys = append(keys, key(addr, index))
		if i%2 == 0 {
			batch.WriteString("neigh add " + addr + " lladdr 02:00:00:00:01:02 dev eth0 nud stale\n")
		}
	}
	h.Batch(batch.String())
	h.IP("neigh add 2001:db8::9 lladdr 02:00:00:00:01:02 dev eth0 nud stale")
	table := open(t, h)

	failed, err := table.Delete(keys)
	if err != nil {
		t.Fatal(err)
	}
	if len(failed) != count/2 {
		t.Fatalf("%d failures, want one for each of the %d entries that did not exist", len(failed), count/2)
	}
	for i, f := range failed {
		if f.Key != keys[2*i+1] || !errors.Is(f.Err, neigh.ErrGone) {
			t.Errorf("failure %d: %v %v, want ErrGone for %v", i, f.Key, f.Err, keys[2*i+1])
		}
	}
	left := dump(t, table)
	for _, k := range keys {
		if _, ok := left[k]; ok {
			t.Errorf("%s is still there", k.Addr)
		}
	}
	if _, ok := left[key("2001:db8::9", index)]; !ok {
		t.Error("an entry that was not named is gone")
	}
	failed, err = table.Delete([]neigh.Key{key("10.0.0.2", 9999)})
	if err != nil || len(failed) != 1 || !errors.Is(failed[0].Err, neigh.ErrGone) {
		t.Errorf("deleting on a device that does not exist: %v, %v; want one ErrGone", failed, err)
	}
}

// What NUD_STALE, NUD_PROBE and NTF_USE do to an entry is what the renewal of
// entries in use is built on.
func TestSetStateKeepsEverythingElse(t *testing.T) {
	h, index := host(t)
	h.IP("neigh add 2001:db8::2 lladdr 02:00:00:00:00:06 dev eth0 nud reachable router")
	table := open(t, h)
	k := key("2001:db8::2", index)
	before, err := table.Get(k)
	if err != nil {
		t.Fatal(err)
	}
	for _, state := range []neigh.State{neigh.Stale, neigh.Probe, neigh.Stale} {
		if err := table.SetState(k, state); err != nil {
			t.Fatal(err)
		}
		after, err := table.Get(k)
		if err != nil {
			t.Fatal(err)
		}
		if after.State != state || after.LLAddr != before.LLAddr || after.Flags != before.Flags {
			t.Errorf("after %s: %+v, before %+v", state, after, before)
		}
		if after.Updated > time.Second {
			t.Errorf("after %s: updated age %v did not restart", state, after.Updated)
		}
	}
	if err := table.Use(k); err != nil {
		t.Fatal(err)
	}
	after, err := table.Get(k)
	if err != nil {
		t.Fatal(err)
	}
	if after.State != neigh.Delay || after.LLAddr != before.LLAddr || after.Flags != before.Flags || after.Used > time.Second {
		t.Errorf("after use: %+v, want the same entry in delay", after)
	}
	for _, err := range []error{
		table.SetState(key("10.0.0.99", index), neigh.Stale),
		table.Use(key("10.0.0.99", index)),
		table.SetState(key("10.0.0.99", 9999), neigh.Stale),
	} {
		if !errors.Is(err, neigh.ErrGone) {
			t.Errorf("changing an entry that does not exist: %v, want ErrGone", err)
		}
	}
	if _, ok := dump(t, table)[key("10.0.0.99", index)]; ok {
		t.Error("changing an entry that does not exist created it")
	}
}

// An entry that is given away carries packets to its new holder, and is verified by
// the kernel itself: what the new holder answers must reach the kernel.
func TestGive(t *testing.T) {
	h, index := host(t)
	table := open(t, h)
	k := key("2001:db8::2", index)
	for _, before := range []string{"lladdr 02:00:00:00:00:06 nud reachable router", "lladdr 02:00:00:00:00:06 nud stale router", "nud failed router"} {
		h.IP("neigh replace 2001:db8::2 dev eth0 " + before)
		if err := table.Give(k, mac(2, 0, 0, 0, 0, 9), neigh.FlagRouter); err != nil {
			t.Fatal(err)
		}
		after, err := table.Get(k)
		if err != nil {
			t.Fatal(err)
		}
		if after.State != neigh.Delay || after.LLAddr != mac(2, 0, 0, 0, 0, 9) || after.Flags != neigh.FlagRouter || after.Used > time.Second || after.Updated > time.Second {
			t.Errorf("%s: %+v, want a router in delay at 02:00:00:00:00:09", before, after)
		}
	}
	// Why it takes two requests.
	one := request{Key: k, typ: unix.RTM_NEWNEIGH, flags: unix.NLM_F_REPLACE, state: neigh.Stale, ntf: netlink.NTF_USE, lladdr: mac(2, 0, 0, 0, 0, 7)}
	if err := table.change(one); err != nil {
		t.Fatal(err)
	}
	if after, err := table.Get(k); err != nil || after.LLAddr != mac(2, 0, 0, 0, 0, 9) {
		t.Errorf("one request with NTF_USE: %+v, %v; want it at 02:00:00:00:00:09 still", after, err)
	}
	if err := table.Give(key("10.0.0.99", index), mac(2, 0, 0, 0, 0, 9), 0); !errors.Is(err, neigh.ErrGone) {
		t.Errorf("an entry that does not exist: %v, want ErrGone", err)
	}
	if _, ok := dump(t, table)[key("10.0.0.99", index)]; ok {
		t.Error("giving away an entry that does not exist created it")
	}
}

func TestGivenEntryIsVerifiedByTheKernel(t *testing.T) {
	t.Parallel()
	l := lab.Start(t)
	sw := l.Switch()
	a, b := l.Host("a"), l.Host("b")
	port := a.Plug(sw, "eth0", "02:00:00:00:00:01", "10.0.0.1/24")
	b.Plug(sw, "eth0", "02:00:00:00:00:02", "10.0.0.2/24")
	a.Sysctl("net/ipv4/neigh/eth0/delay_first_probe_time", "1")
	table := open(t, a)
	k := key("10.0.0.2", port.Index)
	for _, tt := range []struct {
		to   neigh.LLAddr
		want neigh.State
	}{
		{mac(2, 0, 0, 0, 0, 2), neigh.Reachable},
		{mac(2, 0, 0, 0, 0, 9), neigh.Failed}, // nobody is there
	} {
		a.IP("neigh replace 10.0.0.2 lladdr 02:00:00:00:00:07 dev eth0 nud reachable")
		if err := table.Give(k, tt.to, 0); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(15 * time.Second)
		var seen []neigh.State
		for len(seen) == 0 || seen[len(seen)-1] != tt.want && time.Now().Before(deadline) {
			e, err := table.Get(k)
			if err != nil {
				t.Fatal(err)
			}
			if len(seen) == 0 || e.State != seen[len(seen)-1] {
				seen = append(seen, e.State)
			}
			<-time.After(5 * time.Millisecond)
		}
		if last := seen[len(seen)-1]; last != tt.want || seen[0] != neigh.Delay {
			t.Errorf("given to %s: %s, want delay, and %s in the end", tt.to, seen, tt.want)
		}
	}
}

func TestGetAll(t *testing.T) {
	h, index := host(t)
	const count = 2*maxLookups + 50 // more than one batch
	var keys []neigh.Key
	var batch strings.Builder
	for i := range count {
		addr := "10.0." + strconv.Itoa(i/250) + "." + strconv.Itoa(i%250+2)
		keys = append(keys, key(addr, index))
		if i%2 == 0 {
			batch.WriteString("neigh add " + addr + " lladdr 02:00:00:00:01:02 dev eth0 nud stale\n")
		}
	}
	h.Batch(batch.String())
	table := open(t, h)
	for _, single := range []bool{true, false} {
		table.single = single
		got := make(map[neigh.Key]bool)
		if err := table.GetAll(keys, func(e *neigh.Entry) { got[e.Key] = true }); err != nil {
			t.Fatal(err)
		}
		for i, k := range keys {
			if got[k] != (i%2 == 0) {
				t.Errorf("single lookup %v: %s visited: %v", single, k.Addr, got[k])
			}
		}
	}
}

// Kernels before 5.0 have no single lookup: the dump must serve instead.
func TestGetWithoutSingleLookup(t *testing.T) {
	h, index := host(t)
	h.IP("neigh add 10.0.0.2 lladdr 02:00:00:00:00:02 dev eth0 nud stale")
	table := open(t, h)
	if !table.single {
		t.Log("this kernel has no single lookup")
	}
	table.single = false
	e, err := table.Get(key("10.0.0.2", index))
	if err != nil || e.State != neigh.Stale || e.LLAddr.String() != "02:00:00:00:00:02" {
		t.Errorf("Get = %+v, %v", e, err)
	}
	if _, err := table.Get(key("10.0.0.3", index)); !errors.Is(err, neigh.ErrGone) {
		t.Errorf("Get of an entry that does not exist: %v, want ErrGone", err)
	}
}

func TestTopology(t *testing.T) {
	l := lab.Start(t)
	h := l.Host("a")
	sw := l.Switch()
	up := h.Plug(sw, "eth0", "", "10.0.0.1/24", "2001:db8::1/64")
	pod := h.Plug(sw, "cali0", "")
	ptp := h.Plug(sw, "gke0", "", "10.4.0.1/32")
	viaOnly := h.Plug(sw, "eth1", "")
	h.IP("link add br9 type bridge")
	h.IP("route add default via 10.0.0.254")
	h.IP("route add 10.9.0.0/16 nexthop via 10.0.0.253 nexthop via 10.0.0.252")
	h.IP("route add 10.8.0.0/16 via 10.0.0.251 table 77")
	h.IP("route add 10.7.0.0/16 via inet6 fe80::7 dev eth1")
	h.IP("route add 2001:db8:1::/64 via 2001:db8::fe")
	topo, err := open(t, h).Topology()
	if err != nil {
		t.Fatal(err)
	}
	want := map[neigh.Key]bool{
		key("10.0.0.254", up.Index): true, key("10.0.0.253", up.Index): false, key("10.0.0.252", up.Index): false,
		key("10.0.0.251", up.Index): false, key("fe80::7", viaOnly.Index): false, key("2001:db8::fe", up.Index): false,
	}
	if !maps.Equal(topo.NextHops, want) {
		t.Errorf("next hops: %v, want %v", topo.NextHops, want)
	}
	for index, uplink := range map[int]bool{up.Index: true, pod.Index: false, ptp.Index: false, viaOnly.Index: true, 1: false} {
		if got := topo.Links[index]; got.Uplink != uplink {
			t.Errorf("%+v: want uplink %v", got, uplink)
		}
	}
	if lo := topo.Links[1]; lo.Name != "lo" || !lo.Loopback {
		t.Errorf("lo: %+v", lo)
	}
}

func TestCheckWrite(t *testing.T) {
	h, _ := host(t)
	if err := open(t, h).CheckWrite(); err != nil {
		t.Errorf("with CAP_NET_ADMIN: %v", err)
	}
	// Capabilities belong to the thread, and the thread that Do uses is thrown
	// away.
	err := h.Do(func() error {
		if err := dropNetAdmin(); err != nil {
			t.Fatal(err)
		}
		table, err := Open()
		if err != nil {
			t.Errorf("reading needs no capability, but: %v", err)
			return nil
		}
		defer table.Close()
		if err := table.Dump(func(*neigh.Entry) {}); err != nil {
			t.Errorf("dump without CAP_NET_ADMIN: %v", err)
		}
		return table.CheckWrite()
	})
	if !errors.Is(err, neigh.ErrPermission) {
		t.Errorf("without CAP_NET_ADMIN: %v, want ErrPermission", err)
	}
}

func dropNetAdmin() error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return err
	}
	data[0].Effective &^= 1 << unix.CAP_NET_ADMIN
	data[0].Permitted &^= 1 << unix.CAP_NET_ADMIN
	return unix.Capset(&hdr, &data[0])
}
