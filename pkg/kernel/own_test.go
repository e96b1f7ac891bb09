package kernel

import (
	"errors"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// What is said of each address is what the kernel does with it: whether it forwards on
// the device, and how far its duplicate address detection has come.
func TestOwn(t *testing.T) {
	l := lab.Start(t)
	sw := l.Switch()
	h, other := l.Host("a"), l.Host("b")
	index := h.Plug(sw, "eth0", "02:00:00:00:00:01", "10.0.0.1/24", "2001:db8::1/64").Index
	h.Plug(sw, "eth1", "02:00:00:00:00:02")
	other.Plug(sw, "eth0", "02:00:00:00:00:03", "2001:db8:2::1/64")
	h.Sysctl("net/ipv6/conf/eth0/forwarding", "1")
	h.IP("addr add 10.1.0.1/24 dev lo")
	h.IP("link add mac0 link eth1 type macvlan mode private") // NOARP
	h.IP("link set mac0 arp off up")
	h.IP("addr add 10.2.0.1/24 dev mac0")
	h.Sysctl("net/ipv6/conf/eth0/accept_dad", "1")
	h.Sysctl("net/ipv6/conf/all/accept_dad", "1")
	h.Sysctl("net/ipv6/conf/eth0/dad_transmits", "1000")
	h.IP("addr add 2001:db8:1::1/64 dev eth0") // for which the kernel goes on asking
	h.IP("addr add 2001:db8:2::1/64 dev eth0") // which another host has
	table := open(t, h)

	eth0 := neigh.Link{Name: "eth0", Index: index, LLAddr: mac(2, 0, 0, 0, 0, 1)}
	want := []neigh.OwnAddr{
		{Addr: key("10.0.0.1", 0).Addr, Link: eth0},
		{Addr: key("10.1.0.1", 0).Addr, Link: neigh.Link{Name: "lo", Index: 1, Loopback: true}},
		{Addr: key("2001:db8::1", 0).Addr, Link: eth0, Router: true},
		{Addr: key("2001:db8:1::1", 0).Addr, Link: eth0, Router: true, Tentative: true},
		{Addr: key("2001:db8:2::1", 0).Addr, Link: eth0, Router: true, Tentative: true, Duplicate: true},
	}
	var own neigh.Own
	for deadline := time.Now().Add(10 * time.Second); ; <-time.After(20 * time.Millisecond) {
		var err error
		if own, err = table.Own(); err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(own.Addrs, func(a, b neigh.OwnAddr) int { return a.Addr.Compare(b.Addr) })
		if slices.Equal(own.Addrs, want) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("got  %+v\nwant %+v", own.Addrs, want)
		}
	}
	for _, m := range []neigh.LLAddr{mac(2, 0, 0, 0, 0, 1), mac(2, 0, 0, 0, 0, 2)} {
		if !slices.Contains(own.LLAddrs, m) {
			t.Errorf("%s is not among %v", m, own.LLAddrs)
		}
	}
	if slices.Contains(own.LLAddrs, mac(2, 0, 0, 0, 0, 3)) {
		t.Error("another host's link-layer address is among them")
	}
}

// carryingBody is a device with a link-layer address, on which IPv6 is forwarded.
var carryingBody = linkMessage(8, "eth1", appendAttr(nil, unix.IFLA_ADDRESS, []byte{2, 0, 0, 0, 0, 1}),
	appendAttr(nil, unix.IFLA_AF_SPEC, appendAttr(nil, unix.AF_INET6, appendAttr(nil, inet6Conf, u32s(1, 64)))))

func TestDecodeCarrying(t *testing.T) {
	eth1 := device{Link: neigh.Link{Index: 8, Name: "eth1"}}
	router := device{Link: neigh.Link{Index: 8, Name: "eth1", LLAddr: mac(2, 0, 0, 0, 0, 1)}, settings: settings{forwards: true}}
	for _, tt := range []struct {
		name string
		body []byte
		want device
		ok   bool
	}{
		{"a router", carryingBody, router, true},
		{"without more", linkMessage(8, "eth1"), eth1, true},
		{"without IPv6", linkMessage(8, "eth1", appendAttr(nil, unix.IFLA_AF_SPEC, nil)), eth1, true},
		{"with an address of 33 bytes", linkMessage(8, "eth1", appendAttr(nil, unix.IFLA_ADDRESS, make([]byte, 33))), device{}, false},
		{"cut off", carryingBody[:len(carryingBody)-6], device{}, false},
		{"short", carryingBody[:15], device{}, false},
	} {
		d, err := decodeLink(tt.body)
		if d != tt.want || (err == nil) != tt.ok || err != nil && !errors.Is(err, neigh.ErrMalformed) {
			t.Errorf("%s: %+v, %v", tt.name, d, err)
		}
	}
}
