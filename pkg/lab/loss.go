package lab

import (
	"fmt"
	"net/netip"
	"time"
)

// LossCase is how the peer's ARP answers behave while its entry is renewed.
type LossCase struct {
	Name      string
	Delay     time.Duration
	DropFirst bool // of the broadcasts that ask for it, every other one is not answered
}

// LossCases are the cases in which a renewal must lose nothing.
var LossCases = []LossCase{
	{Name: "answers after 0.1 ms", Delay: 100 * time.Microsecond},
	{Name: "answers after 1 ms", Delay: time.Millisecond},
	{Name: "answers after 4 ms", Delay: 4 * time.Millisecond},
	{Name: "first broadcast lost", Delay: time.Millisecond, DropFirst: true},
}

// LossResult is what became of the traffic.
type LossResult struct {
	Sent, Lost uint64
	Stall      time.Duration // longest time a message on the TCP connection took to come back
	Broadcasts int           // that asked for the peer
}

// LossRate is the rate of the UDP stream, in packets a second.
const LossRate = 32000

// Loss sends a fast UDP stream and a TCP stream from a node to a peer for the
// given time, while renew has the node's entry for the peer renewed. renew is
// called once, with the node and the peer's address, and returns how to stop.
func Loss(l *Lab, c LossCase, length time.Duration, renew func(node *Host, peer string) (stop func() error, err error)) (LossResult, error) {
	const addr, mac = "10.0.0.2", "02:00:00:00:00:02"
	var res LossResult
	sw := l.Switch()
	node, peer := l.Host("node"), l.Host("peer")
	node.Plug(sw, "eth0", "02:00:00:00:00:01", "10.0.0.1/24")
	port := peer.Plug(sw, "eth0", mac, addr+"/24")
	// The peer's own entry for the node is no part of the experiment.
	peer.IP("neigh replace 10.0.0.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent")
	broadcasts := make(chan int, 1)
	broadcasts <- 0
	peer.RespondARP(port, mac, []string{addr}, func(r Request) (time.Duration, bool) {
		if r.Broadcast {
			broadcasts <- <-broadcasts + 1
		}
		// The very first one is answered: nothing is renewed yet.
		return c.Delay, !c.DropFirst || !r.Broadcast || r.N%2 == 0
	})
	tcp, err := TCP(node, peer, netip.MustParseAddrPort(addr+":7001"), time.Millisecond)
	if err != nil {
		return res, err
	}
	udp, err := Flood(node, peer, netip.MustParseAddrPort(addr+":7000"), LossRate)
	if err != nil {
		return res, err
	}
	stop, err := renew(node, addr)
	if err != nil {
		return res, err
	}
	<-time.After(length)
	if err := stop(); err != nil {
		return res, err
	}
	if err := udp.Stop(); err != nil {
		return res, fmt.Errorf("udp stream: %w", err)
	}
	if err := tcp.Stop(); err != nil {
		return res, fmt.Errorf("tcp stream: %w", err)
	}
	sent, received, _ := udp.Counts()
	res = LossResult{Sent: sent, Lost: sent - received, Stall: tcp.Stall(), Broadcasts: <-broadcasts}
	return res, nil
}
