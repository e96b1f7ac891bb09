package lab

import (
	"encoding/binary"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// HearRequests listens on a port of the host for ARP requests that are sent to
// all. The function it returns stops that and says when each was heard.
func (h *Host) HearRequests(p Port) func() []time.Time {
	var file *os.File
	err := h.Do(func() error {
		arp := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ARP >> 8, unix.ETH_P_ARP & 0xff}) // network byte order
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		file = os.NewFile(uintptr(fd), "arp")
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: arp, Ifindex: p.Index})
	})
	h.lab.check(err, "listening on host %s", h.Name)
	var heard []time.Time
	var wg sync.WaitGroup
	wg.Go(func() {
		b := make([]byte, 256)
		for {
			n, err := file.Read(b)
			if err != nil {
				return
			}
			// Ethernet destination, and the operation of RFC 826.
			if n >= 42 && b[0] == 0xff && binary.BigEndian.Uint16(b[20:]) == 1 {
				heard = append(heard, time.Now())
			}
		}
	})
	stop := sync.OnceFunc(func() {
		_ = file.Close()
		wg.Wait()
	})
	h.lab.closers = append(h.lab.closers, stop)
	return func() []time.Time {
		stop()
		return heard
	}
}
