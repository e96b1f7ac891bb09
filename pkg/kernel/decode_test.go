package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// Messages are put together by hand here, from the layout of struct nlmsghdr,
// struct ndmsg and struct rtattr, so that encoder and decoder are not each
// other's only witness.

// netlinkMessage returns a message with an unpadded end.
func netlinkMessage(typ, flags uint16, seq uint32, body ...[]byte) []byte {
	b := slices.Concat(body...)
	head := binary.NativeEndian.AppendUint32(nil, uint32(16+len(b)))
	head = binary.NativeEndian.AppendUint16(head, typ)
	head = binary.NativeEndian.AppendUint16(head, flags)
	head = binary.NativeEndian.AppendUint32(head, seq)
	head = binary.NativeEndian.AppendUint32(head, 4242) // nlmsg_pid
	return append(head, b...)
}

// ndmsg returns the body of an RTM_NEWNEIGH message.
func ndmsg(family uint8, index int32, state uint16, flags uint8, attrs ...[]byte) []byte {
	b := []byte{family, 0xaa, 0xbb, 0xcc} // padding is nobody's business
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	b = binary.NativeEndian.AppendUint16(b, state)
	b = append(b, flags, unix.RTN_UNICAST)
	return append(b, slices.Concat(attrs...)...)
}

// attr returns an attribute, padded.
func attr(typ uint16, value ...byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0xee)
	}
	return b
}

func u32s(values ...uint32) (b []byte) {
	for _, v := range values {
		b = binary.NativeEndian.AppendUint32(b, v)
	}
	return b
}

var (
	dst4     = attr(netlink.NDA_DST, 10, 0, 0, 2)
	dst6     = attr(netlink.NDA_DST, 0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2)
	lladdr   = attr(netlink.NDA_LLADDR, 2, 0, 0, 0, 0, 2)
	times    = attr(netlink.NDA_CACHEINFO, u32s(6000, 12, 3400, 1)...) // confirmed, used, updated, refcnt
	probes   = attr(netlink.NDA_PROBES, u32s(3)...)
	zebra    = attr(netlink.NDA_PROTOCOL, unix.RTPROT_ZEBRA)
	managed  = attr(netlink.NDA_FLAGS_EXT, u32s(1)...)
	fullBody = ndmsg(unix.AF_INET, 7, netlink.NUD_STALE, netlink.NTF_ROUTER, dst4, lladdr, probes, times, zebra, managed)
)

func fullEntry() neigh.Entry {
	return neigh.Entry{
		Key:    key("10.0.0.2", 7),
		LLAddr: mac(2, 0, 0, 0, 0, 2), State: neigh.Stale, Flags: neigh.FlagRouter,
		FlagsExt: neigh.FlagManaged, Protocol: unix.RTPROT_ZEBRA,
		Used: 120 * time.Millisecond, Confirmed: time.Minute, Updated: 34 * time.Second,
	}
}

func mac(b ...byte) neigh.LLAddr {
	a, _ := neigh.LLAddrFrom(b)
	return a
}

func TestDecodeEntry(t *testing.T) {
	bare := neigh.Entry{Key: key("10.0.0.2", 7), State: neigh.Stale}
	with := func(change func(*neigh.Entry)) neigh.Entry {
		e := bare
		change(&e)
		return e
	}
	body := func(attrs ...[]byte) []byte { return ndmsg(unix.AF_INET, 7, netlink.NUD_STALE, 0, attrs...) }

	tests := []struct {
		name string
		body []byte
		want neigh.Entry
	}{
		{"everything", fullBody, fullEntry()},
		{"attributes in another order", ndmsg(unix.AF_INET, 7, netlink.NUD_STALE, netlink.NTF_ROUTER,
			managed, zebra, times, lladdr, dst4), fullEntry()},
		{"address only, as of an old kernel", body(dst4), bare},
		{"IPv6", ndmsg(unix.AF_INET6, 7, netlink.NUD_STALE, 0, dst6), with(func(e *neigh.Entry) {
			e.Addr = netip.MustParseAddr("fe80::2")
		})},
		{"IPv4-mapped IPv6 stays IPv6", ndmsg(unix.AF_INET6, 7, netlink.NUD_STALE, 0,
			attr(netlink.NDA_DST, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 2)), with(func(e *neigh.Entry) {
			e.Addr = netip.MustParseAddr("::ffff:10.0.0.2")
		})},
		{"every state bit", ndmsg(unix.AF_INET, 7, 0xffff, 0, dst4), with(func(e *neigh.Entry) { e.State = 0xffff })},
		{"every flag", ndmsg(unix.AF_INET, 7, netlink.NUD_STALE, 0xff, dst4), with(func(e *neigh.Entry) { e.Flags = 0xff })},
		{"every ext flag", body(dst4, attr(netlink.NDA_FLAGS_EXT, u32s(1<<32-1)...)), with(func(e *neigh.Entry) { e.FlagsExt = 1<<32 - 1 })},
		{"greatest index", ndmsg(unix.AF_INET, 1<<31-1, netlink.NUD_STALE, 0, dst4), with(func(e *neigh.Entry) { e.Index = 1<<31 - 1 })},
		{"the index is signed", ndmsg(unix.AF_INET, -1, netlink.NUD_STALE, 0, dst4), with(func(e *neigh.Entry) { e.Index = -1 })},

		{"unknown attributes", body(attr(13, 1, 2, 3), dst4, attr(0x3fff), attr(77, 1), lladdr), with(func(e *neigh.Entry) {
			e.LLAddr = mac(2, 0, 0, 0, 0, 2)
		})},
		// NLA_F_NESTED and NLA_F_NET_BYTEORDER are flags, not part of the type.
		{"attribute flags", body(attr(0x8000|netlink.NDA_DST, 10, 0, 0, 2), attr(0x4000|netlink.NDA_LLADDR, 2, 0, 0, 0, 0, 2),
			attr(0xc000|netlink.NDA_PROTOCOL, unix.RTPROT_ZEBRA)), with(func(e *neigh.Entry) {
			e.LLAddr, e.Protocol = mac(2, 0, 0, 0, 0, 2), unix.RTPROT_ZEBRA
		})},
		{"no link-layer address", body(dst4, attr(netlink.NDA_LLADDR)), bare},
		{"link-layer address of 32 bytes", body(dst4, attr(netlink.NDA_LLADDR, bytes.Repeat([]byte{5}, 32)...)), with(func(e *neigh.Entry) {
			e.LLAddr = mac(bytes.Repeat([]byte{5}, 32)...)
		})},
		{"InfiniBand", body(dst4, attr(netlink.NDA_LLADDR, bytes.Repeat([]byte{5}, 20)...)), with(func(e *neigh.Entry) {
			e.LLAddr = mac(bytes.Repeat([]byte{5}, 20)...)
		})},
		{"an odd length is padded", body(attr(netlink.NDA_LLADDR, 1, 2, 3), dst4), with(func(e *neigh.Entry) { e.LLAddr = mac(1, 2, 3) })},
		{"the last attribute may lack its padding", body(dst4, attr(netlink.NDA_LLADDR, 1, 2, 3)[:7]), with(func(e *neigh.Entry) {
			e.LLAddr = mac(1, 2, 3)
		})},
		{"less than an attribute is left", body(dst4, []byte{9, 9, 9}), bare},
		// A struct that grew at its end in a newer kernel.
		{"longer than known", body(dst4, attr(netlink.NDA_CACHEINFO, u32s(6000, 12, 3400, 1, 99)...),
			attr(netlink.NDA_PROTOCOL, 11, 9, 9, 9), attr(netlink.NDA_FLAGS_EXT, u32s(1, 99)...)), with(func(e *neigh.Entry) {
			*e = fullEntry()
			e.Flags, e.LLAddr = 0, neigh.LLAddr{}
		})},
		{"a time stamp of the future, HZ other than 100", body(dst4, attr(netlink.NDA_CACHEINFO, u32s(0x7f29abca, 0x7f29abc0, 100, 1)...)), with(func(e *neigh.Entry) {
			e.Updated = time.Second
		})},
		{"a time stamp of the future", body(dst4, attr(netlink.NDA_CACHEINFO, u32s(1<<32-1, 1<<32-500, 100, 1)...)), with(func(e *neigh.Entry) {
			e.Updated = time.Second
		})},
		{"100 days", body(dst4, attr(netlink.NDA_CACHEINFO, u32s(864_000_000, 864_000_000, 864_000_000, 1)...)), with(func(e *neigh.Entry) {
			e.Used, e.Confirmed, e.Updated = 2400*time.Hour, 2400*time.Hour, 2400*time.Hour
		})},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// The entry is reused: nothing of the one before it may show through.
			got := neigh.Entry{Key: key("fe80::bad", 1), LLAddr: mac(6, 6, 6, 6, 6, 6), State: 0xff, Flags: 0xff,
				FlagsExt: 0xff, Protocol: 0xff, Used: 1, Confirmed: 1, Updated: 1}
			ok, err := decodeEntry(tt.body, &got)
			if !ok || err != nil {
				t.Fatalf("decodeEntry: %v, %v", ok, err)
			}
			if got != tt.want {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func TestDecodeEntrySkipsOtherFamilies(t *testing.T) {
	for _, family := range []uint8{unix.AF_UNSPEC, unix.AF_BRIDGE, unix.AF_DECnet, 255} {
		want := fullEntry()
		got := want
		// An FDB entry carries no address that would parse.
		ok, err := decodeEntry(ndmsg(family, 3, netlink.NUD_PERMANENT, 0, lladdr, []byte{0, 0, 0, 0}), &got)
		if ok || err != nil {
			t.Errorf("family %d: %v, %v; want it skipped", family, ok, err)
		}
		if got != want {
			t.Errorf("family %d: the entry was changed to %+v", family, got)
		}
	}
}

func TestDecodeEntryRefuses(t *testing.T) {
	body := func(attrs ...[]byte) []byte { return ndmsg(unix.AF_INET, 7, netlink.NUD_STALE, 0, attrs...) }
	tests := []struct {
		name string
		body []byte
		says string
	}{
		{"nothing", nil, "ndmsg of 0 bytes"},
		{"a family only", []byte{unix.AF_INET}, "ndmsg of 1 bytes"},
		{"a header one byte short", body()[:11], "ndmsg of 11 bytes"},
		{"no attributes", body(), "entry without an address"},
		{"no address", body(lladdr, times), "entry without an address"},
		{"an empty address", body(attr(netlink.NDA_DST)), "attribute 1 of 0 bytes in family 2"},
		{"an address of 3 bytes", body(attr(netlink.NDA_DST, 10, 0, 0)), "attribute 1 of 3 bytes in family 2"},
		{"an address of 5 bytes", body(attr(netlink.NDA_DST, 10, 0, 0, 2, 0)), "attribute 1 of 5 bytes in family 2"},
		{"an IPv6 address in family IPv4", body(dst6), "attribute 1 of 16 bytes in family 2"},
		{"an IPv4 address in family IPv6", ndmsg(unix.AF_INET6, 7, netlink.NUD_STALE, 0, dst4), "attribute 1 of 4 bytes in family 10"},
		{"an attribute of length 0", body(dst4, u32s(0)), "attribute of 0 bytes where 4 are left"},
		{"an attribute shorter than its header", body(dst4, binary.NativeEndian.AppendUint16(nil, 3), []byte{1, 0}), "attribute of 3 bytes where 4 are left"},
		{"an attribute that is cut off", body(dst4, lladdr[:9]), "attribute of 10 bytes where 9 are left"},
		{"an attribute longer than the message", body(dst4, u32s(0xffff)), "attribute of 65535 bytes where 4 are left"},
		{"a link-layer address of 33 bytes", body(dst4, attr(netlink.NDA_LLADDR, bytes.Repeat([]byte{5}, 33)...)), "attribute 2 of 33 bytes in family 2"},
		{"time stamps of 12 bytes", body(dst4, attr(netlink.NDA_CACHEINFO, u32s(1, 2, 3)...)), "attribute 3 of 12 bytes in family 2"},
		{"no protocol", body(dst4, attr(netlink.NDA_PROTOCOL)), "attribute 12 of 0 bytes in family 2"},
		{"ext flags of 2 bytes", body(dst4, attr(netlink.NDA_FLAGS_EXT, 1, 0)), "attribute 15 of 2 bytes in family 2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var e neigh.Entry
			want := tt.says + ": malformed netlink message"
			if ok, err := decodeEntry(tt.body, &e); ok || !errors.Is(err, neigh.ErrMalformed) || err.Error() != want {
				t.Errorf("got %v, %v; want ErrMalformed, %s", ok, err, want)
			}
		})
	}
	// Cut off anywhere, the body is refused, unless what is left is whole: then
	// attributes are missing, and nothing else.
	for n := range fullBody {
		var e neigh.Entry
		ok, err := decodeEntry(fullBody[:n], &e)
		if !ok && !errors.Is(err, neigh.ErrMalformed) {
			t.Errorf("first %d bytes: %v, want ErrMalformed", n, err)
		}
		if ok && (e.Key != fullEntry().Key || e.State != neigh.Stale) {
			t.Errorf("first %d bytes: got %+v", n, e)
		}
	}
}

// The numbers of pkg/neigh are the kernel's, which it cannot import.
func TestNumbersOfNeigh(t *testing.T) {
	for _, tt := range []struct{ got, want int }{
		{int(neigh.None), netlink.NUD_NONE}, {int(neigh.Incomplete), netlink.NUD_INCOMPLETE},
		{int(neigh.Reachable), netlink.NUD_REACHABLE}, {int(neigh.Stale), netlink.NUD_STALE},
		{int(neigh.Delay), netlink.NUD_DELAY}, {int(neigh.Probe), netlink.NUD_PROBE},
		{int(neigh.Failed), netlink.NUD_FAILED}, {int(neigh.NoARP), netlink.NUD_NOARP},
		{int(neigh.Permanent), netlink.NUD_PERMANENT},
		{int(neigh.FlagProxy), netlink.NTF_PROXY}, {int(neigh.FlagExtLearned), netlink.NTF_EXT_LEARNED},
		{int(neigh.FlagOffloaded), netlink.NTF_OFFLOADED}, {int(neigh.FlagSticky), netlink.NTF_STICKY},
		{int(neigh.FlagRouter), netlink.NTF_ROUTER}, {int(neigh.FlagManaged), netlink.NTF_EXT_MANAGED},
		{int(neigh.ProtocolUnspec), unix.RTPROT_UNSPEC}, {int(neigh.ProtocolKernel), unix.RTPROT_KERNEL},
	} {
		if tt.got != tt.want {
			t.Errorf("got %#x, the kernel says %#x", tt.got, tt.want)
		}
	}
}

func TestNextMessage(t *testing.T) {
	first := netlinkMessage(unix.RTM_NEWNEIGH, unix.NLM_F_MULTI, 8, fullBody)
	odd := netlinkMessage(unix.NLMSG_NOOP, 0, 9, []byte{1})
	done := netlinkMessage(unix.NLMSG_DONE, unix.NLM_F_MULTI|unix.NLM_F_DUMP_INTR, 0xfffffff0, u32s(0))
	padding := []byte{0xee, 0xee, 0xee}

	b := slices.Concat(first, odd, padding, done)
	for i, want := range []message{
		{typ: unix.RTM_NEWNEIGH, flags: unix.NLM_F_MULTI, seq: 8, body: fullBody},
		{typ: unix.NLMSG_NOOP, seq: 9, body: []byte{1}},
		{typ: unix.NLMSG_DONE, flags: unix.NLM_F_MULTI | unix.NLM_F_DUMP_INTR, seq: 0xfffffff0, body: u32s(0)},
	} {
		var m message
		rest, err := nextMessage(b, &m)
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		if m.typ != want.typ || m.flags != want.flags || m.seq != want.seq || !bytes.Equal(m.body, want.body) {
			t.Errorf("message %d: got %+v, want %+v", i, m, want)
		}
		b = rest
	}
	if len(b) != 0 {
		t.Errorf("%d bytes are left after the last message", len(b))
	}

	size := func(n uint32) []byte { return append(u32s(n), first[4:]...) }
	for _, tt := range []struct {
		name string
		b    []byte
	}{
		{"nothing", nil},
		{"half a header", first[:15]},
		{"length 0", size(0)},
		{"length below the header's", size(15)},
		{"length beyond the end", size(uint32(len(first) + 1))},
		{"negative length", size(1 << 31)},
		{"length of all ones", size(1<<32 - 1)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if rest, err := nextMessage(tt.b, new(message)); !errors.Is(err, neigh.ErrMalformed) || rest != nil {
				t.Errorf("got %d bytes more, %v; want ErrMalformed", len(rest), err)
			}
		})
	}
	t.Run("a header alone", func(t *testing.T) {
		var m message
		rest, err := nextMessage(netlinkMessage(unix.NLMSG_DONE, 0, 1), &m)
		if err != nil || m.typ != unix.NLMSG_DONE || len(m.body) != 0 || len(rest) != 0 {
			t.Errorf("got %+v, %d bytes more, %v", m, len(rest), err)
		}
	})
	t.Run("the padding of the last message is missing", func(t *testing.T) {
		var m message
		rest, err := nextMessage(odd, &m)
		if err != nil || !bytes.Equal(m.body, []byte{1}) || len(rest) != 0 {
			t.Errorf("got %+v, %d bytes more, %v", m, len(rest), err)
		}
	})
}

func TestStatus(t *testing.T) {
	code := func(errno unix.Errno) []byte { return u32s(uint32(-int32(errno))) }
	sentinels := []error{neigh.ErrGone, neigh.ErrPermission, neigh.ErrOverrun, neigh.ErrInterrupted, neigh.ErrTimeout, neigh.ErrMalformed}
	tests := []struct {
		name     string
		typ      uint16
		body     []byte
		sentinel error // the only one of neigh's that err wraps
		errno    error
	}{
		{"acknowledgement", unix.NLMSG_ERROR, append(code(0), netlinkMessage(unix.RTM_DELNEIGH, 0, 1)...), nil, nil},
		{"done", unix.NLMSG_DONE, code(0), nil, nil},
		{"done without a code", unix.NLMSG_DONE, nil, nil, nil},
		{"done with an error", unix.NLMSG_DONE, code(unix.EPERM), neigh.ErrPermission, unix.EPERM},
		{"no such entry", unix.NLMSG_ERROR, code(unix.ENOENT), neigh.ErrGone, unix.ENOENT},
		{"no such device", unix.NLMSG_ERROR, code(unix.ENODEV), neigh.ErrGone, unix.ENODEV},
		{"not permitted", unix.NLMSG_ERROR, append(code(unix.EPERM), fullBody...), neigh.ErrPermission, unix.EPERM},
		{"overrun", unix.NLMSG_ERROR, code(unix.ENOBUFS), neigh.ErrOverrun, unix.ENOBUFS},
		{"invalid", unix.NLMSG_ERROR, code(unix.EINVAL), nil, unix.EINVAL},
		{"not supported", unix.NLMSG_ERROR, code(unix.EOPNOTSUPP), nil, unix.EOPNOTSUPP},
		{"a file permission is none of ours", unix.NLMSG_ERROR, code(unix.EACCES), nil, unix.EACCES},
		{"error without a code", unix.NLMSG_ERROR, nil, neigh.ErrMalformed, nil},
		{"error with 3 bytes", unix.NLMSG_ERROR, []byte{0, 0, 0}, neigh.ErrMalformed, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := message{typ: tt.typ, body: tt.body}
			err := m.status()
			if (err != nil) != (tt.sentinel != nil || tt.errno != nil) {
				t.Fatalf("got %v", err)
			}
			for _, s := range sentinels {
				if got := errors.Is(err, s); got != errors.Is(tt.sentinel, s) {
					t.Errorf("error %q: is %q is %v", err, s, got)
				}
			}
			if tt.errno != nil && !errors.Is(err, tt.errno) {
				t.Errorf("error %q does not wrap %q", err, tt.errno)
			}
			if want := fmt.Sprintf("status of %d bytes: %v", len(tt.body), tt.sentinel); errors.Is(tt.sentinel, neigh.ErrMalformed) && err.Error() != want {
				t.Errorf("error %q, want %q", err, want)
			}
		})
	}
}

func TestAppendRequest(t *testing.T) {
	tests := []struct {
		name   string
		r      request
		family uint8
		size   int
		flags  uint16 // beside NLM_F_REQUEST
		attr   []byte
	}{
		{"dump", request{typ: unix.RTM_GETNEIGH, flags: unix.NLM_F_DUMP}, unix.AF_UNSPEC, 28, unix.NLM_F_DUMP, nil},
		{"delete IPv4", request{Key: key("10.0.0.2", 7), typ: unix.RTM_DELNEIGH}, unix.AF_INET, 36, 0, dst4},
		{"delete IPv6", request{Key: key("fe80::2", 7), typ: unix.RTM_DELNEIGH, flags: unix.NLM_F_ACK}, unix.AF_INET6, 48, unix.NLM_F_ACK, dst6},
		{"set state", request{Key: key("10.0.0.2", 7), typ: unix.RTM_NEWNEIGH, flags: unix.NLM_F_ACK, state: neigh.Stale},
			unix.AF_INET, 36, unix.NLM_F_ACK, dst4},
		{"use", request{Key: key("10.0.0.2", 1<<31-1), typ: unix.RTM_NEWNEIGH, flags: unix.NLM_F_ACK, ntf: unix.NTF_USE},
			unix.AF_INET, 36, unix.NLM_F_ACK, dst4},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			const seq = 0x01020304
			b := appendRequest(nil, &tt.r, seq)
			// Field by field, from the structs. The flags are exactly these: with
			// NLM_F_CREATE or NLM_F_REPLACE a change could make an entry, or
			// replace its address.
			want := u32s(uint32(tt.size))
			want = binary.NativeEndian.AppendUint16(want, tt.r.typ)
			want = binary.NativeEndian.AppendUint16(want, tt.flags|unix.NLM_F_REQUEST)
			want = append(want, u32s(seq, 0)...)
			want = append(want, tt.family, 0, 0, 0)
			want = append(want, u32s(uint32(tt.r.Index))...)
			want = binary.NativeEndian.AppendUint16(want, uint16(tt.r.state))
			want = append(want, tt.r.ntf, 0)
			want = append(want, tt.attr...)
			if !bytes.Equal(b, want) || len(b) != tt.size {
				t.Errorf("got  % x\nwant % x", b, want)
			}
			var m message
			rest, err := nextMessage(b, &m)
			if err != nil || len(rest) != 0 || m.typ != tt.r.typ || m.seq != seq {
				t.Fatalf("read back: %+v, %d bytes more, %v", m, len(rest), err)
			}
			if !tt.r.Addr.IsValid() {
				return
			}
			var e neigh.Entry
			ok, err := decodeEntry(m.body, &e)
			if want := (neigh.Entry{Key: tt.r.Key, State: tt.r.state, Flags: neigh.Flags(tt.r.ntf)}); !ok || err != nil || e != want {
				t.Errorf("read back: %+v, %v, want %+v", e, err, want)
			}
		})
	}
}

// A batch is whole messages behind each other.
func TestAppendRequestBatch(t *testing.T) {
	keys := []neigh.Key{key("10.0.0.2", 1), key("fe80::2", 2), key("10.0.0.3", 3)}
	// The buffer is reused: what was in it must not show through as padding.
	b := bytes.Repeat([]byte{0xff}, 256)[:0]
	for i, k := range keys {
		b = appendRequest(b, &request{Key: k, typ: unix.RTM_DELNEIGH}, uint32(i))
	}
	for i, k := range keys {
		var m message
		rest, err := nextMessage(b, &m)
		if err != nil || m.seq != uint32(i) || m.flags != unix.NLM_F_REQUEST {
			t.Fatalf("message %d: %+v, %v", i, m, err)
		}
		if pad := m.body[1:4]; !bytes.Equal(pad, []byte{0, 0, 0}) {
			t.Errorf("message %d: padding % x, which strict checking refuses", i, pad)
		}
		var e neigh.Entry
		if ok, err := decodeEntry(m.body, &e); !ok || err != nil || e.Key != k {
			t.Errorf("message %d: %+v, %v; want %v", i, e.Key, err, k)
		}
		b = rest
	}
	if len(b) != 0 {
		t.Errorf("%d bytes are left", len(b))
	}
}

// part returns n entries as the kernel hands them over in one read of a dump.
func part(n int) (b []byte) {
	for i := range n {
		body := ndmsg(unix.AF_INET, 7, netlink.NUD_STALE, 0,
			attr(netlink.NDA_DST, 10, 0, byte(i>>8), byte(i)), lladdr, probes, times)
		b = append(b, netlinkMessage(unix.RTM_NEWNEIGH, unix.NLM_F_MULTI, 1, body)...)
	}
	return b
}

func TestDecodePart(t *testing.T) {
	const port = 4242 // of netlinkMessage
	done := netlinkMessage(unix.NLMSG_DONE, unix.NLM_F_MULTI, 1, u32s(0))
	entry := func(flags uint16, seq uint32, body []byte) []byte {
		return netlinkMessage(unix.RTM_NEWNEIGH, flags, seq, body)
	}
	bridge := ndmsg(unix.AF_BRIDGE, 7, netlink.NUD_PERMANENT, 0, lladdr)
	broken := ndmsg(unix.AF_INET, 7, netlink.NUD_STALE, 0, lladdr)
	tests := []struct {
		name string
		part []byte
		seen int
		done bool
		err  error
	}{
		{"entries", part(3), 3, false, nil},
		{"the last", append(part(3), done...), 3, true, nil},
		{"nothing but the end", done, 0, true, nil},
		{"nothing", nil, 0, false, nil},
		{"what follows the end", slices.Concat(done, part(1)), 0, true, nil},
		{"another family", slices.Concat(entry(0, 1, bridge), part(1)), 1, false, nil},
		{"another request", slices.Concat(entry(0, 2, fullBody), part(1)), 1, false, nil},
		{"another type", slices.Concat(netlinkMessage(unix.RTM_DELNEIGH, 0, 1, fullBody), part(1)), 1, false, nil},
		{"interrupted", slices.Concat(entry(unix.NLM_F_DUMP_INTR, 1, fullBody), part(1)), 2, false, neigh.ErrInterrupted},
		{"interrupted at the end", netlinkMessage(unix.NLMSG_DONE, unix.NLM_F_DUMP_INTR, 1, u32s(0)), 0, true, neigh.ErrInterrupted},
		{"no valid entry", slices.Concat(entry(0, 1, broken), part(2)), 2, false, neigh.ErrMalformed},
		{"cut off", part(3)[:200], 2, false, neigh.ErrMalformed},
		{"refused", netlinkMessage(unix.NLMSG_ERROR, 0, 1, u32s(uint32(1<<32-uint64(unix.EPERM)))), 0, true, neigh.ErrPermission},
		{"another dump under way", netlinkMessage(unix.NLMSG_ERROR, 0, 1, u32s(uint32(1<<32-uint64(unix.EBUSY)))), 0, true, neigh.ErrInterrupted},
		{"failed at the end", netlinkMessage(unix.NLMSG_DONE, 0, 1, u32s(uint32(1<<32-uint64(unix.ENOBUFS)))), 0, true, neigh.ErrOverrun},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			seen := 0
			done, err := decodePart(tt.part, port, 1, new(neigh.Entry), func(*neigh.Entry) { seen++ })
			if seen != tt.seen || done != tt.done || !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
				t.Errorf("%d entries, %v, %v; want %d, %v, %v", seen, done, err, tt.seen, tt.done, tt.err)
			}
			if done, err := decodePart(tt.part, port+1, 1, new(neigh.Entry), func(*neigh.Entry) { t.Error("visited") }); done || err != nil && tt.name != "cut off" {
				t.Errorf("meant for another port: %v, %v", done, err)
			}
		})
	}
}

// A node is scanned for years: a scan must not allocate per entry.
func TestDecodePartDoesNotAllocate(t *testing.T) {
	b := part(200)
	var e, last neigh.Entry
	visit := func(e *neigh.Entry) { last = *e }
	if n := testing.AllocsPerRun(100, func() {
		if _, err := decodePart(b, 4242, 1, &e, visit); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations for 200 entries, want none", n)
	}
	if last.Addr != netip.MustParseAddr("10.0.0.199") {
		t.Errorf("last %v", last.Addr)
	}
}

func BenchmarkDecodePart(b *testing.B) {
	p := part(200)
	b.ReportAllocs()
	b.SetBytes(int64(len(p)))
	var e neigh.Entry
	n := 0
	for b.Loop() {
		if _, err := decodePart(p, 4242, 1, &e, func(*neigh.Entry) { n++ }); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/entry")
}

func FuzzDecodePart(f *testing.F) {
	seed(f, part(2))
	f.Add(append(part(1), netlinkMessage(unix.NLMSG_DONE, unix.NLM_F_MULTI, 1, u32s(0))...))
	f.Add(append(netlinkMessage(unix.NLMSG_ERROR, unix.NLM_F_DUMP_INTR, 1, u32s(1<<32-1)), 1, 2, 3))
	f.Add(netlinkMessage(unix.RTM_NEWNEIGH, 0, 1, fullBody[:30]))
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bytes.Clone(b)
		seen := 0
		_, _ = decodePart(b, 4242, 1, new(neigh.Entry), func(e *neigh.Entry) {
			if seen++; !e.Addr.IsValid() {
				t.Errorf("visited %+v", e)
			}
		})
		if !bytes.Equal(b, in) {
			t.Error("the input was changed")
		}
		if seen*(unix.NLMSG_HDRLEN+ndmsgLen) > len(b) {
			t.Errorf("%d entries in %d bytes", seen, len(b))
		}
	})
}

func FuzzDecodeEntry(f *testing.F) {
	seed(f, fullBody)
	f.Add(ndmsg(unix.AF_INET6, 7, netlink.NUD_REACHABLE, 0, dst6, lladdr, times))
	f.Add(ndmsg(unix.AF_INET, 7, netlink.NUD_STALE, 0, dst4, u32s(0)))
	f.Add(ndmsg(unix.AF_INET, 7, netlink.NUD_STALE, 0, dst4, lladdr[:9]))
	f.Add(ndmsg(unix.AF_INET, 7, netlink.NUD_STALE, 0, attr(netlink.NDA_LLADDR, bytes.Repeat([]byte{5}, 33)...)))
	f.Add(ndmsg(unix.AF_BRIDGE, 7, netlink.NUD_PERMANENT, 0, lladdr))
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bytes.Clone(b)
		var e neigh.Entry
		ok, err := decodeEntry(b, &e)
		switch {
		case !bytes.Equal(b, in):
			t.Error("the input was changed")
		case err != nil && (ok || !errors.Is(err, neigh.ErrMalformed)):
			t.Errorf("%v, %v: want false and ErrMalformed", ok, err)
		case err == nil && !ok && (b[0] == unix.AF_INET || b[0] == unix.AF_INET6):
			t.Errorf("family %d was skipped", b[0])
		case !ok:
		case !e.Addr.IsValid() || e.Addr.Is4() != (b[0] == unix.AF_INET) || e.Addr.Zone() != "":
			t.Errorf("address %v in family %d", e.Addr, b[0])
		case e.LLAddr.Len() > 32 || e.Used < 0 || e.Confirmed < 0 || e.Updated < 0:
			t.Errorf("got %+v", e)
		}
	})
}

func FuzzNextMessage(f *testing.F) {
	whole := netlinkMessage(unix.RTM_NEWNEIGH, unix.NLM_F_MULTI, 1, fullBody)
	seed(f, whole)
	f.Add(append(whole, netlinkMessage(unix.NLMSG_DONE, unix.NLM_F_MULTI, 1, u32s(0))...))
	f.Add(append(netlinkMessage(unix.NLMSG_NOOP, 0, 1, []byte{1}), 0, 0, 0, 9, 9))
	f.Add(netlinkMessage(unix.NLMSG_ERROR, 0, 1, u32s(uint32(1<<32-uint64(unix.ENOENT)))))
	f.Add(u32s(15, 0, 0, 0))
	f.Add(u32s(1<<32-1, 0, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			var m message
			rest, err := nextMessage(b, &m)
			if err != nil {
				if !errors.Is(err, neigh.ErrMalformed) {
					t.Errorf("%v, want ErrMalformed", err)
				}
				return
			}
			// It must get ahead by what it returned, or receive never ends.
			if len(rest) > len(b)-unix.NLMSG_HDRLEN-len(m.body) || !bytes.HasSuffix(b, rest) {
				t.Fatalf("%d bytes became a body of %d and a rest of %d", len(b), len(m.body), len(rest))
			}
			_ = m.status()
			b = rest
		}
	})
}
