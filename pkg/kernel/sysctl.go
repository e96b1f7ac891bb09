package kernel

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// settings are the IPv4 settings of the devices of one network namespace.
type settings struct{ dir *os.File } // nil where they cannot be read

// openSettings opens those of the calling thread's network namespace. They are
// read from any thread afterwards: /proc/sys/net is that of whoever opens it, and
// what is below it stays in the namespace.
func openSettings() settings {
	dir, err := os.Open("/proc/sys/net/ipv4/conf")
	if err != nil {
		return settings{}
	}
	return settings{dir}
}

func (s settings) close() { _ = s.dir.Close() }

// most returns the greater of what is set for all devices and what is for this one
// (IN_DEV_MAXCONF; for a switch that is the same as IN_DEV_ORCONF). What cannot be
// read is 0, the kernel's default.
func (s settings) most(device, name string) int {
	return max(s.read("all", name), s.read(device, name))
}

func (s settings) read(device, name string) int {
	if s.dir == nil {
		return 0
	}
	fd, err := unix.Openat(int(s.dir.Fd()), device+"/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0) //nolint:gosec // a file descriptor
	if err != nil {
		return 0
	}
	defer func() { _ = unix.Close(fd) }()
	var b [16]byte
	n, err := unix.Read(fd, b[:])
	if err != nil {
		return 0
	}
	v, _ := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	return v
}
