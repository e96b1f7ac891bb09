package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

// maxEntries fit into the address range that entries are made in.
const maxEntries = 4 << 20

// table fills a host's neighbour table.
type table struct {
	sock   *nl.NetlinkSocket
	handle *netlink.Handle
	index  int
	has    int
}

func newTable(h *lab.Host, device string) (*table, error) {
	t := &table{}
	err := h.Do(func() error {
		link, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		t.index = link.Attrs().Index
		if t.sock, err = nl.GetNetlinkSocketAt(-1, -1, unix.NETLINK_ROUTE); err != nil {
			return err
		}
		t.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	return t, err
}

// address is that of entry i.
func address(i int) netip.Addr {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], 10<<24+1+uint32(i))
	return netip.AddrFrom4(a)
}

// emptied notes that all entries were deleted.
func (t *table) emptied() { t.has = 0 }

// fill makes sure that there are n entries, all of them stale: a subject must
// have left none, or the same number.
func (t *table) fill(n int) error {
	if t.has == n {
		return nil
	}
	const batch = 200 // as many errors as fit into the socket's receive buffer
	for first := t.has; first < n; first += batch {
		if err := t.add(first, min(first+batch, n)); err != nil {
			return fmt.Errorf("filling the table: %w", err)
		}
	}
	t.has = n
	return nil
}

// refill makes those of n entries again that somebody has deleted.
func (t *table) refill(n int) error {
	list, err := t.handle.NeighList(t.index, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("reading the table: %w", err)
	}
	there := make(map[netip.Addr]bool, len(list))
	for i := range list {
		if a, ok := netip.AddrFromSlice(list[i].IP.To4()); ok {
			there[a] = true
		}
	}
	for i := range n {
		if there[address(i)] {
			continue
		}
		if err := t.add(i, i+1); err != nil {
			return fmt.Errorf("filling the table: %w", err)
		}
	}
	return nil
}

func (t *table) add(first, end int) error {
	var out []byte
	for i := first; i < end; i++ {
		r := nl.NewNetlinkRequest(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
		r.Seq = uint32(i)
		if i == end-1 {
			r.Flags |= unix.NLM_F_ACK
		}
		addr := address(i).As4()
		r.AddData(&netlink.Ndmsg{Family: unix.AF_INET, Index: uint32(t.index), State: netlink.NUD_STALE})
		r.AddData(nl.NewRtAttr(netlink.NDA_DST, addr[:]))
		r.AddData(nl.NewRtAttr(netlink.NDA_LLADDR, append([]byte{2, 0}, addr[:]...)))
		out = append(out, r.Serialize()...)
	}
	if err := unix.Sendto(t.sock.GetFd(), out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	for {
		msgs, _, err := t.sock.Receive()
		if err != nil && !errors.Is(err, unix.EAGAIN) {
			return err
		}
		for _, m := range msgs {
			if code := int32(binary.NativeEndian.Uint32(m.Data)); m.Header.Type == unix.NLMSG_ERROR && code != 0 {
				return unix.Errno(-code)
			}
			if m.Header.Seq == uint32(end-1) {
				return nil
			}
		}
	}
}
