package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
)

var update = flag.Bool("update", false, "rewrite golden files and the generated tables of docs")

// golden compares got with a file, or writes it with -update.
func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is out of date (make generate writes it)\ngot:\n%s\nwant:\n%s", file, got, want)
	}
}

func sampleRows(t *testing.T) []row {
	t.Helper()
	lladdr := func(last byte) neigh.LLAddr {
		a, ok := neigh.LLAddrFrom([]byte{0x00, 0x50, 0x56, 0, 0, last})
		if !ok {
			t.Fatal("no lladdr")
		}
		return a
	}
	key := func(addr string, index int) neigh.Key {
		return neigh.Key{Addr: netip.MustParseAddr(addr), Index: index}
	}
	entries := []neigh.Entry{
		{Key: key("10.0.0.100", 2), LLAddr: lladdr(1), State: neigh.Reachable, Used: 199 * time.Second, Confirmed: 280 * time.Millisecond, Updated: 199 * time.Second},
		{Key: key("10.0.0.1", 2), LLAddr: lladdr(2), State: neigh.Stale, Used: 42 * time.Second, Confirmed: 42 * time.Second, Updated: 7 * time.Second},
		{Key: key("10.0.0.9", 2), LLAddr: lladdr(9), State: neigh.Stale, Used: 250 * time.Second, Confirmed: 258 * time.Second, Updated: 250 * time.Second},
		{Key: key("10.0.0.12", 2), State: neigh.Failed, Used: 3 * time.Second, Confirmed: 63 * time.Second, Updated: time.Second},
		{Key: key("10.0.0.200", 2), LLAddr: lladdr(3), State: neigh.Permanent},
		{Key: key("10.0.0.201", 2), LLAddr: lladdr(4), State: neigh.Stale, Flags: neigh.FlagExtLearned},
		{Key: key("192.168.1.7", 5), LLAddr: lladdr(5), State: neigh.Delay, Used: time.Second, Confirmed: 31 * time.Second, Updated: time.Second},
		{Key: key("172.16.0.2", 6), LLAddr: lladdr(8), State: neigh.Stale, Used: 120 * time.Second, Confirmed: 121 * time.Second, Updated: 91 * time.Second},
		{Key: key("fe80::1", 2), LLAddr: lladdr(6), State: neigh.Incomplete},
		{Key: key("0.0.0.0", 1), State: neigh.NoARP},
		{Key: key("10.0.0.77", 99), LLAddr: lladdr(7), State: neigh.Stale},
	}
	topology := &neigh.Topology{
		Links: map[int]neigh.Link{
			1: {Index: 1, Name: "lo", Loopback: true},
			2: {Index: 2, Name: "eth0", Uplink: true},
			5: {Index: 5, Name: "cali1"},
			6: {Index: 6, Name: "br0", Uplink: true, Suppresses: true},
		},
		NextHops: map[neigh.Key]bool{key("10.0.0.1", 2): true},
	}
	return verdicts(entries, topology, &policy.Scope{})
}

func TestListTable(t *testing.T) {
	var out bytes.Buffer
	if err := printRows(&out, sampleRows(t), 0); err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/list.txt", out.Bytes())
}

func TestListJSON(t *testing.T) {
	b, err := json.MarshalIndent(sampleRows(t), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/list.json", append(b, '\n'))
}

// The sample of vip_info says which entries are watched, and by whom else they are
// renewed. What is kept is kept from the watch, too.
func TestListMarksVIPs(t *testing.T) {
	samples := map[string]string{
		"/metrics": "# TYPE arp_cache_cleaner_vip_info gauge\n" +
			`arp_cache_cleaner_vip_info{device="eth0",lladdr="00:50:56:00:00:01",name="",source="auto",vip="10.0.0.100"} 1` + "\n" +
			`arp_cache_cleaner_vip_info{device="eth0",lladdr="00:50:56:00:00:03",name="api.example",source="name",vip="10.0.0.200"} 1` + "\n" +
			`arp_cache_cleaner_vip_info{device="cali1",lladdr="00:50:56:00:00:05",name="",source="auto",vip="192.168.1.7%vrf1"} 1` + "\n" +
			`arp_cache_cleaner_vip_info{device="eth9",lladdr="00:50:56:00:00:05",name="",source="auto",vip="10.0.0.9"} 1` + "\n",
	}
	code := http.StatusOK
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(code)
		_, _ = io.WriteString(w, samples[r.URL.Path])
	}))
	defer s.Close()
	marked := func() (all []string) {
		rows := sampleRows(t)
		markVIPs(rows, watchedVIPs(t.Context(), s.Listener.Addr().String()))
		for _, r := range rows {
			if r.Reason == "vip" {
				all = append(all, r.Address+" "+r.Device+" "+r.Verdict)
			}
		}
		return all
	}
	if got, want := marked(), []string{"192.168.1.7 cali1 verify", "10.0.0.100 eth0 verify"}; !slices.Equal(got, want) {
		t.Errorf("marked are %q, want %q", got, want)
	}
	code = http.StatusUnauthorized
	if got := marked(); got != nil {
		t.Errorf("without a password: %q", got)
	}
	s.Close()
	if got := marked(); got != nil {
		t.Errorf("without an agent: %q", got)
	}
}

func TestListTotal(t *testing.T) {
	var out bytes.Buffer
	if err := printRows(&out, sampleRows(t)[:2], 9); err != nil {
		t.Fatal(err)
	}
	if want := "\ntotal 2: verify 1, delete 0, keep 1; 9 more do not match the flags\n"; !strings.HasSuffix(out.String(), want) {
		t.Errorf("got\n%s, want at its end %q", out.String(), want)
	}
}

func TestAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
		defer cancel()
		var at []time.Duration
		begun := time.Now()
		err := again(ctx, 2*time.Second, func() error {
			at = append(at, time.Since(begun))
			return nil
		})
		if want := []time.Duration{0, 2 * time.Second, 4 * time.Second, 6 * time.Second}; err != nil || !slices.Equal(at, want) || time.Since(begun) != 7*time.Second {
			t.Errorf("called after %v, until %v: %v; want %v, until 7s", at, time.Since(begun), err, want)
		}
		broken := errors.New("broken")
		if err := again(t.Context(), time.Second, func() error { return broken }); !errors.Is(err, broken) {
			t.Errorf("got %v, want %v", err, broken)
		}
	})
}

// The scope flags choose what is shown. The same variables, which are the agent's,
// do not: what the agent leaves out is shown as kept. --watch goes on until it is
// interrupted.
func TestListChooses(t *testing.T) {
	t.Parallel()
	n := node(t)
	n.IP("neigh add 10.0.0.50 lladdr 02:00:00:00:00:50 dev eth0 nud stale")
	n.IP("neigh add 10.0.0.51 lladdr 02:00:00:00:00:51 dev eth0 nud stale")
	n.IP("neigh add fe80::50 lladdr 02:00:00:00:00:50 dev eth0 nud stale")
	for _, tt := range []struct {
		args, env []string
		shown     []string // address and reason
	}{
		{args: []string{"--cidr=10.0.0.51/32"}, shown: []string{"10.0.0.51 idle"}},
		{args: []string{"--family=ipv6"}, shown: []string{"fe80::50 idle"}},
		{args: []string{"--interface=wlan*"}},
		{args: []string{"--exclude-interface=eth0"}},
		{args: []string{"--exclude-cidr=10.0.0.51/32,fe80::/10"}, shown: []string{"10.0.0.50 idle"}},
		{args: []string{"--family=ipv4"}, env: []string{"ARP_CACHE_CLEANER_EXCLUDE_INTERFACE=eth0"}, shown: []string{"10.0.0.50 interface", "10.0.0.51 interface"}},
		{args: []string{"--family=ipv4"}, env: []string{"ARP_CACHE_CLEANER_CIDR=10.0.0.51/32"}, shown: []string{"10.0.0.50 cidr", "10.0.0.51 idle"}},
	} {
		p := prepare(t, n, append([]string{"list"}, tt.args...)...)
		p.cmd.Env = append(p.cmd.Env, tt.env...)
		p.launch(nil)
		code := p.wait()
		var shown []string
		for line := range strings.Lines(p.stdout.String()) {
			if f := strings.Fields(line); strings.Contains(line, ":00:5") {
				shown = append(shown, f[0]+" "+f[len(f)-1])
			}
		}
		if code != 0 || !slices.Equal(shown, tt.shown) {
			t.Errorf("%q %q: exit code %d, %q, want %q\n%s%s", tt.args, tt.env, code, shown, tt.shown, p.stdout.String(), p.stderr.String())
		}
		if hidden := strings.Contains(p.stdout.String(), "more do not match the flags"); !hidden {
			t.Errorf("%q: it does not say that there is more:\n%s", tt.args, p.stdout.String())
		}
	}
	p := prepare(t, n, "list", "--watch")
	var out lockedBuffer
	p.cmd.Stdout = &out
	p.launch(nil)
	t.Cleanup(p.kill)
	eventually(t, "the table is shown", func() bool { return strings.Count(out.String(), "\ntotal ") == 1 })
	n.IP("neigh del 10.0.0.50 dev eth0")
	eventually(t, "it is shown again", func() bool { return strings.Count(out.String(), "\ntotal ") == 2 })
	if strings.Count(out.String(), "\n10.0.0.50 ") != 1 || strings.Contains(out.String(), "\x1b") {
		t.Errorf("what is no terminal was shown\n%s", out.String())
	}
	if code, _ := p.stop(); code != 0 || p.stderr.String() != "" {
		t.Errorf("interrupted: exit code %d, %q", code, p.stderr.String())
	}
}
