package lab

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Request is an ARP request, or a Neighbor Solicitation, that a responder received.
type Request struct {
	Addr      netip.Addr
	Broadcast bool // or multicast
	N         int  // how many of its kind, broadcast or unicast, came before it
}

// RespondARP has the host's kernel answer no ARP requests any more, and answers
// those for its addresses itself: after the delay that decide returns, or not
// at all. What is late or lost is thereby up to the test.
func (h *Host) RespondARP(p Port, mac string, addrs []string, decide func(Request) (delay time.Duration, answer bool)) {
	h.Sysctl("net/ipv4/conf/all/arp_ignore", "8")
	h.respond(p, unix.ETH_P_ARP, mac, addrs, answerARP, decide)
}

// RespondND answers Neighbor Solicitations for addresses that the host's kernel has
// not, as their owner.
func (h *Host) RespondND(p Port, mac string, addrs []string, decide func(Request) (delay time.Duration, answer bool)) {
	h.respond(p, unix.ETH_P_IPV6, mac, addrs, answerND, decide)
}

// respond answers frames of an EtherType. answer returns which address a frame asks
// for, and what own answers; false for what does not ask.
func (h *Host) respond(p Port, etherType uint16, mac string, addrs []string,
	answer func(frame []byte, own net.HardwareAddr) (netip.Addr, []byte, bool), decide func(Request) (time.Duration, bool),
) {
	own, err := net.ParseMAC(mac)
	h.lab.check(err, "responder on host %s", h.Name)
	var file *os.File
	err = h.Do(func() error {
		protocol := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, etherType))
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		file = os.NewFile(uintptr(fd), "responder")
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: p.Index})
	})
	h.lab.check(err, "responder on %s of host %s", p.Name, h.Name)
	held := make(map[netip.Addr]bool)
	for _, a := range addrs {
		held[netip.MustParseAddr(a)] = true
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		counts := make(map[bool]int)
		b := make([]byte, 2048)
		for {
			n, err := file.Read(b)
			if err != nil {
				return
			}
			addr, reply, ok := answer(b[:n], own)
			if !ok || !held[addr] {
				continue
			}
			r := Request{Addr: addr, Broadcast: b[0]&1 != 0}
			r.N = counts[r.Broadcast]
			counts[r.Broadcast]++
			if delay, yes := decide(r); yes && delay == 0 {
				_, _ = file.Write(reply)
			} else if yes {
				time.AfterFunc(delay, func() { _, _ = file.Write(reply) })
			}
		}
	})
	h.lab.closers = append(h.lab.closers, func() {
		_ = file.Close()
		wg.Wait()
	})
}

// answerARP reads an Ethernet header, then RFC 826: hardware and protocol types and
// lengths, operation, sender and target addresses.
func answerARP(f []byte, own net.HardwareAddr) (addr netip.Addr, reply []byte, ok bool) {
	if len(f) < 42 || binary.BigEndian.Uint16(f[20:]) != 1 {
		return addr, nil, false
	}
	reply = bytes.Clone(f[:42])
	copy(reply[0:], f[22:28])
	copy(reply[6:], own)
	reply[21] = 2
	copy(reply[22:], own)
	copy(reply[28:], f[38:42])
	copy(reply[32:], f[22:32])
	return netip.AddrFrom4([4]byte(f[38:42])), reply, true
}

// answerND reads an Ethernet header, an IPv6 header (RFC 8200 section 3), and a Neighbor
// Solicitation (RFC 4861 section 4.3). The answer is solicited, with the Override flag.
func answerND(f []byte, own net.HardwareAddr) (addr netip.Addr, reply []byte, ok bool) {
	if len(f) < 78 || f[20] != unix.IPPROTO_ICMPV6 || f[54] != 135 {
		return addr, nil, false
	}
	target, asker := f[62:78], f[22:38]
	icmp := slices.Concat([]byte{136, 0, 0, 0, 0x60, 0, 0, 0}, target, []byte{2, 1}, own)
	sum := uint32(len(icmp) + unix.IPPROTO_ICMPV6)
	for _, b := range [][]byte{target, asker, icmp} {
		for i := 0; i < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
	}
	sum = sum>>16 + sum&0xffff
	sum += sum >> 16
	binary.BigEndian.PutUint16(icmp[2:], ^uint16(sum))
	header := []byte{0x60, 0, 0, 0, 0, byte(len(icmp)), unix.IPPROTO_ICMPV6, 255}
	return netip.AddrFrom16([16]byte(target)), slices.Concat(f[6:12], own, []byte{0x86, 0xdd}, header, target, asker, icmp), true
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
