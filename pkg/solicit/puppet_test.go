package solicit

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

// puppet is a host that puts on the wire what a test tells it to, with a packet
// socket of its own that shares no code with the package.
type puppet struct {
	t     testing.TB
	file  *os.File
	index int
	host  *lab.Host
	port  lab.Port
}

var puppetMAC = lladdr{2, 0xbb, 0, 0, 0, 1}

// puppet plugs a host without addresses into the segment, whose socket sees
// one EtherType.
func (s *segment) puppet(etherType uint16) *puppet {
	s.t.Helper()
	h := s.l.Host("puppet")
	h.Sysctl("net/ipv6/conf/all/disable_ipv6", "1")
	port := h.Plug(s.sw, "eth0", "02:bb:00:00:00:01")
	s.settle(h)
	return tap(s.t, h, port, etherType)
}

// tap opens a puppet's socket on any host.
func tap(t testing.TB, h *lab.Host, port lab.Port, etherType uint16) *puppet {
	t.Helper()
	p := &puppet{t: t, index: port.Index, host: h, port: port}
	if err := h.Do(func() error {
		proto := etherType<<8 | etherType>>8
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		p.file = os.NewFile(uintptr(fd), "puppet")
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: port.Index})
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.file.Close() })
	return p
}

// send puts whole frames on the wire.
func (p *puppet) send(frames ...[]byte) {
	for _, f := range frames {
		if _, err := p.file.Write(f); err != nil && !errors.Is(err, os.ErrClosed) {
			p.t.Errorf("puppet: %v", err)
		}
	}
}

// next returns the next frame of the EtherType that the predicate holds for,
// from the IP or ARP header on.
func (p *puppet) next(want func([]byte) bool) []byte {
	_ = p.file.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 2048)
	for {
		n, err := p.file.Read(buf)
		if err != nil {
			p.t.Errorf("puppet: %v", err)
			return nil
		}
		if n > 14 && want(buf[14:n]) {
			return slices.Clone(buf[14:n])
		}
	}
}

// serve calls fn for each frame until the test ends.
func (p *puppet) serve(fn func(frame []byte)) {
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, err := p.file.Read(buf)
			if err != nil {
				return
			}
			if n > 14 {
				fn(slices.Clone(buf[:n]))
			}
		}
	})
	p.t.Cleanup(func() {
		_ = p.file.Close()
		wg.Wait()
	})
}

// frame puts an Ethernet header before a packet.
func frame(dst, src lladdr, etherType uint16, packet []byte) []byte {
	return slices.Concat(dst[:], src[:], []byte{byte(etherType >> 8), byte(etherType)}, packet)
}

// arpReplyPacket is written down from RFC 826.
func arpReplyPacket(sender lladdr, senderAddr string, target lladdr, targetAddr string) []byte {
	return slices.Concat([]byte{0, 1, 8, 0, 6, 4, 0, 2}, sender[:], netip.MustParseAddr(senderAddr).AsSlice(),
		target[:], netip.MustParseAddr(targetAddr).AsSlice())
}

// naPacket is written down from RFC 4861 section 4.4 and RFC 8200, checksum
// included.
func naPacket(src, dst, target netip.Addr, flags byte, options ...byte) []byte {
	icmp := slices.Concat([]byte{136, 0, 0, 0, flags, 0, 0, 0}, target.AsSlice(), options)
	b := slices.Concat([]byte{0x60, 0, 0, 0, byte(len(icmp) >> 8), byte(len(icmp)), 58, 255}, src.AsSlice(), dst.AsSlice(), icmp)
	return fixChecksum(b)
}

// fixChecksum computes the checksum the slow way, as in RFC 1071.
func fixChecksum(b []byte) []byte {
	b[42], b[43] = 0, 0
	pseudo := slices.Concat(b[8:40], []byte{0, 0, byte((len(b) - 40) >> 8), byte(len(b) - 40), 0, 0, 0, 58}, b[40:])
	if len(pseudo)%2 == 1 {
		pseudo = append(pseudo, 0)
	}
	s := 0
	for i := 0; i < len(pseudo); i += 2 {
		s += int(pseudo[i])<<8 + int(pseudo[i+1])
		if s > 0xffff {
			s -= 0xffff
		}
	}
	b[42], b[43] = byte(^s>>8), byte(^s)
	return b
}
