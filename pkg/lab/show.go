package lab

import (
	"regexp"
	"strconv"
	"strings"
)

// Shown is one line of `ip -statistics neighbour`, as an operator reads it.
type Shown struct {
	Addr, Device, State      string
	Used, Confirmed, Updated int // whole seconds; -1 where the line has no ages
	Line                     string
}

var ages = regexp.MustCompile(`used (\d+)/(\d+)/(\d+)`)

// Neighbours runs `ip -statistics neighbour` on the host.
func (h *Host) Neighbours() []Shown { return ParseShown(h.IP("-statistics neighbour")) }

// ParseShown reads what that command prints.
func ParseShown(text string) []Shown {
	var shown []Shown
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 4 {
			continue
		}
		s := Shown{Addr: f[0], Device: f[2], State: f[len(f)-1], Used: -1, Confirmed: -1, Updated: -1, Line: strings.TrimSpace(line)}
		if m := ages.FindStringSubmatch(line); m != nil {
			s.Used, s.Confirmed, s.Updated = age(m[1]), age(m[2]), age(m[3])
		}
		shown = append(shown, s)
	}
	return shown
}

// age reads an age in seconds. One of more than 246 days is that of a time stamp
// which another CPU wrote while the kernel filled the message: it lies in the
// future, and wraps around (jiffies_to_clock_t).
func age(s string) int {
	n, _ := strconv.Atoi(s)
	if n > 246*24*60*60 {
		return 0
	}
	return n
}
