package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
)

var update = flag.Bool("update", false, "rewrite golden files and the generated tables of README.md")

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
		{Key: key("10.0.0.9", 2), LLAddr: lladdr(9), State: neigh.Stale, Used: 250 * time.Second, Confirmed: 310 * time.Second, Updated: 250 * time.Second},
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
	if err := printRows(&out, sampleRows(t)); err != nil {
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
