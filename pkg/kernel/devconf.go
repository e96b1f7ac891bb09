package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// IPv4 settings of a device (net.ipv4.conf), by their place in IFLA_INET_CONF:
// include/uapi/linux/ip.h.
const (
	arpAnnounce   = 18
	routeLocalnet = 26
)

const inetConf = 1 // IFLA_INET_CONF

// devconf is how a device is set up for IPv4.
type devconf map[int]int

// forAll are the files of what is set for all devices, which netlink does not say.
// They are those of the network namespace of the thread that opened them, whoever
// reads them afterwards, and stay open: to open one takes up to a millisecond where
// many namespaces have come and gone.
type forAll map[int]*os.File

func openForAll() forAll {
	files := make(forAll)
	for setting, name := range map[int]string{arpAnnounce: "arp_announce", routeLocalnet: "route_localnet"} {
		if f, err := os.Open("/proc/sys/net/ipv4/conf/all/" + name); err == nil { //nolint:gosec // one of two names
			files[setting] = f
		}
	}
	return files
}

func (a forAll) close() {
	for _, f := range a {
		_ = f.Close()
	}
}

// read returns 0, the kernel's default, for what cannot be read.
func (a forAll) read(setting int) int {
	var b [16]byte
	n, err := a[setting].ReadAt(b[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0
	}
	v, _ := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	return v
}

// devconf returns what holds for a device: the greater of what is set for it and
// for all (IN_DEV_MAXCONF; for a switch that is the same as IN_DEV_ORCONF).
func (t *Table) devconf(device int) (devconf, error) {
	var conf devconf
	err := t.one(unix.RTM_NEWLINK, func(b []byte, seq uint32) []byte {
		return appendMessage(b, unix.RTM_GETLINK, 0, seq, linkRequest(device, 0))
	}, func(body []byte) (err error) {
		conf, err = decodeDevconf(body)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the settings of device %d: %w", device, err)
	}
	for setting, v := range conf {
		conf[setting] = max(v, t.forAll.read(setting))
	}
	return conf, nil
}

// decodeDevconf reads the body of an RTM_NEWLINK message. What it does not say is
// 0.
func decodeDevconf(b []byte) (devconf, error) {
	conf := devconf{arpAnnounce: 0, routeLocalnet: 0}
	if len(b) < unix.SizeofIfInfomsg {
		return nil, fmt.Errorf("ifinfomsg of %d bytes: %w", len(b), neigh.ErrMalformed)
	}
	b, err := findAttr(b[unix.SizeofIfInfomsg:], unix.IFLA_AF_SPEC, unix.AF_INET, inetConf)
	if err != nil {
		return nil, err
	}
	for setting := range conf {
		if i := 4 * (setting - 1); len(b) >= i+4 {
			conf[setting] = int(int32(binary.NativeEndian.Uint32(b[i:]))) //nolint:gosec // signed in the kernel
		}
	}
	return conf, nil
}
