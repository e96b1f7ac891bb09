package lab

import (
	"bytes"
	"net/netip"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// OddLink connects the host to another one by a device of its own that is not
// Ethernet: its link-layer addresses have 8 bytes (ARPHRD_6LOWPAN). IPv4 passes, and
// ARP requests for holder are answered as if the other host had such an address. The
// devices are "odd0" on the host and "tap0" on the other one, with the addresses
// given.
func (h *Host) OddLink(own string, other *Host, holder string) {
	const arphrd, length = 825, 8
	odd, tap := h.tap("odd0", arphrd), other.tap("tap0", unix.ARPHRD_ETHER)
	h.IP("link set odd0 up")
	h.IP("addr add " + own + " dev odd0")
	other.IP("link set tap0 up")
	other.IP("addr add " + holder + " dev tap0")
	oddLink, err := h.nl.LinkByName("odd0")
	h.lab.check(err, "odd link of host %s", h.Name)
	tapLink, err := other.nl.LinkByName("tap0")
	h.lab.check(err, "odd link of host %s", other.Name)
	// Ethernet's header is there all the same, with the first 6 bytes.
	oddMAC, tapMAC := oddLink.Attrs().HardwareAddr[:6], tapLink.Attrs().HardwareAddr
	other.IP("neigh replace " + netip.MustParsePrefix(own).Addr().String() + " lladdr " + oddMAC.String() + " dev tap0 nud permanent")
	addr := netip.MustParsePrefix(holder).Addr().AsSlice()
	lladdr := bytes.Repeat([]byte{2}, length)
	var wg sync.WaitGroup
	wg.Go(func() {
		forward(tap, func(b []byte) {
			if bytes.Equal(b[12:14], []byte{8, 0}) {
				_, _ = odd.Write(slices.Concat(oddMAC, tapMAC, b[12:]))
			}
		})
	})
	wg.Go(func() {
		forward(odd, func(b []byte) {
			switch {
			case bytes.Equal(b[12:14], []byte{8, 0}):
				_, _ = tap.Write(slices.Concat(tapMAC, oddMAC, b[12:]))
			case len(b) >= 30+2*length && bytes.Equal(b[12:14], []byte{8, 6}) && b[21] == 1 && bytes.Equal(b[26+2*length:][:4], addr):
				sender := b[22:][:length+4] // RFC 826: addresses of both kinds, one after the other
				_, _ = odd.Write(slices.Concat(oddMAC, tapMAC, b[12:20], []byte{0, 2}, lladdr, addr, sender))
			}
		})
	})
	h.lab.closers = append(h.lab.closers, func() {
		_, _ = odd.Close(), tap.Close()
		wg.Wait()
	})
}

// tap makes a TAP device of a type (ARPHRD_*) on the host.
func (h *Host) tap(dev string, arphrd int) (file *os.File) {
	h.lab.check(h.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		request, err := unix.NewIfreq(dev)
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
			return err
		}
		if err := unix.IoctlSetInt(fd, unix.TUNSETLINK, arphrd); err != nil {
			return err
		}
		file = os.NewFile(uintptr(fd), dev)
		return nil
	}), "TAP device on host %s", h.Name)
	return file
}

// forward hands each frame of a TAP device to fn until it is closed.
func forward(tap *os.File, fn func(frame []byte)) {
	b := make([]byte, 65536)
	for {
		n, err := tap.Read(b)
		if err != nil {
			return
		}
		if n >= 14 {
			fn(b[:n])
		}
	}
}
