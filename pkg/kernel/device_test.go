package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// linkMessage is the body of an RTM_NEWLINK message, whole.
func linkMessage(index uint32, name string, attrs ...[]byte) []byte {
	b := slices.Concat(u32s(0, index, unix.IFF_UP, 0), appendAttr(nil, unix.IFLA_IFNAME, append([]byte(name), 0)))
	b = append(b, make([]byte, align(len(b))-len(b))...)
	return append(b, slices.Concat(attrs...)...)
}

func linkInfoOf(kind string, more ...[]byte) []byte {
	info := appendAttr(nil, unix.IFLA_INFO_KIND, append([]byte(kind), 0))
	info = append(info, make([]byte, align(len(info))-len(info))...)
	return appendAttr(nil, unix.IFLA_LINKINFO, append(info, slices.Concat(more...)...))
}

// portOf is what IFLA_LINKINFO says of a port: the kind of what it is enslaved to,
// and one flag.
func portOf(kind string, flag uint16, on byte) []byte {
	b := appendAttr(nil, unix.IFLA_INFO_SLAVE_KIND, append([]byte(kind), 0))
	b = append(b, make([]byte, align(len(b))-len(b))...)
	data := appendAttr(nil, unix.IFLA_BRPORT_STATE, []byte{3, 0, 0, 0})
	return append(b, appendAttr(nil, unix.IFLA_INFO_SLAVE_DATA, appendAttr(data, flag, []byte{on, 0, 0, 0}))...)
}

var (
	portBody  = linkMessage(8, "eth1", appendAttr(nil, unix.IFLA_MASTER, u32s(7)), linkInfoOf("veth", portOf("bridge", unix.IFLA_BRPORT_NEIGH_SUPPRESS, 1)))
	vlanBody  = linkMessage(9, "br0.10", appendAttr(nil, unix.IFLA_LINK, u32s(7)), linkInfoOf("vlan"))
	parmsBody = slices.Concat([]byte{unix.AF_INET6, 0, 0, 0}, appendAttr(nil, ndtaParms,
		appendAttr(appendAttr(nil, ndtpaIfindex, u32s(7)), ndtpaBaseReachableTime, binary.NativeEndian.AppendUint64(nil, 200000))))
)

func TestDecodeDevice(t *testing.T) {
	master, lower := appendAttr(nil, unix.IFLA_MASTER, u32s(7)), appendAttr(nil, unix.IFLA_LINK, u32s(7))
	elsewhere := appendAttr(nil, unix.IFLA_LINK_NETNSID, u32s(0))
	named := func(d device) device {
		d.Index, d.Name = 8, "eth1"
		return d
	}
	for _, tt := range []struct {
		name string
		body []byte
		want device
	}{
		{"bridge", linkMessage(8, "eth1", linkInfoOf("bridge")), device{bridge: true}},
		{"port", linkMessage(8, "eth1", master, linkInfoOf("veth", portOf("bridge", unix.IFLA_BRPORT_NEIGH_SUPPRESS, 0))), device{master: 7}},
		{"port with neigh_suppress", portBody, device{master: 7, suppressing: true}},
		{"port with neigh_vlan_suppress", linkMessage(8, "eth1", master, linkInfoOf("vxlan", portOf("bridge", unix.IFLA_BRPORT_NEIGH_VLAN_SUPPRESS, 1))),
			device{master: 7, suppressing: true}},
		{"port with another flag", linkMessage(8, "eth1", master, linkInfoOf("veth", portOf("bridge", unix.IFLA_BRPORT_ISOLATED, 1))), device{master: 7}},
		// The numbers of what is said of a port are those of other things elsewhere.
		{"port of a bond", linkMessage(8, "eth1", master, linkInfoOf("veth", portOf("bond", unix.IFLA_BRPORT_NEIGH_SUPPRESS, 1))), device{master: 7}},
		{"with an address", linkMessage(8, "eth1", appendAttr(nil, unix.IFLA_ADDRESS, []byte{2, 0, 0, 0, 0, 1})), device{Link: neigh.Link{LLAddr: mac(2, 0, 0, 0, 0, 1)}}},
		{"with none, like lo", linkMessage(8, "eth1", appendAttr(nil, unix.IFLA_ADDRESS, make([]byte, 6))), device{}},
		{"VLAN", linkMessage(8, "eth1", lower, linkInfoOf("vlan")), device{lower: 7}},
		{"macvlan", linkMessage(8, "eth1", lower, linkInfoOf("macvlan")), device{lower: 7}},
		{"macvlan on a device of another namespace", linkMessage(8, "eth1", lower, elsewhere, linkInfoOf("macvlan")), device{}},
		{"veth", linkMessage(8, "eth1", lower, linkInfoOf("veth")), device{}}, // its peer
		{"VLAN in a VRF", linkMessage(8, "eth1", lower, master, linkInfoOf("vlan")), device{lower: 7, master: 7}},
	} {
		if d, err := decodeLink(tt.body); err != nil || d != named(tt.want) {
			t.Errorf("%s: %+v, %v, want %+v", tt.name, d, err, named(tt.want))
		}
	}
	for _, tt := range []struct {
		says string
		body []byte
	}{
		{"attribute 5 of a device, of 3 bytes: malformed netlink message", linkMessage(8, "eth1", appendAttr(nil, unix.IFLA_LINK, []byte{1, 2, 3}))},
		{"attribute 10 of a device, of 0 bytes: malformed netlink message", linkMessage(8, "eth1", appendAttr(nil, unix.IFLA_MASTER, nil))},
		{"link-layer address of 33 bytes: malformed netlink message", linkMessage(8, "eth1", appendAttr(nil, unix.IFLA_ADDRESS, bytes.Repeat([]byte{1}, 33)))},
		{"attribute of 99 bytes where 4 are left: malformed netlink message", linkMessage(8, "eth1", appendAttr(nil, unix.IFLA_LINKINFO, []byte{99, 0, 1, 0}))},
		{"attribute of 99 bytes where 4 are left: malformed netlink message", linkMessage(8, "eth1", linkInfoOf("veth",
			appendAttr(nil, unix.IFLA_INFO_SLAVE_KIND, []byte("bridge\x00\x00")), appendAttr(nil, unix.IFLA_INFO_SLAVE_DATA, []byte{99, 0, 1, 0})))},
	} {
		if _, err := decodeLink(tt.body); !errors.Is(err, neigh.ErrMalformed) || err.Error() != tt.says {
			t.Errorf("%v, want %s", err, tt.says)
		}
	}
}

// What lies on a bridge that answers for others is found through all that is between.
func TestStack(t *testing.T) {
	devices := make(map[int]device)
	for _, d := range []device{
		{Link: neigh.Link{Index: 1, Name: "br0"}, bridge: true, master: 9},
		{Link: neigh.Link{Index: 2, Name: "eth1"}, master: 1},
		{Link: neigh.Link{Index: 3, Name: "vxlan10"}, master: 1, suppressing: true},
		{Link: neigh.Link{Index: 4, Name: "br0.10"}, lower: 1},
		{Link: neigh.Link{Index: 5, Name: "macvlan on it"}, lower: 4},
		{Link: neigh.Link{Index: 6, Name: "br1"}, bridge: true},
		{Link: neigh.Link{Index: 7, Name: "eth2"}, master: 6},
		{Link: neigh.Link{Index: 8, Name: "br1.10"}, lower: 6},
		{Link: neigh.Link{Index: 9, Name: "VRF of br0"}},
		{Link: neigh.Link{Index: 10, Name: "VLAN on its port"}, lower: 3},
		{Link: neigh.Link{Index: 11, Name: "one on itself"}, lower: 11},
	} {
		devices[d.Index] = d
	}
	all := links(devices)
	if len(all) != len(devices) {
		t.Errorf("%d links of %d devices", len(all), len(devices))
	}
	for i, l := range all {
		if want := i == 1 || i == 4 || i == 5; l.Suppresses != want {
			t.Errorf("device %d: %v, want %v", i, l.Suppresses, want)
		}
	}
}

func TestDecodeParms(t *testing.T) {
	about := func(family byte, attrs ...[]byte) []byte {
		return slices.Concat([]byte{family, 0, 0, 0}, appendAttr(nil, ndtaParms, slices.Concat(attrs...)))
	}
	of := appendAttr(nil, ndtpaIfindex, u32s(7))
	base := func(ms uint64) []byte {
		return appendAttr(nil, ndtpaBaseReachableTime, binary.NativeEndian.AppendUint64(nil, ms))
	}
	for _, tt := range []struct {
		name string
		body []byte
		want parms
	}{
		{"IPv6", parmsBody, parms{7, 1, 200 * time.Second}},
		{"IPv4", about(unix.AF_INET, of, base(30000)), parms{7, 0, 30 * time.Second}},
		{"the defaults of a table", about(unix.AF_INET, base(30000)), parms{0, 0, 30 * time.Second}},
		{"another family", about(unix.AF_UNSPEC, of, base(30000)), parms{}},
		{"nothing said", []byte{unix.AF_INET, 0, 0, 0}, parms{}},
		{"longer than can be", about(unix.AF_INET, of, base(math.MaxUint64)), parms{7, 0, math.MaxInt64 / 4 / time.Millisecond * time.Millisecond}},
	} {
		if p, err := decodeParms(tt.body); err != nil || p != tt.want {
			t.Errorf("%s: %+v, %v, want %+v", tt.name, p, err, tt.want)
		}
	}
	for _, tt := range []struct {
		says string
		body []byte
	}{
		{"ndtmsg of 3 bytes: malformed netlink message", parmsBody[:3]},
		{"attribute of 24 bytes where 12 are left: malformed netlink message", parmsBody[:16]},
		{"attribute of 99 bytes where 4 are left: malformed netlink message", about(unix.AF_INET, []byte{99, 0, 1, 0})},
		{"attribute 1 of the parameters of a table, of 3 bytes: malformed netlink message", about(unix.AF_INET, appendAttr(nil, ndtpaIfindex, []byte{1, 2, 3}))},
		{"attribute 4 of the parameters of a table, of 4 bytes: malformed netlink message", about(unix.AF_INET, appendAttr(nil, ndtpaBaseReachableTime, u32s(1)))},
	} {
		if _, err := decodeParms(tt.body); !errors.Is(err, neigh.ErrMalformed) || err.Error() != tt.says {
			t.Errorf("%v, want %s", err, tt.says)
		}
	}
}

// The kernel is asked what it does: Topology and Place say the same of a bridge, and
// of what lies on it, at the moment a port begins to suppress and when it ends.
func TestBridgeThatAnswersForOthers(t *testing.T) {
	l := lab.Start(t)
	h, sw := l.Host("a"), l.Switch()
	h.Plug(sw, "eth0", "", "10.9.0.1/24")
	h.Plug(sw, "eth1", "")
	h.Plug(sw, "eth2", "")
	for _, args := range []string{
		"link add br0 type bridge", "link set br0 up", "addr add 10.0.0.1/24 dev br0",
		"link set eth1 master br0", "link set eth2 master br0",
		"link add mac0 link br0 type macvlan mode bridge", "link set mac0 up", "addr add 10.1.0.1/24 dev mac0",
		"link add mac1 link mac0 type macvlan mode bridge", "link set mac1 up", "addr add 10.2.0.1/24 dev mac1",
		"link add mac2 link eth0 type macvlan mode bridge", "link set mac2 up", "addr add 10.3.0.1/24 dev mac2",
	} {
		h.IP(args)
	}
	// device by a neighbour's address, and whether it lies on the bridge
	devices := map[string]string{"10.0.0.2": "br0", "10.1.0.2": "mac0", "10.2.0.2": "mac1", "10.3.0.2": "mac2", "10.9.0.2": "eth0"}
	if _, err := h.Try("ip", strings.Fields("link add br0.10 link br0 type vlan id 10")...); err == nil {
		h.IP("link set br0.10 up")
		h.IP("addr add 10.4.0.1/24 dev br0.10")
		devices["10.4.0.2"] = "br0.10"
	} else if !strings.Contains(err.Error(), "Unknown device type") {
		t.Fatal(err)
	} else {
		t.Log("this kernel has no VLANs: TestStack has to do for them")
	}
	table := open(t, h)
	check := func(when string, suppresses bool) {
		t.Helper()
		topo, err := table.Topology()
		if err != nil {
			t.Fatal(err)
		}
		for addr, name := range devices {
			p, err := table.Place(netip.MustParseAddr(addr), 0)
			if err != nil {
				t.Fatal(err)
			}
			want := suppresses && name != "eth0" && name != "mac2"
			if got := topo.Links[p.Link.Index]; p.Link.Name != name || got.Name != name || p.Link.Suppresses != want || got.Suppresses != want {
				t.Errorf("%s: Place says %+v, Topology %+v, want %s, %v", when, p.Link, got, name, want)
			}
		}
	}
	check("at first", false)
	h.Run("bridge", "link", "set", "dev", "eth2", "neigh_suppress", "on")
	check("neigh_suppress on", true)
	h.Run("bridge", "link", "set", "dev", "eth2", "neigh_suppress", "off")
	check("neigh_suppress off", false)
}
