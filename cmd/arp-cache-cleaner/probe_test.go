package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

func TestProbe(t *testing.T) {
	t.Parallel()
	l := lab.Start(t)
	sw := l.Switch()
	n, peer, other := l.Host("node"), l.Host("peer"), l.Host("other")
	n.Plug(sw, "eth0", nodeMAC, "10.0.0.1/24", "2001:db8::1/64")
	n.Sysctl("net/ipv4/neigh/eth0/locktime", "0") // any answer may move an entry
	n.IP("route add default via 10.0.0.254")
	n.Sysctl("net/ipv4/conf/eth0/arp_announce", "2")
	n.IP("addr add 10.99.0.5/32 dev lo")
	n.IP("route add 10.0.0.8/32 dev eth0 src 10.99.0.5")
	n.IP("route add 10.0.9.0/24 dev lo")
	peer.Plug(sw, "eth0", peerMAC, "10.0.0.2/24", "10.0.0.3/24", "2001:db8::2/64")
	other.Plug(sw, "eth0", otherMAC, "10.0.0.3/24")
	n.Touch("10.0.0.2")
	n.IP("neigh add 10.0.0.3 lladdr " + peerMAC + " dev eth0 nud reachable")
	for _, tt := range []struct {
		name    string
		args    []string
		without []uintptr
		code    int
		holders []string
		source  string // the kernel's own, where it is not that of the route
		stderr  string
	}{
		{name: "one", args: []string{"10.0.0.2", "--count=2"}, holders: []string{peerMAC}},
		{name: "one, without an entry", args: []string{"2001:db8::2", "--count=1", "--interface=eth0"}, holders: []string{peerMAC}},
		{name: "none", args: []string{"10.0.0.9", "--count=1"}, code: 3},
		{name: "several", args: []string{"10.0.0.3", "--count=2"}, code: 4, holders: []string{peerMAC, otherMAC}},
		{name: "from another address than the route's", args: []string{"10.0.0.8", "--count=1"}, code: 3, source: "10.0.0.1"},
		{name: "own address, on its device", args: []string{"10.0.0.1", "--interface=eth0"}, code: 1, stderr: "10.0.0.1 is this node's own address"},
		{name: "own address", args: []string{"10.0.0.1"}, code: 1, stderr: "10.0.0.1 is this node's own address"},
		{name: "behind a gateway", args: []string{"192.0.2.1"}, code: 1, stderr: "192.0.2.1 is not on link: it is reached by way of 10.0.0.254"},
		{name: "no such device", args: []string{"10.0.0.2", "--interface=eth7"}, code: 1, stderr: "--interface: there is no device eth7"},
		{name: "no route", args: []string{"2001:db8:ffff::1"}, code: 1, stderr: "finding the route to 2001:db8:ffff::1: network is unreachable"},
		{name: "no Ethernet", args: []string{"10.0.9.1"}, code: 1, stderr: "lo is of ARPHRD type 772 with addresses of 6 bytes: not an Ethernet interface"},
		{name: "without CAP_NET_RAW", args: []string{"10.0.0.2"}, without: []uintptr{unix.CAP_NET_RAW}, code: 1, stderr: "asking on eth0: CAP_NET_RAW is missing: run as root; in Kubernetes with runAsUser: 0"},
		{name: "without CAP_NET_ADMIN, and an entry", args: []string{"10.0.0.2"}, without: []uintptr{unix.CAP_NET_ADMIN}, code: 1, stderr: "this node has an entry for 10.0.0.2, which an answer could move: CAP_NET_ADMIN is missing: run as root"},
		{name: "without CAP_NET_ADMIN", args: []string{"2001:db8::7", "--count=1"}, without: []uintptr{unix.CAP_NET_ADMIN}, code: 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := prepare(t, n, append([]string{"probe", "-o", "json"}, tt.args...)...)
			p.launch(tt.without)
			if code := p.wait(); code != tt.code || !strings.Contains(p.stderr.String(), tt.stderr) || (tt.stderr == "") != (p.stderr.String() == "") {
				t.Fatalf("exit code %d, %q; want %d, %q", code, p.stderr.String(), tt.code, tt.stderr)
			}
			if tt.stderr != "" {
				return
			}
			var r result
			if err := json.Unmarshal(p.stdout.Bytes(), &r); err != nil {
				t.Fatal(err)
			}
			if tt.source != "" && r.Source != tt.source {
				t.Errorf("asked from %s, want %s", r.Source, tt.source)
			}
			got := map[string]bool{}
			for _, h := range r.Holders {
				got[h.LLAddr] = true
				if h.Answers != r.Asked || h.Min <= 0 || h.Max < h.Min {
					t.Errorf("asked %d times: %+v", r.Asked, h)
				}
			}
			for _, want := range tt.holders {
				if !got[want] {
					t.Errorf("%s did not answer: %s", want, p.stdout.String())
				}
			}
			if len(got) != len(tt.holders) {
				t.Errorf("%d holders, want %d: %s", len(got), len(tt.holders), p.stdout.String())
			}
		})
	}
	if left := n.IP("neigh"); strings.Contains(left, otherMAC) || !strings.Contains(left, "10.0.0.3 dev eth0 lladdr "+peerMAC) || strings.Contains(left, "2001:db8::2 ") {
		t.Errorf("probing changed the table:\n%s", left)
	}
}

// An answer that comes later than probe waits for it does not keep the node's entry.
func TestProbeOfALateHolder(t *testing.T) {
	t.Parallel()
	l := lab.Start(t)
	sw := l.Switch()
	n, peer := l.Host("node"), l.Host("peer")
	n.Plug(sw, "eth0", nodeMAC, "10.0.0.1/24", "2001:db8::1/64")
	n.Sysctl("net/ipv4/neigh/eth0/locktime", "0")
	peer.Plug(sw, "eth0", peerMAC, "10.0.0.2/24", "2001:db8::2/64")
	for addr, delay := range map[string]time.Duration{"10.0.0.2": 700 * time.Millisecond, "2001:db8::2": 1500 * time.Millisecond} {
		n.IP("neigh replace " + addr + " lladdr " + peerMAC + " dev eth0 nud reachable")
		late(l, sw, addr, delay)
	}
	for _, addr := range []string{"10.0.0.2", "2001:db8::2"} {
		watch := monitor(t, n)
		p := prepare(t, n, "probe", addr, "--count=1")
		p.launch(nil)
		if code := p.wait(); code != 0 {
			t.Fatalf("exit code %d, %q", code, p.stderr.String())
		}
		if shown, seen := n.IP("neigh show "+addr), watch(); !strings.Contains(shown, peerMAC) || !strings.Contains(seen, addr+" dev eth0 lladdr "+otherMAC) {
			t.Errorf("the entry is now %swhat happened to it:\n%s", shown, seen)
		}
	}
}

// The last line counts the holders.
func TestPrintHolders(t *testing.T) {
	for n, want := range []string{
		"0 holders of 10.0.0.2 answered on eth0, asked from 10.0.0.1\n",
		"1 holder of 10.0.0.2 answered on eth0, asked from 10.0.0.1\n",
		"2 holders of 10.0.0.2 answered on eth0, asked from 10.0.0.1\n",
	} {
		var b bytes.Buffer
		if err := printHolders(&b, &result{Address: "10.0.0.2", Device: "eth0", Source: "10.0.0.1", Holders: make([]holder, n)}); err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(b.String(), "\n"+want) {
			t.Errorf("got %q, want %q at its end", b.String(), want)
		}
	}
}
