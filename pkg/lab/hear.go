package lab

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Solicitation is an ARP request or a Neighbor Solicitation as a host heard it.
type Solicitation struct {
	Target, Sender netip.Addr
	LLAddr         net.HardwareAddr // it came from
	ToAll          bool             // by broadcast or multicast
}

// HearSolicitations listens on a port of the host for solicitations. The channel
// is closed with the lab; what nobody takes from it is lost after the first 1,000.
func (h *Host) HearSolicitations(p Port) <-chan Solicitation {
	heard := make(chan Solicitation, 1000)
	stop := h.listen(p.Index, unix.ETH_P_ALL, func(_ time.Time, frame []byte) {
		if s, ok := solicitation(frame); ok {
			select {
			case heard <- s:
			default:
			}
		}
	})
	h.lab.closers = append(h.lab.closers, func() {
		stop()
		close(heard)
	})
	return heard
}

// solicitation reads an Ethernet frame.
func solicitation(b []byte) (Solicitation, bool) {
	if len(b) < 42 {
		return Solicitation{}, false
	}
	s := Solicitation{LLAddr: slices.Clone(net.HardwareAddr(b[6:12])), ToAll: b[0]&1 != 0}
	switch binary.BigEndian.Uint16(b[12:]) {
	case unix.ETH_P_ARP: // RFC 826
		s.Sender, s.Target = netip.AddrFrom4([4]byte(b[28:])), netip.AddrFrom4([4]byte(b[38:]))
		return s, binary.BigEndian.Uint16(b[20:]) == 1
	case unix.ETH_P_IPV6: // RFC 4861 section 4.3
		if len(b) < 78 || b[20] != unix.IPPROTO_ICMPV6 || b[54] != 135 {
			return Solicitation{}, false
		}
		s.Sender, s.Target = netip.AddrFrom16([16]byte(b[22:])), netip.AddrFrom16([16]byte(b[62:]))
		return s, true
	}
	return Solicitation{}, false
}

// HearRequests listens on a port of the host for ARP requests that are sent to
// all. The function it returns stops that and says when each was heard.
func (h *Host) HearRequests(p Port) func() []time.Time {
	var heard []time.Time
	stop := sync.OnceFunc(h.listen(p.Index, unix.ETH_P_ARP, func(at time.Time, frame []byte) {
		if s, ok := solicitation(frame); ok && s.ToAll {
			heard = append(heard, at)
		}
	}))
	h.lab.closers = append(h.lab.closers, stop)
	return func() []time.Time {
		stop()
		return heard
	}
}

// HearFrom counts the frames that bear a source address as they come in by a port of
// the switch: what the host behind that port sends under that address. The function it
// returns stops that and says how many there were.
func (s *Switch) HearFrom(p Port, mac string) func() int {
	from, err := net.ParseMAC(mac)
	s.host.lab.check(err, "listening on %s", p.Name)
	port, err := s.host.nl.LinkByName(p.Name)
	s.host.lab.check(err, "listening on %s", p.Name)
	heard := 0
	stop := sync.OnceFunc(s.host.listen(port.Attrs().Index, unix.ETH_P_ALL, func(_ time.Time, b []byte) {
		if len(b) >= 14 && bytes.Equal(b[6:12], from) {
			heard++
		}
	}))
	s.host.lab.closers = append(s.host.lab.closers, stop)
	return func() int {
		stop()
		return heard
	}
}

// listen hands each frame that comes in at a device to hear, which must keep nothing
// of it, until the function it returns is called. When it came is the kernel's word:
// on a busy machine it is read later.
func (h *Host) listen(index int, etherType uint16, hear func(at time.Time, frame []byte)) (stop func()) {
	var file *os.File
	err := h.Do(func() error {
		protocol := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, etherType))
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		file = os.NewFile(uintptr(fd), "packet")
		return errors.Join(unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: index}))
	})
	h.lab.check(err, "listening on host %s", h.Name)
	conn, err := file.SyscallConn()
	h.lab.check(err, "listening on host %s", h.Name)
	var wg sync.WaitGroup
	wg.Go(func() {
		b, oob := make([]byte, 2048), make([]byte, 64)
		for {
			var n, control int
			var failed error
			err := conn.Read(func(fd uintptr) bool {
				n, control, _, _, failed = unix.Recvmsg(int(fd), b, oob, 0)
				return !errors.Is(failed, unix.EAGAIN)
			})
			if err != nil || failed != nil {
				return
			}
			hear(stamp(oob[:control]), b[:n])
		}
	})
	return func() {
		_ = file.Close()
		wg.Wait()
	}
}

// stamp reads the control message of SO_TIMESTAMPNS: a timespec.
func stamp(control []byte) time.Time {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil || len(messages) != 1 || len(messages[0].Data) != 16 {
		return time.Now()
	}
	b := messages[0].Data
	return time.Unix(int64(binary.NativeEndian.Uint64(b)), int64(binary.NativeEndian.Uint64(b[8:])))
}
