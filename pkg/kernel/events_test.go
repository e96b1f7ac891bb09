package kernel

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

func TestDecodeEvents(t *testing.T) {
	changed := netlinkMessage(unix.RTM_NEWNEIGH, 0, 0, fullBody)
	other := netlinkMessage(unix.RTM_NEWNEIGH, 0, 0, ndmsg(unix.AF_INET6, 7, netlink.NUD_STALE, 0, dst6, lladdr))
	gone := netlinkMessage(unix.RTM_DELNEIGH, 0, 0, fullBody)
	bridge := netlinkMessage(unix.RTM_NEWNEIGH, 0, 0, ndmsg(unix.AF_BRIDGE, 7, netlink.NUD_STALE, 0, lladdr))
	asked := netlinkMessage(unix.RTM_GETNEIGH, unix.NLM_F_REQUEST, 0, fullBody) // app_solicit: neigh_app_ns
	bad := netlinkMessage(unix.RTM_NEWNEIGH, 0, 0, fullBody[:11])
	tests := []struct {
		name  string
		b     []byte
		want  []string
		wrong bool
	}{
		{"nothing", nil, nil, false},
		{"one", changed, []string{"10.0.0.2"}, false},
		{"two", slices.Concat(changed, other), []string{"10.0.0.2", "fe80::2"}, false},
		{"a deletion", gone, nil, false},
		{"another table", slices.Concat(bridge, changed), []string{"10.0.0.2"}, false},
		{"a request to a daemon", asked, nil, false},
		{"a malformed one at the end", slices.Concat(changed, bad, other), []string{"10.0.0.2"}, true},
		{"half a header", append(slices.Clone(changed), 1, 2, 3, 4), []string{"10.0.0.2"}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			err := decodeEvents(tt.b, func(e *neigh.Entry) { got = append(got, e.Addr.String()) })
			if errors.Is(err, neigh.ErrMalformed) != tt.wrong || err != nil && !tt.wrong {
				t.Errorf("got %v", err)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("visited %v, want %v", got, tt.want)
			}
		})
	}
}

func subscribe(t testing.TB, h *lab.Host) *Events {
	t.Helper()
	var e *Events
	if err := h.Do(func() (err error) {
		e, err = Subscribe()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

// awaitEvent reads events until one has the link-layer address.
func awaitEvent(t testing.TB, e *Events, k neigh.Key, lladdr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for found := false; !found; {
		err := e.Next(ctx, func(n *neigh.Entry) { found = found || n.Key == k && n.LLAddr.String() == lladdr })
		if err != nil {
			t.Fatalf("waiting for %s at %s: %v", k.Addr, lladdr, err)
		}
	}
}

func TestEventsTellOfChanges(t *testing.T) {
	h, index := host(t)
	e := subscribe(t, h)
	for _, addr := range []string{"10.0.0.2", "2001:db8::2"} {
		for _, mac := range []string{"02:00:00:00:00:06", "02:00:00:00:00:07"} {
			h.IP("neigh replace " + addr + " lladdr " + mac + " dev eth0 nud reachable")
			awaitEvent(t, e, key(addr, index), mac)
		}
	}
	// That was all that happened to the two.
	h.IP("neigh del 10.0.0.2 dev eth0")
	h.IP("neigh replace 10.0.0.3 lladdr 02:00:00:00:00:08 dev eth0 nud stale")
	awaitEvent(t, e, key("10.0.0.3", index), "02:00:00:00:00:08")
}

func TestEventsEndWithContext(t *testing.T) {
	h, index := host(t)
	e := subscribe(t, h)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		for { // IPv6 has things to tell while the device is new
			if err := e.Next(ctx, func(*neigh.Entry) {}); err != nil {
				done <- err
				return
			}
		}
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	h.IP("neigh replace 10.0.0.2 lladdr 02:00:00:00:00:06 dev eth0 nud reachable")
	if err := e.Next(ctx, func(*neigh.Entry) { t.Error("visited") }); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled before: %v", err)
	}
	awaitEvent(t, e, key("10.0.0.2", index), "02:00:00:00:00:06") // what came meanwhile was kept
	drainEvents(t, e)

	go func() { done <- e.Next(context.Background(), func(*neigh.Entry) {}) }()
	e.Close()
	if err := <-done; err == nil || err.Error() != "waiting for neighbour events: use of closed file" {
		t.Errorf("closed: %v", err)
	}
}

// drainEvents reads what is queued.
func drainEvents(t testing.TB, e *Events) {
	t.Helper()
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		err := e.Next(ctx, func(*neigh.Entry) {})
		cancel()
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			return
		case err != nil:
			t.Fatal(err)
		}
	}
}

func TestEventsSurviveOverrun(t *testing.T) {
	h, index := host(t)
	e := subscribe(t, h)
	var err error
	if c := e.raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 1)
	}); c != nil || err != nil {
		t.Fatal(c, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for range 3 {
		waiting := make(chan error, 1)
		drainEvents(t, e)
		go func() { // as the poller sees it: an overrun while somebody waits, or before
			for {
				if err := e.Next(ctx, func(*neigh.Entry) {}); err != nil {
					waiting <- err
					return
				}
			}
		}()
		flood := strings.Repeat("neigh replace 10.0.0.2 lladdr 02:00:00:00:00:02 dev eth0 nud reachable\n"+
			"neigh replace 10.0.0.2 lladdr 02:00:00:00:00:03 dev eth0 nud reachable\n", 500)
		for len(waiting) == 0 && ctx.Err() == nil {
			h.Batch(flood)
		}
		if err := <-waiting; !errors.Is(err, neigh.ErrOverrun) || err.Error() != "waiting for neighbour events: netlink receive buffer overrun" {
			t.Fatalf("after a flood: %v, want ErrOverrun", err)
		}
		drainEvents(t, e)
		h.IP("neigh replace 10.0.0.2 lladdr 02:00:00:00:00:04 dev eth0 nud reachable")
		awaitEvent(t, e, key("10.0.0.2", index), "02:00:00:00:00:04")
	}
}

// Any process may send to a netlink port; only the kernel is believed.
func TestEventsComeFromTheKernel(t *testing.T) {
	h, index := host(t)
	e := subscribe(t, h)
	var to unix.Sockaddr
	var err error
	if c := e.raw.Control(func(fd uintptr) { to, err = unix.Getsockname(int(fd)) }); c != nil || err != nil {
		t.Fatal(c, err)
	}
	if err := h.Do(func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		body := ndmsg(unix.AF_INET, int32(index), netlink.NUD_REACHABLE, 0, dst4, lladdr)
		return unix.Sendto(fd, netlinkMessage(unix.RTM_NEWNEIGH, 0, 0, body), 0,
			&unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: to.(*unix.SockaddrNetlink).Pid})
	}); err != nil {
		t.Fatal(err)
	}
	h.IP("neigh replace 10.0.0.3 lladdr 02:00:00:00:00:03 dev eth0 nud reachable")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for found := false; !found; {
		if err := e.Next(ctx, func(n *neigh.Entry) {
			found = found || n.Key == key("10.0.0.3", index)
			if n.Key == key("10.0.0.2", index) {
				t.Error("an event that the kernel did not send was believed")
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
}
