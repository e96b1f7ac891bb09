package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"regexp"
	"testing"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/sweep"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/vip"
)

// Both formats say the same of every kind of value that the agent logs.
func TestLogFormats(t *testing.T) {
	a, _ := neigh.LLAddrFrom([]byte{2, 0, 0, 0, 0, 1})
	b, _ := neigh.LLAddrFrom([]byte{2, 0, 0, 0, 0, 2})
	values := []any{
		netip.MustParseAddr("fe80::1"),
		netip.MustParseAddrPort("10.0.0.1:6443"),
		netip.MustParsePrefix("10.0.0.0/8"),
		&net.TCPAddr{IP: net.IPv6loopback, Port: 10330},
		a, neigh.LLAddr{}, []neigh.LLAddr{a, b}, []string{"eth0", "eth1"},
		300 * time.Second, 250 * time.Microsecond,
		fmt.Errorf("reading the table: %w", neigh.ErrTimeout), errors.Join(neigh.ErrGone, neigh.ErrUnsupported), error(nil),
		neigh.Reachable, neigh.Used,
		vip.FromSockets, vip.Repairs[0], vip.Events[0], vip.StateWorks, vip.TCPProgress, vip.Report,
		sweep.ByBroadcast, sweep.Unanswered,
		true, 3, uint16(6443), "two words",
	}
	clock := regexp.MustCompile(`(time=|"time":")[^ "]+`)
	var all bytes.Buffer
	for _, format := range []string{"text", "json"} {
		var out bytes.Buffer
		log := logger(&options{LogFormat: format, Log: slog.HandlerOptions{Level: slog.LevelDebug}}, &out).With("vip", netip.MustParseAddr("10.0.0.100"))
		for _, v := range values {
			log.Warn(fmt.Sprintf("%T", v), "value", v)
		}
		all.Write(clock.ReplaceAll(out.Bytes(), []byte("${1}T")))
	}
	golden(t, "testdata/log.txt", all.Bytes())
}
