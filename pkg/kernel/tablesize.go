package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// TableSizes returns how full the kernel's tables are. proc is what is mounted at
// /proc. Only the network namespace of the machine itself shows that: in others,
// as on kernels before 4.3 and on those without IPv6, a family is left out.
func TableSizes(proc fs.FS) ([]neigh.TableSize, error) {
	var sizes []neigh.TableSize
	for _, f := range [...]struct{ family, stat, sysctl string }{
		{"ipv4", "arp_cache", "ipv4"},
		{"ipv6", "ndisc_cache", "ipv6"},
	} {
		s, err := tableSize(proc, "thread-self/net/stat/"+f.stat, "sys/net/"+f.sysctl+"/neigh/default/gc_thresh")
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, err
		default:
			s.Family = f.family
			sizes = append(sizes, s)
		}
	}
	return sizes, nil
}

// tableSize reads one family's statistics, and its thresholds from the three files
// whose names begin with thresh.
func tableSize(proc fs.FS, stat, thresh string) (s neigh.TableSize, err error) {
	b, err := fs.ReadFile(proc, stat)
	if err != nil {
		return s, err
	}
	if s, err = parseTableStat(b); err != nil {
		return s, fmt.Errorf("/proc/%s: %w", stat, err)
	}
	for i := range s.Thresholds {
		name := thresh + strconv.Itoa(i+1)
		b, err := fs.ReadFile(proc, name)
		if err != nil {
			return s, err
		}
		if s.Thresholds[i], err = strconv.Atoi(string(bytes.TrimSpace(b))); err != nil {
			return s, fmt.Errorf("/proc/%s: %w: %w", name, neigh.ErrMalformed, err)
		}
	}
	return s, nil
}

// parseTableStat reads what neigh_stat_seq_show in net/core/neighbour.c writes: the
// names of the columns, and then a line of hexadecimal numbers for each CPU. The
// number of entries is the same in all lines.
func parseTableStat(b []byte) (s neigh.TableSize, err error) {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	names := strings.Fields(lines[0])
	entries, full := slices.Index(names, "entries"), slices.Index(names, "table_fulls")
	if entries < 0 || full < 0 {
		return s, fs.ErrNotExist // a kernel that does not count this yet
	}
	for _, line := range lines[1:] {
		columns := strings.Fields(line)
		if len(columns) != len(names) {
			return s, fmt.Errorf("%d columns, not %d: %w", len(columns), len(names), neigh.ErrMalformed)
		}
		n, err := strconv.ParseInt(columns[entries], 16, 64)
		if err != nil {
			return s, fmt.Errorf("%w: %w", neigh.ErrMalformed, err)
		}
		fulls, err := strconv.ParseUint(columns[full], 16, 64)
		if err != nil {
			return s, fmt.Errorf("%w: %w", neigh.ErrMalformed, err)
		}
		s.Entries = int(n)
		s.Full += fulls
	}
	return s, nil
}
