package solicit

import (
	"context"
	"fmt"
	"net/netip"
	"time"
)

// Announcer is a packet socket for one of this host's own addresses on one
// interface. It finds out whether somebody else holds the address, and announces it.
// Its filter is that of a Line. It is not safe for concurrent use.
type Announcer struct {
	socket *socket
	addr   netip.Addr
}

// DialAnnouncer opens an Announcer for addr on the interface with this index, in the
// network namespace of the calling thread. It is used from any thread afterwards. A
// zone of addr is ignored. The errors are those of DialLine. Nothing is sent yet.
func DialAnnouncer(index int, addr netip.Addr) (*Announcer, error) {
	addr = addr.WithZone("")
	if err := checkAddr(addr); err != nil {
		return nil, fmt.Errorf("announcing on interface %d: %w", index, err)
	}
	s, err := openFor(index, addr)
	if err != nil {
		return nil, err
	}
	return &Announcer{socket: s, addr: addr}, nil
}

// Close closes the socket. It takes some milliseconds (synchronize_net in
// packet_release).
func (a *Announcer) Close() error { return a.socket.close() }

// Probe sends one ARP probe (RFC 5227 section 2.1.1), or a solicitation as in
// duplicate address detection (RFC 4862 section 5.4.2), and listens until the window
// has passed since. Neither has a sender address, so neither changes an entry for the
// address anywhere. answer is called as by the Ask of a Pool, for everybody who
// answers, and for everybody who asks others from the address or announces it within
// the window. That may be this host on another interface of the same segment, or a
// switch that sends frames back.
func (a *Announcer) Probe(ctx context.Context, window time.Duration, answer func(Answer)) error {
	nobody := netip.IPv4Unspecified()
	if a.addr.Is6() {
		nobody = netip.IPv6Unspecified()
	}
	r := &round{socket: a.socket, target: Target{Addr: a.addr, Source: nobody}, answer: answer, asks: true}
	return r.run(ctx, window, func(*Target) error { return nil })
}

// Frames is how many frames announce an address: gratuitous ARP as a request and as a
// reply, since there are hosts that take only one of the two (RFC 5227 section 3), or
// one unsolicited Neighbor Advertisement.
func Frames(addr netip.Addr) int {
	if addr.Is4() {
		return 2
	}
	return 1
}

// Announce announces the address, in Frames frames. Whoever has an entry for the address
// changes it to this interface; nobody makes one. router is the flag of that name in a
// Neighbor Advertisement: whether the interface forwards IPv6.
func (a *Announcer) Announce(router bool) error {
	own, err := a.socket.lladdr()
	if err != nil {
		return err
	}
	if a.addr.Is6() {
		return a.send(appendNA(nil, own, a.addr, router), multicastLLAddr(netip.IPv6LinkLocalAllNodes()))
	}
	// By the target hardware address of the reply the kernel recognizes gratuitous ARP
	// (arp_is_garp).
	if err := a.send(appendARP(nil, arpRequest, own, a.addr, lladdr{}, a.addr), broadcast); err != nil {
		return err
	}
	return a.send(appendARP(nil, arpReply, own, a.addr, own, a.addr), broadcast)
}

func (a *Announcer) send(frame []byte, to lladdr) error {
	if err := a.socket.send(frame, to); err != nil {
		return fmt.Errorf("announcing %s: %w", a.addr, err)
	}
	return nil
}
