package lab

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Request is an ARP request that a responder received.
type Request struct {
	Addr      netip.Addr
	Broadcast bool
	N         int // how many of its kind, broadcast or unicast, came before it
}

// RespondARP has the host's kernel answer no ARP requests any more, and answers
// those for its addresses itself: after the delay that decide returns, or not
// at all. What is late or lost is thereby up to the test.
func (h *Host) RespondARP(p Port, dev string, mac string, addrs []string, decide func(Request) (delay time.Duration, answer bool)) {
	h.Sysctl("net/ipv4/conf/all/arp_ignore", "8")
	own, err := net.ParseMAC(mac)
	h.lab.check(err, "responder on host %s", h.Name)
	var file *os.File
	err = h.Do(func() error {
		arp := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ARP >> 8, unix.ETH_P_ARP & 0xff}) // network byte order
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		file = os.NewFile(uintptr(fd), "arp")
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: arp, Ifindex: p.Index})
	})
	h.lab.check(err, "responder on %s of host %s", dev, h.Name)
	held := make(map[netip.Addr]bool)
	for _, a := range addrs {
		held[netip.MustParseAddr(a)] = true
	}
	var wg sync.WaitGroup
	wg.Go(func() { respond(file, own, held, decide) })
	h.lab.closers = append(h.lab.closers, func() {
		_ = file.Close()
		wg.Wait()
	})
}

func respond(file *os.File, own net.HardwareAddr, held map[netip.Addr]bool, decide func(Request) (time.Duration, bool)) {
	counts := make(map[bool]int)
	b := make([]byte, 256)
	for {
		n, err := file.Read(b)
		if err != nil {
			return
		}
		// Ethernet header, then RFC 826: hardware and protocol types and
		// lengths, operation, sender and target addresses.
		f := b[:n]
		if n < 42 || binary.BigEndian.Uint16(f[20:]) != 1 || !held[netip.AddrFrom4([4]byte(f[38:42]))] {
			continue
		}
		r := Request{Addr: netip.AddrFrom4([4]byte(f[38:42])), Broadcast: f[0] == 0xff}
		r.N = counts[r.Broadcast]
		counts[r.Broadcast]++
		delay, answer := decide(r)
		if !answer {
			continue
		}
		asker := bytes.Clone(f[22:32])
		reply := bytes.Clone(f[:42])
		copy(reply[0:], asker[:6])
		copy(reply[6:], own)
		reply[21] = 2
		copy(reply[22:], own)
		copy(reply[28:], f[38:42])
		copy(reply[32:], asker)
		if delay == 0 {
			_, _ = file.Write(reply)
			continue
		}
		time.AfterFunc(delay, func() { _, _ = file.Write(reply) })
	}
}

// Discards returns how many packets the kernel has dropped because their
// neighbour could not be resolved, of all namespaces together. It is false
// where that cannot be read (the file exists in the first namespace only).
func Discards() (uint64, bool) {
	// Not /proc/net: that is the main thread's, which a host may have been left
	// with (a locked thread ends with its goroutine, but that one cannot).
	text, err := os.ReadFile("/proc/thread-self/net/stat/arp_cache")
	if err != nil {
		return 0, false
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	column := -1
	for i, name := range bytes.Fields(lines[0]) {
		if string(name) == "unresolved_discards" {
			column = i
		}
	}
	var sum uint64
	for _, line := range lines[1:] {
		fields := bytes.Fields(line)
		if column < 0 || column >= len(fields) {
			return 0, false
		}
		n, err := strconv.ParseUint(string(fields[column]), 16, 64)
		if err != nil {
			return 0, false
		}
		sum += n
	}
	return sum, len(lines) > 1
}

// Flood sends numbered datagrams one way at the given rate until stopped.
func Flood(from, to *Host, dst netip.AddrPort, perSecond int) (*Stream, error) {
	return datagrams(from, to, dst, func(s *Stream, tx net.Conn) error {
		const tick = time.Millisecond
		start := time.Now()
		var n uint64
		return every(s.ctx, tick, func(uint64) error {
			// Late ticks are made up for, in bursts that a receive buffer holds.
			want := uint64(time.Since(start).Seconds() * float64(perSecond))
			for ; n < want; n++ {
				if err := sendNumber(tx, n); err != nil && !errors.Is(err, unix.ENOBUFS) {
					return err
				}
				s.sent.Add(1)
			}
			return nil
		})
	})
}
