package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// maxStack is how many devices may lie on top of one another (MAX_NEST_DEV in
// include/linux/netdevice.h).
const maxStack = 8

// device is a network device as RTM_NEWLINK describes it. Its Suppresses is not
// filled in: that takes other devices.
type device struct {
	neigh.Link
	settings
	bridge bool // it is a bridge itself
	lower  int  // the index of the device that a VLAN or macvlan lies on; 0 for any other, and where that is in another namespace
	master int  // the index of the device that it is enslaved to, or 0
	// suppressing is set for a port of the bridge master that has neigh_suppress or
	// neigh_vlan_suppress.
	suppressing bool
}

// stacked are the kinds of devices that hand their frames to another one as they
// are. An entry of theirs is asked for through that one.
//
// Bonds and teams are not among them: a bridge looks for entries of its own and of its
// VLANs, not for those of a device that it is enslaved to. VRFs have no entries.
func stacked(kind []byte) bool {
	switch string(kind) {
	case "vlan", "macvlan", "macvtap", "ipvlan", "ipvtap":
		return true
	}
	return false
}

// links returns the devices as links. Of those that lie on a bridge that answers for
// others it sets Suppresses.
func links(devices map[int]device) map[int]neigh.Link {
	bridges := make(map[int]bool) // that answer for others, by index
	for _, d := range devices {
		if d.suppressing {
			bridges[d.master] = true
		}
	}
	links := make(map[int]neigh.Link, len(devices))
	for i, d := range devices {
		for n := 0; i != 0 && n <= maxStack; n++ {
			d.Suppresses = d.Suppresses || bridges[i]
			i = devices[i].lower
		}
		links[d.Index] = d.Link
	}
	return links
}

// devices lists all devices, or those enslaved to one where master is not 0, by index.
// A list that was interrupted by a change is read again, and what it adds is added:
// what is missing may be the port that makes a bridge one that answers for others. If
// changes never end, it is taken as it is.
func (c *conn) devices(master int) (map[int]device, error) {
	devices := make(map[int]device)
	for range dumpTries {
		err := c.listDevices(master, devices)
		if err == nil || tolerate(err) != nil {
			return devices, err
		}
	}
	return devices, nil
}

// listDevices is devices for one try.
func (c *conn) listDevices(master int, devices map[int]device) error {
	return c.list(unix.RTM_GETLINK, linkRequest(0, master), func(b []byte) error {
		d, err := decodeLink(b)
		if err == nil && (master == 0 || d.master == master) {
			devices[d.Index] = d
		}
		return err
	})
}

// device reads one device.
func (t *Table) device(index int) (d device, err error) {
	err = t.one(unix.RTM_NEWLINK, func(b []byte, seq uint32) []byte {
		return appendMessage(b, unix.RTM_GETLINK, 0, seq, linkRequest(index, 0))
	}, func(body []byte) error {
		d, err = decodeLink(body)
		return err
	})
	if err != nil {
		return device{}, fmt.Errorf("reading device %d: %w", index, err)
	}
	return d, nil
}

// DeviceName returns the name of the device with an index. The error wraps
// neigh.ErrGone where there is none.
func (t *Table) DeviceName(index int) (string, error) {
	d, err := t.device(index)
	return d.Name, err
}

// link reads one device, and those below it.
func (t *Table) link(index int) (neigh.Link, error) {
	d, err := t.device(index)
	if err != nil {
		return neigh.Link{}, err
	}
	return t.linkTo(d)
}

// linkTo is link for a device that has been read.
func (t *Table) linkTo(d device) (neigh.Link, error) {
	link := d.Link
	for n := 0; d.lower != 0 && n < maxStack; n++ {
		var err error
		if d, err = t.device(d.lower); err != nil {
			return neigh.Link{}, err
		}
	}
	if !d.bridge {
		return link, nil
	}
	t.mu.Lock() // not t.dumping, which a long scan holds
	ports, err := t.conn.devices(d.Index)
	t.mu.Unlock()
	if err != nil {
		return neigh.Link{}, fmt.Errorf("listing the ports of %s: %w", d.Name, err)
	}
	for _, port := range ports {
		link.Suppresses = link.Suppresses || port.suppressing
	}
	return link, nil
}

// linkRequest is the body of a request for one device, or for all of them where
// index is 0, without their counters. The kernel leaves out those that are not
// enslaved to master unless that is 0 (Linux 4.6).
func linkRequest(index, master int) []byte {
	const skipStats = 1 << 3 // RTEXT_FILTER_SKIP_STATS
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], uint32(index)) //nolint:gosec // an int32 by origin
	b = appendAttr(b, unix.IFLA_EXT_MASK, binary.NativeEndian.AppendUint32(nil, skipStats))
	if master != 0 {
		b = appendAttr(b, unix.IFLA_MASTER, binary.NativeEndian.AppendUint32(nil, uint32(master))) //nolint:gosec // an int32 by origin
	}
	return b
}

// linkOf leaves out what depends on addresses, routes and other devices.
func linkOf(index int, name string, flags uint32) neigh.Link {
	return neigh.Link{
		Index:        index,
		Name:         name,
		Loopback:     flags&unix.IFF_LOOPBACK != 0,
		NoARP:        flags&unix.IFF_NOARP != 0,
		PointToPoint: flags&unix.IFF_POINTOPOINT != 0,
	}
}

// decodeLink reads the body of an RTM_NEWLINK message.
func decodeLink(b []byte) (device, error) {
	if len(b) < unix.SizeofIfInfomsg {
		return device{}, fmt.Errorf("ifinfomsg of %d bytes: %w", len(b), neigh.ErrMalformed)
	}
	d := device{Link: linkOf(index(b[4:]), "", binary.NativeEndian.Uint32(b[8:]))}
	var lower int
	var elsewhere bool
	var kind []byte
	if err := eachAttr(b[unix.SizeofIfInfomsg:], func(typ uint16, v []byte) (err error) {
		switch typ {
		case unix.IFLA_IFNAME:
			d.Name = unix.ByteSliceToString(v)
		case unix.IFLA_ADDRESS:
			d.LLAddr, err = decodeLLAddr(v)
		case unix.IFLA_LINK:
			lower, err = indexAttr(typ, v)
		case unix.IFLA_LINK_NETNSID:
			elsewhere = true
		case unix.IFLA_MASTER:
			d.master, err = indexAttr(typ, v)
		case unix.IFLA_LINKINFO:
			kind, d.suppressing, err = decodeLinkInfo(v)
		case unix.IFLA_AF_SPEC:
			d.settings, err = decodeSettings(v)
		}
		return err
	}); err != nil {
		return device{}, err
	}
	if d.Name == "" {
		return device{}, fmt.Errorf("device %d without a name: %w", d.Index, neigh.ErrMalformed)
	}
	d.bridge = string(kind) == "bridge"
	if stacked(kind) && !elsewhere {
		d.lower = lower
	}
	return d, nil
}

// decodeLLAddr returns the zero value for an address of zeros alone, as lo has one.
func decodeLLAddr(b []byte) (a neigh.LLAddr, err error) {
	switch ok := a.Set(b); {
	case !ok:
		err = fmt.Errorf("link-layer address of %d bytes: %w", len(b), neigh.ErrMalformed)
	case bytes.Count(b, []byte{0}) == len(b):
		a = neigh.LLAddr{}
	}
	return a, err
}

// indexAttr reads an attribute of RTM_NEWLINK that is an interface index.
func indexAttr(typ uint16, v []byte) (int, error) {
	if len(v) < 4 {
		return 0, fmt.Errorf("attribute %d of a device, of %d bytes: %w", typ, len(v), neigh.ErrMalformed)
	}
	return index(v), nil
}

// decodeLinkInfo reads IFLA_LINKINFO: the kind of a device, and whether it is a port of
// a bridge that has neigh_suppress or neigh_vlan_suppress.
func decodeLinkInfo(b []byte) (kind []byte, suppressing bool, err error) {
	var master, port []byte
	if err := eachAttr(b, func(typ uint16, v []byte) error {
		switch typ {
		case unix.IFLA_INFO_KIND:
			kind = bytes.TrimRight(v, "\x00")
		case unix.IFLA_INFO_SLAVE_KIND:
			master = bytes.TrimRight(v, "\x00")
		case unix.IFLA_INFO_SLAVE_DATA:
			port = v
		}
		return nil
	}); err != nil || string(master) != "bridge" {
		return kind, false, err
	}
	err = eachAttr(port, func(typ uint16, v []byte) error {
		if typ == unix.IFLA_BRPORT_NEIGH_SUPPRESS || typ == unix.IFLA_BRPORT_NEIGH_VLAN_SUPPRESS {
			suppressing = suppressing || len(v) > 0 && v[0] != 0
		}
		return nil
	})
	return kind, suppressing, err
}
