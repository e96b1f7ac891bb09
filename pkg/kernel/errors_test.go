package kernel

import (
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// Whatever is refused, the error says what was being done, and to what.
func TestErrorsNameTheirObject(t *testing.T) {
	h, index := host(t)
	h.IP("neigh add 10.0.0.2 lladdr 02:00:00:00:00:02 dev eth0 nud stale")
	h.IP("neigh add 10.0.0.3 dev eth0 nud none")
	h.IP("route add unreachable 10.66.0.0/16")
	table, sockets, events := open(t, h), openSockets(t, h), subscribe(t, h)
	there, none, gone := key("10.0.0.2", index), key("10.0.0.3", index), key("10.0.0.9", index)
	socket := fullSocket()
	get := func(k neigh.Key) func() error {
		return func() error { _, err := table.Get(k); return err }
	}
	getAll := func(single bool) func() error {
		return func() error {
			defer func(was bool) { table.single = was }(table.single)
			table.single = single
			return table.GetAll([]neigh.Key{there, gone}, func(*neigh.Entry) {})
		}
	}
	setState := func(k neigh.Key) func() error {
		return func() error { return table.SetState(k, neigh.Stale) }
	}
	use := func() error { return table.Use(gone) }
	give := func() error { return table.Give(gone, mac(2, 0, 0, 0, 0, 9), 0) }
	route := func(a string, index int) func() error {
		return func() error { _, err := table.Route(netip.MustParseAddr(a), index); return err }
	}
	place := func(a string) func() error {
		return func() error { _, err := table.Place(netip.MustParseAddr(a), 0); return err }
	}
	sender := func(a string, index int) func() error {
		return func() error { _, err := table.Sender(netip.MustParseAddr(a), index); return err }
	}
	device := func(index int) func() error {
		return func() error { _, err := table.link(index); return err }
	}
	topology := func() error { _, err := table.Topology(); return err }
	listSockets := func() error { _, err := sockets.List(apiPort); return err }
	getSocket := func() error { _, err := sockets.Get(&socket); return err }
	destroySocket := func() error { return sockets.Destroy(&socket) }
	next := func() error {
		events.buf = events.buf[:16]
		h.IP("neigh replace 10.0.0.4 lladdr 02:00:00:00:00:04 dev eth0 nud stale")
		return events.Next(t.Context(), func(*neigh.Entry) {})
	}
	const refused = ": sending to netlink: not permitted (operation not permitted)"
	for _, tt := range []struct {
		name string
		deny []uint32 // system calls that fail
		do   func() error
		says string
	}{
		{"no such entry", nil, get(gone), "reading entry 10.0.0.9: not there (no such file or directory)"},
		{"changing no such entry", nil, setState(gone), "setting entry 10.0.0.9 to stale: not there (no such file or directory)"},
		{"entry without an address", nil, setState(none), "setting entry 10.0.0.3 to stale: entry has no link-layer address"},
		{"using no such entry", nil, use, "using entry 10.0.0.9: not there (no such file or directory)"},
		{"giving away no such entry", nil, give, "giving entry 10.0.0.9 to 02:00:00:00:00:09: not there (no such file or directory)"},
		{"no route", nil, route("192.0.2.1", 0), "finding the route to 192.0.2.1: network is unreachable"},
		{"no way", nil, place("10.66.0.1"), "placing 10.66.0.1: not there (finding the route to 10.66.0.1: no route to host)"},
		{"no way without a device", nil, place("fe80::1"), "placing fe80::1: a link-local address says nothing without a device"},
		{"no sender", nil, sender("2001:db8:ffff::1", 1), "finding the address to ask for 2001:db8:ffff::1 from: not there ("},
		{"no sender without a device", nil, sender("10.0.0.2", 9999), "finding the address to ask for 10.0.0.2 from: not there (no such device)"},
		{"no such device", nil, device(9999), "reading device 9999: not there (no such device)"},
		{"no such socket", nil, getSocket, "reading socket 10.0.0.1:40000 to 10.0.0.2:6443: not there"},
		{"event that does not fit", nil, next, "waiting for neighbour events: event of "},

		{"open", []uint32{unix.SYS_SOCKET}, func() error { _, err := Open(); return err }, "opening netlink route socket: not permitted (operation not permitted)"},
		{"open sockets", []uint32{unix.SYS_SOCKET}, func() error { _, err := OpenSockets(); return err }, "opening netlink sock_diag socket: not permitted (operation not permitted)"},
		{"subscribe", []uint32{unix.SYS_SOCKET}, func() error { _, err := Subscribe(); return err }, "opening netlink route socket: operation not permitted"},
		{"subscribe to events", []uint32{unix.SYS_BIND}, func() error { _, err := Subscribe(); return err }, "subscribing to neighbour events: operation not permitted"},
		{"find out what the kernel can do", []uint32{unix.SYS_SENDTO}, table.probe, "asking the kernel for a single entry" + refused},
		{"dump", []uint32{unix.SYS_SENDTO}, func() error { return table.Dump(func(*neigh.Entry) {}) }, "dumping neighbour table" + refused},
		{"get", []uint32{unix.SYS_SENDTO}, get(there), "reading entry 10.0.0.2" + refused},
		{"get many", []uint32{unix.SYS_SENDTO}, getAll(true), "reading 2 entries" + refused},
		{"get many by a dump", []uint32{unix.SYS_SENDTO}, getAll(false), "reading 2 entries" + refused},
		{"delete", []uint32{unix.SYS_SENDTO}, func() error { _, err := table.Delete([]neigh.Key{gone}); return err }, "deleting 1 entries" + refused},
		{"set state", []uint32{unix.SYS_SENDTO}, setState(there), "setting entry 10.0.0.2 to stale" + refused},
		{"use", []uint32{unix.SYS_SENDTO}, use, "using entry 10.0.0.9" + refused},
		{"give", []uint32{unix.SYS_SENDTO}, give, "giving entry 10.0.0.9 to 02:00:00:00:00:09" + refused},
		{"check write", []uint32{unix.SYS_SENDTO}, table.CheckWrite, "changing the neighbour table" + refused},
		{"route", []uint32{unix.SYS_SENDTO}, route("10.0.0.2", 0), "finding the route to 10.0.0.2" + refused},
		{"device", []uint32{unix.SYS_SENDTO}, device(index), "reading device "},
		{"topology", []uint32{unix.SYS_SENDTO}, topology, "listing devices" + refused},
		{"list sockets", []uint32{unix.SYS_SENDTO}, listSockets, "listing sockets to port 6443" + refused},
		{"get socket", []uint32{unix.SYS_SENDTO}, getSocket, "reading socket 10.0.0.1:40000 to 10.0.0.2:6443" + refused},
		{"destroy socket", []uint32{unix.SYS_SENDTO}, destroySocket, "closing socket 10.0.0.1:40000 to 10.0.0.2:6443" + refused},
	} {
		t.Run(tt.name, func(t *testing.T) {
			// The thread that Do uses is thrown away, and its filter with it.
			if err := h.Do(func() error {
				if err := deny(tt.deny); err != nil {
					t.Fatal(err)
				}
				return tt.do()
			}); err == nil || !strings.HasPrefix(err.Error(), tt.says) {
				t.Errorf("%v, want %s", err, tt.says)
			}
		})
	}
}

// deny has system calls of this thread fail with EPERM, as container runtimes and
// security modules do.
func deny(calls []uint32) error { return denyWith(unix.EPERM, calls) }

func denyWith(errno unix.Errno, calls []uint32) error {
	if len(calls) == 0 {
		return nil
	}
	var program []bpf.Instruction
	for _, n := range calls {
		program = append(program, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: n, SkipTrue: 1}, bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(errno)})
	}
	return lab.FilterCalls(append(program, bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}))
}
