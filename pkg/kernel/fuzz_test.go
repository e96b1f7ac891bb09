package kernel

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// seed adds inputs to those that a fuzz test starts from: whole, cut short anywhere,
// and with each byte 0, 1 and 255. That reaches what a decoder refuses.
func seed(f *testing.F, inputs ...[]byte) {
	for _, whole := range inputs {
		f.Add(whole)
		for i := range whole {
			f.Add(whole[:i])
			for _, v := range []byte{0, 1, 255} {
				b := bytes.Clone(whole)
				b[i] = v
				f.Add(b)
			}
		}
	}
}

// A whole conversation: whatever the kernel says in whatever datagrams, a dump,
// a lookup and a change come to an end, and every failure has a name.
func FuzzConversation(f *testing.F) {
	answer := func(typ, flags uint16, body ...[]byte) []byte { return netlinkMessage(typ, flags, 1, body...) }
	entry := answer(unix.RTM_NEWNEIGH, unix.NLM_F_MULTI, fullBody)
	done := answer(unix.NLMSG_DONE, unix.NLM_F_MULTI, u32s(0))
	dump := slices.Concat(entry, done)
	for i := range dump {
		damaged := bytes.Clone(dump)
		damaged[i] = 255
		f.Add(damaged, uint16(0))
		f.Add(dump[:i], uint16(0))
	}
	f.Add(dump, uint16(0))
	f.Add(dump, uint16(len(entry)))
	f.Add(append(answer(unix.RTM_NEWNEIGH, unix.NLM_F_DUMP_INTR, fullBody), done...), uint16(40))
	f.Add(answer(unix.NLMSG_ERROR, 0, u32s(^uint32(unix.EBUSY)+1)), uint16(0))
	f.Add(answer(unix.NLMSG_ERROR, 0, u32s(^uint32(unix.ENOBUFS)+1)), uint16(0))
	f.Add(answer(unix.NLMSG_ERROR, 0, u32s(0)), uint16(0))
	f.Add(answer(unix.NLMSG_ERROR, 0, u32s(0)), uint16(3))
	f.Add(answer(unix.RTM_NEWROUTE, 0, wayBody), uint16(0))
	f.Add(answer(unix.NLMSG_DONE, 0), uint16(0))
	links := append(answer(unix.RTM_NEWLINK, unix.NLM_F_MULTI, carryingBody), done...)
	f.Add(append(links, append(answer(unix.RTM_NEWADDR, unix.NLM_F_MULTI, addressBody), done...)...), uint16(len(links)))
	f.Fuzz(func(t *testing.T, said []byte, cut uint16) {
		datagrams := [][]byte{said}
		if n := int(cut); n < len(said) {
			datagrams = [][]byte{said[:n], said[n:]}
		}
		for name, talk := range map[string]func(*Table) error{
			"dump":   func(t *Table) error { return t.Dump(func(*neigh.Entry) {}) },
			"lookup": func(t *Table) error { _, err := t.Get(key("10.0.0.2", 7)); return err },
			"lookups": func(t *Table) error {
				return t.GetAll([]neigh.Key{key("10.0.0.2", 7), key("10.0.0.3", 7)}, func(*neigh.Entry) {})
			},
			"change": func(t *Table) error { return t.SetState(key("10.0.0.2", 7), neigh.Stale) },
			"delete": func(t *Table) error {
				failed, err := t.Delete([]neigh.Key{key("10.0.0.2", 7), key("10.0.0.3", 7)})
				for _, f := range failed {
					err = errors.Join(err, f.Err)
				}
				return err
			},
			"topology": func(t *Table) error { _, err := t.Topology(); return err },
			"own":      func(t *Table) error { _, err := t.Own(); return err },
			"sender":   func(t *Table) error { _, err := t.Sender(netip.MustParseAddr("10.0.0.2"), 7); return err },
			"sockets":  func(table *Table) error { _, err := (&Sockets{conn: table.conn}).List(6443); return err },
		} {
			left := datagrams
			c := &conn{port: 4242, buf: make([]byte, bufferSize)}
			c.sysSend = func(int, []byte, int) error { return nil }
			c.sysRead = func(_ int, p []byte) (int, error) {
				if len(left) == 0 {
					return 0, unix.ECONNRESET // it says no more
				}
				b := left[0]
				left = left[1:]
				return copy(p, b), nil
			}
			err := talk(&Table{conn: c, dumps: c, single: true})
			known := err == nil || errors.Is(err, unix.ECONNRESET) || errors.Is(err, neigh.ErrGone) || errors.Is(err, neigh.ErrUnsupported) ||
				errors.Is(err, neigh.ErrNoAddress) || neigh.FailureReason(err) != "other"
			var errno unix.Errno
			if !known && !errors.As(err, &errno) {
				t.Errorf("%s: %v has no name", name, err)
			}
		}
	})
}

func FuzzDecodeEvents(f *testing.F) {
	seed(f, netlinkMessage(unix.RTM_NEWNEIGH, 0, 0, fullBody))
	f.Add(netlinkMessage(unix.RTM_DELNEIGH, 0, 0, fullBody))
	f.Add(append(netlinkMessage(unix.RTM_NEWNEIGH, 0, 0, fullBody), 1, 2, 3))
	f.Fuzz(func(t *testing.T, b []byte) {
		visited := 0
		err := decodeEvents(b, func(e *neigh.Entry) {
			visited++
			if !e.Addr.IsValid() {
				t.Errorf("%+v has no address", e)
			}
		})
		if err != nil && !errors.Is(err, neigh.ErrMalformed) {
			t.Errorf("%v, want ErrMalformed", err)
		}
		if visited > len(b)/(unix.NLMSG_HDRLEN+ndmsgLen) {
			t.Errorf("%d entries in %d bytes", visited, len(b))
		}
	})
}
