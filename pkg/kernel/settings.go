package kernel

import (
	"cmp"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// settings say how a device is set up (net.ipv4.conf and net.ipv6.conf).
type settings struct {
	arpAnnounce   int
	routeLocalnet bool
	forwards      bool // IPv6
}

// Where they are: IPv4 in IFLA_INET_CONF, counted from 1 (include/uapi/linux/ip.h),
// IPv6 in IFLA_INET6_CONF, counted from 0 (include/uapi/linux/ipv6.h).
const (
	inetConf      = 1
	arpAnnounce   = 18
	routeLocalnet = 26

	inet6Conf   = 2
	forwarding6 = 0
)

// decodeSettings reads IFLA_AF_SPEC of an RTM_NEWLINK message. What it does not say
// is 0.
func decodeSettings(b []byte) (settings, error) {
	four, err4 := findAttr(b, unix.AF_INET, inetConf)
	six, err6 := findAttr(b, unix.AF_INET6, inet6Conf)
	value := func(list []byte, place int) int {
		if len(list) < 4*place+4 {
			return 0
		}
		return int(int32(binary.NativeEndian.Uint32(list[4*place:]))) //nolint:gosec // signed in the kernel
	}
	return settings{
		arpAnnounce:   value(four, arpAnnounce-1),
		routeLocalnet: value(four, routeLocalnet-1) != 0,
		forwards:      value(six, forwarding6) != 0,
	}, cmp.Or(err4, err6)
}

// forAll are the files of what is set for all devices, which netlink does not say.
// They are those of the network namespace of the thread that opened them, whoever
// reads them afterwards, and stay open: to open one takes up to a millisecond where
// many namespaces have come and gone. Either is nil where it cannot be opened.
type forAll struct{ arpAnnounce, routeLocalnet *os.File }

func openForAll() (f forAll) {
	f.arpAnnounce, _ = os.Open("/proc/sys/net/ipv4/conf/all/arp_announce")
	f.routeLocalnet, _ = os.Open("/proc/sys/net/ipv4/conf/all/route_localnet")
	return f
}

func (f forAll) close() {
	_ = f.arpAnnounce.Close()
	_ = f.routeLocalnet.Close()
}

// readSetting returns 0, the kernel's default, for what cannot be read.
func readSetting(f *os.File) int {
	var b [16]byte
	n, err := f.ReadAt(b[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0
	}
	v, _ := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	return v
}

// settings returns what holds for a device: of the settings for IPv4, the greater of
// what is set for it and for all (IN_DEV_MAXCONF, and IN_DEV_ORCONF for a switch).
func (t *Table) settings(device int) (settings, error) {
	d, err := t.device(device)
	if err != nil {
		return settings{}, err
	}
	d.arpAnnounce = max(d.arpAnnounce, readSetting(t.forAll.arpAnnounce))
	d.routeLocalnet = d.routeLocalnet || readSetting(t.forAll.routeLocalnet) != 0
	return d.settings, nil
}
