// Package kernel is the only room that talks netlink: it reads and changes the
// neighbour table, and reads the devices and routes around it.
//
// It takes the constants of github.com/vishvananda/netlink, and has decoders of its
// own, for two reasons. The library's Neigh has no field for NDA_PROTOCOL, without
// which entries of routing daemons cannot be told from others. And a node scans for
// years: a scan must not allocate per entry, and a request for one thing must not
// allocate 64 KiB for the answer. In live tests the library's lists are the reference.
package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// maxBatch is the most deletions in one system call. The default receive
// buffer of a netlink socket holds 256 errors, and each may yield one.
const maxBatch = 200

// maxLookups is the most entries asked for in one system call. Each answer takes
// a message of its own in the receive buffer.
const maxLookups = 100

// Table is the neighbour table of one network namespace: that of the thread
// that opened it. It is safe for concurrent use, one request at a time, and one
// dump beside it.
type Table struct {
	mu     sync.Mutex // held while conn is in use
	conn   *conn
	single bool // the kernel answers RTM_GETNEIGH for one entry (Linux 5.0)

	dumping sync.Mutex // held while dumps is in use
	dumps   *conn      // for dumps alone, so that entries can be changed meanwhile

	forAll forAll
}

// Open opens the table of the calling thread's network namespace and finds out
// what the kernel can do.
func Open() (*Table, error) {
	c, err := dial(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	d, err := dial(unix.NETLINK_ROUTE)
	if err != nil {
		c.close()
		return nil, err
	}
	t := &Table{conn: c, dumps: d, forAll: openForAll()}
	if err := t.probe(); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// probe asks for an entry that cannot exist, to learn whether single entries
// can be asked for at all.
func (t *Table) probe() error {
	_, err := t.lookup(neigh.Key{Addr: netip.IPv4Unspecified(), Index: 1})
	switch {
	case err == nil, errors.Is(err, neigh.ErrGone):
		t.single = true
	case errors.Is(err, unix.EOPNOTSUPP):
	default:
		return fmt.Errorf("asking the kernel for a single entry: %w", err)
	}
	return nil
}

// Close closes the sockets.
func (t *Table) Close() {
	t.conn.close()
	t.dumps.close()
	t.forAll.close()
}

// Dump calls visit for every IPv4 and IPv6 entry of the table. The entry is
// reused: visit copies what it keeps. Entries that change during the dump may
// be seen twice or not at all. An error means that entries may be missing.
func (t *Table) Dump(visit func(*neigh.Entry)) error { return t.DumpParts(visit, nil) }

// DumpParts is Dump for callers that act while the table is being read. The
// kernel hands it over in parts of fewer than 200 entries, and part is called after
// each of them, but no longer once an error is certain. The entries of the part have
// been read from the table at since or later.
//
// Both functions may call what changes and reads single entries. Deleting what
// has been visited does not make the dump skip others: it goes on from a bucket
// of the kernel's hash table and a place in it (neigh_dump_table), and has read
// the next part already.
func (t *Table) DumpParts(visit func(*neigh.Entry), part func(since time.Time)) error {
	t.dumping.Lock()
	defer t.dumping.Unlock()
	if err := t.dumps.entries(visit, part); err != nil {
		return fmt.Errorf("dumping neighbour table: %w", err)
	}
	return nil
}

// entries dumps the neighbour table, as DumpParts says.
func (c *conn) entries(visit func(*neigh.Entry), part func(since time.Time)) error {
	since := time.Now()
	seq, err := c.begin(func(b []byte, seq uint32) []byte {
		return appendRequest(b, &request{typ: unix.RTM_GETNEIGH, flags: unix.NLM_F_DUMP}, seq)
	})
	if err != nil {
		return err
	}
	var e neigh.Entry
	var first error // the dump is read to its end all the same, as by conn.dump
	done := false
	for !done {
		next := time.Now() // the kernel reads the next part from the table while it hands over this one
		b, err := c.read()
		if err == nil {
			if done, err = decodePart(b, c.port, seq, &e, visit); done {
				c.finished(err)
			}
		}
		if first == nil {
			first = err
		}
		if err != nil && !errors.Is(err, neigh.ErrMalformed) && !errors.Is(err, neigh.ErrOverrun) && !errors.Is(err, neigh.ErrInterrupted) {
			break
		}
		if first == nil && part != nil {
			part(since)
		}
		since = next
	}
	return first
}

// Get reads one entry afresh. It returns an error that wraps neigh.ErrGone
// where there is none.
func (t *Table) Get(k neigh.Key) (e neigh.Entry, err error) {
	if t.single {
		e, err = t.lookup(k)
	} else {
		e, err = t.find(k)
	}
	if err != nil {
		return e, fmt.Errorf("reading entry %s: %w", k.Addr, err)
	}
	return e, nil
}

// GetAll reads the entries again and calls visit for those that exist. On
// kernels that cannot look up single entries it takes one dump for all of them.
// The entry is reused: visit copies what it keeps, and does not call back.
func (t *Table) GetAll(keys []neigh.Key, visit func(*neigh.Entry)) error {
	if !t.single {
		if err := t.findAll(keys, visit); err != nil {
			return fmt.Errorf("reading %d entries: %w", len(keys), err)
		}
		return nil
	}
	for batch := range slices.Chunk(keys, maxLookups) {
		if err := t.lookupAll(batch, visit); err != nil {
			return fmt.Errorf("reading %d entries: %w", len(batch), err)
		}
	}
	return nil
}

func (t *Table) lookup(k neigh.Key) (e neigh.Entry, err error) {
	err = t.one(unix.RTM_NEWNEIGH, func(b []byte, seq uint32) []byte {
		return appendRequest(b, &request{Key: k, typ: unix.RTM_GETNEIGH}, seq)
	}, func(body []byte) error {
		_, err := decodeEntry(body, &e)
		return err
	})
	return e, err
}

// lookupAll is lookup for many entries, in one system call. What is gone is left out.
func (t *Table) lookupAll(keys []neigh.Key, visit func(*neigh.Entry)) error {
	var e neigh.Entry
	var failed error
	err := t.batch(len(keys), func(i int) request {
		return request{Key: keys[i], typ: unix.RTM_GETNEIGH}
	}, func(_ int, m message) {
		err := m.status()
		if m.typ == unix.RTM_NEWNEIGH {
			var ok bool
			if ok, err = decodeEntry(m.body, &e); ok {
				visit(&e)
			}
		}
		if !errors.Is(err, neigh.ErrGone) {
			failed = cmp.Or(failed, err)
		}
	})
	return cmp.Or(err, failed)
}

// find is lookup for kernels that only know dumps.
func (t *Table) find(k neigh.Key) (e neigh.Entry, err error) {
	found := false
	err = t.findAll([]neigh.Key{k}, func(d *neigh.Entry) { e, found = *d, true })
	if err == nil && !found {
		err = neigh.ErrGone
	}
	return e, err
}

// findAll is lookupAll for kernels that only know dumps.
func (t *Table) findAll(keys []neigh.Key, visit func(*neigh.Entry)) error {
	wanted := make(map[neigh.Key]bool, len(keys))
	for _, k := range keys {
		wanted[k] = true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.conn.entries(func(e *neigh.Entry) {
		if wanted[e.Key] {
			visit(e)
		}
	}, nil)
}

// one is conn.ask, beside any dump.
func (t *Table) one(answer uint16, request func(b []byte, seq uint32) []byte, handle func(body []byte) error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.conn.ask(answer, request, handle)
}

// batch sends n requests in one system call, and waits until the kernel has worked
// through all of them, the ones after a failure included. It calls answer for each
// message that answers the request i.
func (t *Table) batch(n int, nth func(i int) request, answer func(i int, m message)) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.conn
	first := c.reserve(n)
	last := c.seq
	c.out = c.out[:0]
	for i := range n {
		r := nth(i)
		if i == n-1 {
			r.flags |= unix.NLM_F_ACK // errors come unasked; one acknowledgement marks the end
		}
		c.out = appendRequest(c.out, &r, first+uint32(i))
	}
	if err := c.send(c.out); err != nil {
		return err
	}
	return c.receive(first, last, func(m message) (bool, error) {
		answer(int(m.seq-first), m)
		return m.seq == last && m.typ == unix.NLMSG_ERROR, nil
	})
}

// Delete removes the entries, maxBatch of them in a system call. The failures
// name those that were gone already (neigh.ErrGone) or that the kernel refused
// to delete. The error is for the whole: after it, what was deleted is unknown
// until the next dump.
func (t *Table) Delete(keys []neigh.Key) (failed []neigh.Failure, err error) {
	for batch := range slices.Chunk(keys, maxBatch) {
		err := t.batch(len(batch), func(i int) request {
			return request{Key: batch[i], typ: unix.RTM_DELNEIGH}
		}, func(i int, m message) {
			if err := m.status(); err != nil {
				failed = append(failed, neigh.Failure{Key: batch[i], Err: err})
			}
		})
		if err != nil {
			return failed, fmt.Errorf("deleting %d entries: %w", len(batch), err)
		}
	}
	return failed, nil
}

// SetState sets the state of an existing entry and leaves its link-layer
// address as it is: no NDA_LLADDR, no NLM_F_REPLACE, no NLM_F_CREATE. The error
// wraps neigh.ErrNoAddress where the entry has no link-layer address to keep.
func (t *Table) SetState(k neigh.Key, s neigh.State) error {
	err := t.change(request{Key: k, typ: unix.RTM_NEWNEIGH, state: s})
	if errors.Is(err, unix.EINVAL) {
		err = neigh.ErrNoAddress // __neigh_update: the one thing invalid about such a request
	}
	if err != nil {
		return fmt.Errorf("setting entry %s to %s: %w", k.Addr, s, err)
	}
	return nil
}

// Use does to an existing entry what a packet sent through it would
// (neigh_event_send): its used age restarts, and a stale one goes to
// NUD_DELAY, after which the kernel verifies it by unicast.
func (t *Table) Use(k neigh.Key) error {
	if err := t.change(request{Key: k, typ: unix.RTM_NEWNEIGH, ntf: netlink.NTF_USE}); err != nil {
		return fmt.Errorf("using entry %s: %w", k.Addr, err)
	}
	return nil
}

// Give gives an existing entry to the holder lladdr and has the kernel verify that:
// it makes the entry NUD_STALE (NLM_F_REPLACE, no NLM_F_CREATE) and then does as Use
// does. Packets flow at once. Unless TCP confirms the new holder within
// delay_first_probe_time (5 s), the kernel asks it by unicast, and if that is not
// answered, everybody. So no entry becomes NUD_REACHABLE only because a packet socket
// has heard an answer: it also hears what the host's firewall drops. flags are those
// the entry has: without NTF_ROUTER the kernel would take a router for a host.
//
// It takes two requests, in one system call: in one with NTF_USE the kernel does
// nothing else (neigh_add).
func (t *Table) Give(k neigh.Key, lladdr neigh.LLAddr, flags neigh.Flags) error {
	err := t.change(request{
		Key: k, typ: unix.RTM_NEWNEIGH, flags: unix.NLM_F_REPLACE, state: neigh.Stale,
		ntf: uint8(flags & neigh.FlagRouter), lladdr: lladdr,
	}, request{Key: k, typ: unix.RTM_NEWNEIGH, ntf: netlink.NTF_USE})
	if err != nil {
		return fmt.Errorf("giving entry %s to %s: %w", k.Addr, lladdr, err)
	}
	return nil
}

// CheckWrite returns an error that wraps neigh.ErrPermission where this
// process may not change the table. It sends a request that names no entry:
// the kernel checks the capability before it looks at the rest, and having it,
// refuses the request for what it is.
func (t *Table) CheckWrite() error {
	err := t.change(request{typ: unix.RTM_DELNEIGH})
	if errors.Is(err, neigh.ErrPermission) {
		return fmt.Errorf("changing the neighbour table: %w", err)
	}
	var errno unix.Errno
	if err == nil || errors.As(err, &errno) {
		return nil
	}
	return fmt.Errorf("changing the neighbour table: %w", err)
}

// change sends requests in one system call, and returns the first failure.
func (t *Table) change(requests ...request) error {
	var failed error
	err := t.batch(len(requests), func(i int) request { return requests[i] }, func(_ int, m message) {
		failed = cmp.Or(failed, m.status())
	})
	return cmp.Or(err, failed)
}
