package vip

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/pace"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/shield"
)

const (
	ms   = time.Millisecond
	port = 6443
	eth0 = 2
	eth1 = 3
	// interval is the default of --vip-interval.
	interval = 2 * time.Second
	// perAsk is how many holders one Ask reports at most (pkg/solicit).
	perAsk = 64
)

var (
	theVIP = netip.MustParseAddr("10.0.0.100")
	source = netip.MustParseAddr("10.0.0.1")
	key    = neigh.Key{Addr: theVIP, Index: eth0}

	errFake = errors.New("fault")
)

func mac(n int) neigh.LLAddr {
	a, _ := neigh.LLAddrFrom([]byte{2, 0, 0, byte(n >> 16), byte(n >> 8), byte(n)})
	return a
}

// host is one that may hold a VIP.
type host struct {
	lladdr neigh.LLAddr
	api    api
	proves bool // its certificate is the right one

	body int // that it shares with the hosts of the same number; 0 is its own

	down        bool       // neither answers nor accepts connections
	noUnicast   bool       // is deaf to requests that are for it alone
	noBroadcast bool       // is deaf to requests to everybody
	proxy       bool       // answers without the Override flag
	only        netip.Addr // that it answers for; not valid for all
	lose        int        // broadcasts that it still misses
	loseUnicast int
	delay       time.Duration
	lateToAll   time.Duration // until it answers requests to everybody, if that is longer
}

// api is what has become of the server behind a VIP.
type api int

const (
	serves     api = iota
	refuses        // its process is gone
	frozen         // its kernel still accepts connections, and acknowledges data
	unwell         // it answers that it cannot serve
	stalls         // the same, and answers nothing else
	handshakes     // it answers checks, and no client believes it
	closes         // it accepts connections, and closes them unanswered after a second
)

func good(n int) *host { return &host{lladdr: mac(n), proves: true, delay: ms} }

// zombie answers ARP, and its API server does not serve.
func zombie(n int, a api) *host { return &host{lladdr: mac(n), proves: true, delay: ms, api: a} }

// network is a segment with the hosts on it, and the node's kernel: as much of
// its neighbour table, its connections and its notifications as the watch can
// tell from the real ones.
type network struct {
	mu       sync.Mutex
	made     time.Time
	hosts    []*host
	entries  map[neigh.Key]*entry
	places   map[netip.Addr]neigh.Place // of addresses other than on link by eth0
	locktime time.Duration              // 0 as in ND

	ops    []op
	asks   []ask
	checks []neigh.LLAddr // whom the entry named as each check began
	gets   int
	lists  int
	ads    map[*changes]bool
	subs   int // subscriptions, failed ones included
	conns  []*conn
	cookie uint64

	lines      map[*fakeLine]bool
	dials      int
	ended      []*ended
	mute       netip.Addr            // for which nobody answers
	firewalled map[neigh.LLAddr]bool // whose answers the node's firewall drops

	lenient bool // the check does not verify certificates by itself

	getErr, replaceErr, setErr, listErr, destroyErr, subscribeErr, askErr, dialErr error
	placeErr                                                                       func(netip.Addr) error
	unknown                                                                        error                     // checks cannot be made
	checking                                                                       func(holder neigh.LLAddr) // runs as a check begins
	asking                                                                         func(q shield.Question)
	silenced                                                                       bool // notifications arrive late: when let go
	lost                                                                           bool // notifications are lost, and nobody is told
}

// op is one change of the table by the agent.
type op struct {
	do  string
	key neigh.Key
	at  time.Duration
}

type ask struct {
	shield.Question
	at time.Duration
}

type entry struct {
	neigh.Entry
	updated, confirmed time.Time
}

func newNetwork(hosts ...*host) *network {
	n := &network{
		made: time.Now(), hosts: hosts, locktime: time.Second, entries: make(map[neigh.Key]*entry),
		places: make(map[netip.Addr]neigh.Place), ads: make(map[*changes]bool), lines: make(map[*fakeLine]bool),
	}
	if len(hosts) > 0 {
		n.entries[key] = &entry{
			Entry:   neigh.Entry{Key: key, LLAddr: hosts[0].lladdr, State: neigh.Reachable},
			updated: n.made.Add(-time.Minute), confirmed: n.made,
		}
	}
	return n
}

// change locks the network for a test that changes what is on it.
func (n *network) change(fn func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	fn()
}

func (n *network) host(lladdr neigh.LLAddr) *host {
	for _, h := range n.hosts {
		if h.lladdr == lladdr {
			return h
		}
	}
	return nil
}

// moved notifies of an entry.
func (n *network) moved(e *entry) {
	if n.lost {
		return
	}
	for c := range n.ads {
		c.queue = append(c.queue, n.snapshot(e))
		c.wake()
	}
}

func (n *network) snapshot(e *entry) neigh.Entry {
	now := time.Now()
	n.advance(e, now)
	s := e.Entry
	if !s.State.Valid() && s.State&(neigh.Permanent|neigh.NoARP) == 0 {
		s.LLAddr = neigh.LLAddr{} // neigh_fill_info
	}
	s.Updated, s.Confirmed = now.Sub(e.updated), now.Sub(e.confirmed)
	return s
}

// advance does what the kernel's timers did up to now.
func (n *network) advance(e *entry, now time.Time) {
	for {
		at := e.updated
		var next neigh.State
		switch h := n.host(e.LLAddr); {
		case e.State == neigh.Reachable:
			at, next = e.confirmed.Add(30*time.Second), neigh.Stale
		case e.State == neigh.Delay:
			at, next = e.updated.Add(5*time.Second), neigh.Probe
		case e.State == neigh.Probe && h != nil && !h.down && !h.noUnicast:
			next = neigh.Reachable
		case e.State == neigh.Probe:
			at, next = e.updated.Add(3*time.Second), neigh.Failed
		default:
			return
		}
		if at.After(now) {
			return
		}
		if e.State, e.updated = next, at; next == neigh.Reachable {
			e.confirmed = at
		}
	}
}

func (n *network) Get(k neigh.Key) (neigh.Entry, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.gets++
	if n.getErr != nil {
		return neigh.Entry{}, n.getErr
	}
	e, ok := n.entries[k]
	if !ok {
		return neigh.Entry{}, fmt.Errorf("reading entry %s: %w", k.Addr, neigh.ErrGone)
	}
	return n.snapshot(e), nil
}

func (n *network) note(do string, k neigh.Key) (*entry, error) {
	e, ok := n.entries[k]
	if !ok {
		return nil, fmt.Errorf("%s: %w", k.Addr, neigh.ErrGone)
	}
	n.advance(e, time.Now())
	n.ops = append(n.ops, op{do, k, time.Since(n.made)})
	return e, nil
}

func (n *network) SetState(k neigh.Key, s neigh.State) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.setErr != nil {
		return n.setErr
	}
	e, err := n.note(s.String(), k)
	if err == nil && e.State != s {
		e.State, e.updated = s, time.Now()
		n.moved(e)
	}
	return err
}

func (n *network) Use(k neigh.Key) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	e, err := n.note("use", k)
	if err == nil && e.State == neigh.Stale {
		e.State, e.updated = neigh.Delay, time.Now()
		n.moved(e)
	}
	if err == nil && (e.State == neigh.Failed || e.State == neigh.Incomplete) {
		n.resolve(k)
	}
	return err
}

func (n *network) Give(k neigh.Key, lladdr neigh.LLAddr, flags neigh.Flags) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.replaceErr != nil {
		return n.replaceErr
	}
	e, err := n.note("give "+lladdr.String(), k)
	if err == nil {
		e.LLAddr, e.State, e.Flags, e.updated = lladdr, neigh.Delay, flags, time.Now()
		n.moved(e)
	}
	return err
}

func (n *network) Place(a netip.Addr, _ int) (neigh.Place, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.placeErr != nil {
		if err := n.placeErr(a); err != nil {
			return neigh.Place{}, err
		}
	}
	if p, ok := n.places[a]; ok {
		return p, nil
	}
	return onLink(eth0), nil
}

func (n *network) DeviceName(index int) (string, error) { return fmt.Sprintf("eth%d", index-eth0), nil }

func onLink(device int) neigh.Place {
	return neigh.Place{Link: neigh.Link{Index: device, Name: fmt.Sprintf("eth%d", device-eth0)}}
}

// fakeLine implements Line.
type fakeLine struct {
	*network
	key   neigh.Key
	heard chan struct{}
}

func (n *network) Dial(k neigh.Key) (Line, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dials++
	if n.dialErr != nil {
		return nil, n.dialErr
	}
	l := &fakeLine{n, k, make(chan struct{}, 1)}
	n.lines[l] = true
	return l, nil
}

// announced has the line hear an announcement.
func (l *fakeLine) announced() {
	select {
	case l.heard <- struct{}{}:
	default:
	}
}

func (l *fakeLine) Heard() <-chan struct{} { return l.heard }

func (l *fakeLine) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.lines, l)
	return nil
}

// Ask implements Line: who hears it answers, and the kernel takes note of the
// answers as well.
func (l *fakeLine) Ask(ctx context.Context, lladdr neigh.LLAddr, window time.Duration, reply func(shield.Reply) bool) error {
	n, device := l.network, l.key.Index
	q := shield.Question{Addr: l.key.Addr, LLAddr: lladdr}
	type answer struct {
		lladdr neigh.LLAddr
		delay  time.Duration
		proxy  bool
	}
	var answers []answer
	n.mu.Lock()
	asking := n.asking
	n.asks = append(n.asks, ask{q, time.Since(n.made)})
	for _, h := range n.hosts {
		switch everybody := q.LLAddr.Len() == 0; {
		case q.Addr == n.mute, h.only.IsValid() && h.only != q.Addr:
		case h.down, everybody && h.noBroadcast, !everybody && (h.noUnicast || h.lladdr != q.LLAddr):
		case everybody && h.lose > 0:
			h.lose--
		case !everybody && h.loseUnicast > 0:
			h.loseUnicast--
		default:
			a := answer{h.lladdr, h.delay, h.proxy}
			if everybody {
				a.delay = max(a.delay, h.lateToAll)
			}
			answers = append(answers, a)
		}
	}
	n.mu.Unlock()
	if asking != nil {
		asking(q)
	}
	n.mu.Lock()
	err := n.askErr
	n.mu.Unlock()
	if err != nil {
		return err
	}
	slices.SortStableFunc(answers, func(a, b answer) int { return cmp.Compare(a.delay, b.delay) })
	done := make(chan error)
	go func() { // as in pkg/solicit, replies come from another goroutine
		sent := time.Now()
		for _, a := range answers[:min(len(answers), perAsk)] {
			if a.delay > window { // it is late: the kernel takes it all the same
				time.AfterFunc(time.Until(sent.Add(a.delay)), func() {
					n.mu.Lock()
					n.answered(neigh.Key{Addr: q.Addr, Index: device}, a.lladdr, !a.proxy)
					n.mu.Unlock()
					l.announced()
				})
				continue
			}
			if !pace.Sleep(ctx, time.Until(sent.Add(a.delay))) {
				break
			}
			n.mu.Lock()
			if !n.firewalled[a.lladdr] {
				n.answered(neigh.Key{Addr: q.Addr, Index: device}, a.lladdr, !a.proxy)
			}
			n.mu.Unlock()
			if reply(shield.Reply{Addr: q.Addr, LLAddr: a.lladdr, RTT: a.delay, Override: !a.proxy}) {
				close(done)
				return
			}
		}
		if !pace.Sleep(ctx, time.Until(sent.Add(window))) {
			done <- ctx.Err()
		}
		close(done)
	}()
	return <-done
}

// answered is what arp_process and ndisc_recv_na do with a solicited answer.
func (n *network) answered(k neigh.Key, lladdr neigh.LLAddr, override bool) {
	e, ok := n.entries[k]
	if !ok {
		return
	}
	now := time.Now()
	n.advance(e, now)
	switch {
	case e.State == neigh.Incomplete:
	case !e.State.Valid():
		return
	case lladdr != e.LLAddr && (now.Sub(e.updated) <= n.locktime || !override):
		e.confirmed = now
		return
	}
	was := e.Entry
	e.LLAddr, e.State, e.confirmed = lladdr, neigh.Reachable, now
	if was != e.Entry {
		e.updated = now
		n.moved(e)
	}
}

// announces is a gratuitous ARP: locktime does not stop it.
func (n *network) announces(lladdr neigh.LLAddr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	e, ok := n.entries[key]
	if !ok || e.LLAddr == lladdr || !e.State.Valid() {
		return
	}
	e.LLAddr, e.State, e.updated = lladdr, neigh.Stale, time.Now()
	n.moved(e)
}

// set puts the entry as somebody else did, and notifies of it.
func (n *network) set(change func(*entry)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	e := n.entries[key]
	change(e)
	e.updated = time.Now()
	n.moved(e)
}

func permanent(e *entry)  { e.State = neigh.Permanent }
func extLearned(e *entry) { e.Flags |= neigh.FlagExtLearned }

// Check implements Checker.
func (n *network) Check(ctx context.Context, ep Endpoint) CheckResult {
	key := neigh.Key{Addr: ep.Addr.Addr(), Index: eth0}
	n.mu.Lock()
	if p, ok := n.places[key.Addr]; ok && !p.Here {
		key.Index = p.Link.Index
	}
	n.resolve(key)
	holder := n.holderOf(key)
	n.checks = append(n.checks, holder)
	h, unknown, checking := n.host(holder), n.unknown, n.checking
	n.mu.Unlock()
	if checking != nil {
		checking(holder)
	}
	n.mu.Lock()
	lenient, a, proves := n.lenient, frozen, false
	same := make(map[neigh.LLAddr]bool)
	if h != nil && !h.down {
		a, proves = h.api, h.proves
		for _, beside := range ep.Beside {
			o := n.host(beside)
			same[beside] = ep.Index == key.Index && ep.Holder == h.lladdr && o != nil && !o.down && o.body == h.body && h.body != 0
		}
	}
	n.mu.Unlock()
	switch {
	case unknown != nil:
		return CheckResult{Unknown: true, Outcome: "tls", Err: unknown}
	case a == frozen:
		pace.Sleep(ctx, 2*time.Second)
		return CheckResult{Outcome: "timeout", Err: errFake}
	case !pace.Sleep(ctx, 2*ms):
		return CheckResult{Outcome: "timeout", Err: ctx.Err()}
	case a == unwell || a == stalls:
		return CheckResult{Unwell: true, Verified: proves, Outcome: "unwell", Err: errFake}
	case a == refuses:
		return CheckResult{Outcome: "refused", Err: errFake}
	case a == closes:
		pace.Sleep(ctx, time.Second)
		return CheckResult{Outcome: "reset", Err: errFake}
	case !proves && !lenient:
		return CheckResult{Outcome: "tls", Err: errFake}
	}
	return CheckResult{Served: true, Verified: proves, Outcome: "served", Same: same}
}

// resolve is what the kernel does for a packet to a VIP without an address: the
// first that answers has the entry.
func (n *network) resolve(key neigh.Key) {
	if e := n.entries[key]; e != nil && n.snapshot(e).LLAddr.Len() > 0 {
		return
	}
	var first *host
	for _, h := range n.hosts {
		if !h.down && !h.noBroadcast && !n.firewalled[h.lladdr] && (first == nil || h.delay < first.delay) {
			first = h
		}
	}
	if first == nil {
		return
	}
	now := time.Now()
	e := &entry{Entry: neigh.Entry{Key: key, LLAddr: first.lladdr, State: neigh.Reachable}, updated: now, confirmed: now}
	if old := n.entries[key]; old != nil {
		e.Flags = old.Flags
	}
	n.entries[key] = e
	n.moved(e)
}

// conn is a connection of this node to the VIP.
type conn struct {
	neigh.Socket
	peer                      neigh.LLAddr
	opened, sent, received    time.Time
	waits                     bool // for an answer
	destroyed, closedByKernel bool
}

func (n *network) socket(c *conn) neigh.Socket {
	s, now := c.Socket, time.Now()
	h := n.host(c.peer)
	lost := h == nil || h.down || c.peer != n.holder()
	switch {
	case !s.Established:
		s.Retransmits = int(now.Sub(c.opened) / time.Second)
		return s
	case c.waits && lost:
		s.Retransmits = int(now.Sub(c.sent) / (300 * ms))
	}
	s.SinceSent, s.SinceReceived = now.Sub(c.sent), now.Sub(c.received)
	return s
}

// holder returns whom the entry of the VIP names.
func (n *network) holder() neigh.LLAddr { return n.holderOf(key) }

func (n *network) holderOf(key neigh.Key) neigh.LLAddr {
	if e := n.entries[key]; e != nil {
		return n.snapshot(e).LLAddr
	}
	return neigh.LLAddr{}
}

// dial opens a connection to addr, as far as the host that the entry names lets it.
func (n *network) dial(addr netip.Addr) *conn {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cookie++
	now := time.Now()
	c := &conn{peer: n.holder(), opened: now, sent: now, received: now}
	c.Remote, c.Cookie = netip.AddrPortFrom(addr, port), n.cookie
	h := n.host(c.peer)
	if h != nil && !h.down && h.api == refuses {
		return nil
	}
	c.Established = addr != theVIP || h != nil && !h.down
	n.conns = append(n.conns, c)
	return c
}

// request sends one on a connection; the server answers after a millisecond, if
// it does.
func (n *network) request(c *conn) {
	n.mu.Lock()
	c.sent, c.waits = time.Now(), true
	n.mu.Unlock()
	time.Sleep(ms)
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.host(n.holder())
	switch {
	case h == nil || h.down:
	case h.lladdr != c.peer, h.api == refuses, h.api == handshakes, h.api == closes:
		n.drop(c) // reset
	case h.api == serves || h.api == unwell:
		c.received, c.waits = time.Now(), false
		c.Received += 100
	}
}

func (n *network) drop(c *conn) {
	c.closedByKernel = true
	n.conns = slices.DeleteFunc(n.conns, func(o *conn) bool { return o == c })
}

func (n *network) close(c *conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.drop(c)
}

func (n *network) List(p uint16) ([]neigh.Socket, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lists++
	if n.listErr != nil {
		return nil, n.listErr
	}
	var all []neigh.Socket
	for _, c := range n.conns {
		if c.Remote.Port() == p {
			all = append(all, n.socket(c))
		}
	}
	return all, nil
}

// sockets are the connections of a network: Get is taken by its table.
type sockets struct{ *network }

func (n sockets) Get(s *neigh.Socket) (neigh.Socket, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.conns {
		if c.Cookie == s.Cookie {
			return n.socket(c), nil
		}
	}
	return neigh.Socket{}, neigh.ErrGone
}

func (n *network) Destroy(s *neigh.Socket) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.destroyErr != nil {
		return n.destroyErr
	}
	for _, c := range n.conns {
		if c.Cookie == s.Cookie {
			c.destroyed = true
			n.drop(c)
			return nil
		}
	}
	return neigh.ErrGone
}

// kubelet keeps a connection to the VIP until the test ends, and sends a request
// every so often, as the renewal of a lease.
func (n *network) kubelet(t *testing.T, every time.Duration) {
	c := n.dial(theVIP)
	ctx, done := t.Context(), make(chan struct{})
	t.Cleanup(func() { <-done }) // a request may be under way
	go func() {
		defer close(done)
		if c != nil && c.Established {
			n.request(c)
		}
		for pace.Sleep(ctx, every) {
			n.mu.Lock()
			h := n.host(n.holder())
			gone := c == nil || c.destroyed || c.closedByKernel || !c.Established && h != nil && !h.down
			n.mu.Unlock()
			if gone {
				if c != nil {
					n.close(c)
				}
				c = n.dial(theVIP)
			}
			if c != nil && c.Established {
				n.request(c)
			}
		}
	}()
}

// shortLived has a client connect to the VIP over and over until the test ends, and ask
// for something at once if it asks at all. Unless the server closes the connection, the
// client does after a second and a half.
func (n *network) shortLived(t *testing.T, asks bool, pause time.Duration) {
	ctx, done := t.Context(), make(chan struct{})
	t.Cleanup(func() { <-done })
	go func() {
		defer close(done)
		for pace.Sleep(ctx, pause) {
			c := n.dial(theVIP)
			if c == nil || !c.Established {
				continue
			}
			if asks {
				n.change(func() { c.Sent = 517 }) // in the tick in which it was established
				if pace.Sleep(ctx, ms); n.answers(c) {
					n.change(func() { c.received, c.Received = time.Now(), 2000 })
				}
			}
			pace.Sleep(ctx, 1500*ms)
			n.close(c)
		}
	}()
}

// answers reports whether the server at the other end of a connection answers requests.
func (n *network) answers(c *conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.host(c.peer)
	return h != nil && !h.down && (h.api == serves || h.api == unwell)
}

// changes implements Changes.
type changes struct {
	n     *network
	queue []neigh.Entry
	err   error // of the next call
	woken chan struct{}
}

func (n *network) Subscribe() (Changes, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.subs++
	if n.subscribeErr != nil {
		return nil, n.subscribeErr
	}
	c := &changes{n: n, woken: make(chan struct{}, 1)}
	n.ads[c] = true
	return c, nil
}

// wake is called with the network locked.
func (c *changes) wake() {
	select {
	case c.woken <- struct{}{}:
	default:
	}
}

func (c *changes) Next(ctx context.Context, visit func(*neigh.Entry)) error {
	for {
		c.n.mu.Lock()
		var queue []neigh.Entry
		var err error
		if !c.n.silenced {
			queue, err = c.queue, c.err
			c.queue, c.err = nil, nil
		}
		c.n.mu.Unlock()
		if err != nil {
			return err
		}
		for i := range queue {
			visit(&queue[i])
		}
		if len(queue) > 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.woken:
		}
	}
}

func (c *changes) Close() {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	delete(c.n.ads, c)
}

// fail has all subscriptions end their present or next wait with err.
func (n *network) fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.ads {
		c.err = err
		c.wake()
	}
}

// bench is a Watcher of one VIP on a network, and what it was seen to do.
type bench struct {
	*network
	w *Watcher

	rec      sync.Mutex
	events   []Event
	repairs  []Cause
	took     []time.Duration
	results  []string
	watching []string // and "forgotten" ones taken out
	resolved int
	log      strings.Builder
}

// slow is a log that takes its time, so that two moments between which something is
// logged are not the same, as they never are outside of a test.
type slow struct{ slog.Handler }

func (s slow) Enabled(ctx context.Context, l slog.Level) bool {
	time.Sleep(time.Microsecond)
	return s.Handler.Enabled(ctx, l)
}

func (s slow) WithAttrs(a []slog.Attr) slog.Handler { return slow{s.Handler.WithAttrs(a)} }

// Write implements io.Writer for the log.
func (b *bench) Write(p []byte) (int, error) {
	b.rec.Lock()
	defer b.rec.Unlock()
	return b.log.Write(p)
}

func newBench(hosts []*host, change ...func(*Config)) *bench {
	b := &bench{network: newNetwork(hosts...)}
	cfg := Config{
		Table: b.network, Dial: b.Dial, Sockets: sockets{b.network}, Subscribe: b.Subscribe, Checker: b.network,
		Pace:  func(context.Context, int) error { return nil },
		Given: given(theVIP), Port: port, Interval: interval, OnConflict: Verified,
		Scope: &policy.Scope{}, Timing: policy.NewTiming(300*time.Second, 5*time.Second),
		Log: slog.New(slow{slog.NewTextHandler(b, nil)}),
		Hooks: Hooks{
			Watching: func(a string) { b.record(func() { b.watching = append(b.watching, a) }) },
			Forgotten: func(a string) {
				b.record(func() {
					b.watching = slices.DeleteFunc(b.watching, func(o string) bool { return o == a })
				})
			},
			Happened: func(_ string, e Event) { b.record(func() { b.events = append(b.events, e) }) },
			Repaired: func(_ string, c Cause, took time.Duration) {
				b.record(func() { b.repairs, b.took = append(b.repairs, c), append(b.took, took) })
			},
			Checked:  func(_ string, result string) { b.record(func() { b.results = append(b.results, result) }) },
			Answered: func(time.Duration) {},
			Resolved: func(neigh.Key, time.Time) { b.record(func() { b.resolved++ }) },
		},
	}
	for _, c := range change {
		c(&cfg)
	}
	b.w = New(cfg)
	return b
}

// given names VIPs by address.
func given(addrs ...netip.Addr) (all []Given) {
	for _, a := range addrs {
		all = append(all, Given{Addr: a, Port: port})
	}
	return all
}

func (b *bench) record(fn func()) {
	b.rec.Lock()
	defer b.rec.Unlock()
	fn()
}

// start runs the Watcher until the end of the test, or until stop is called.
func (b *bench) start(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.w.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v, want nil once its context is done", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// settle starts the Watcher and a kubelet, and lets them work for a while.
func (b *bench) settle(t *testing.T) (stop func()) {
	t.Helper()
	b.kubelet(t, time.Second)
	stop = b.start(t)
	rest(firstWithin + time.Second) // everybody has been asked
	if e, r := b.seen(); len(e)+len(r) > 0 {
		t.Fatalf("events %v and repairs %v of a VIP that works", e, r)
	}
	return stop
}

func (b *bench) seen() ([]Event, []Cause) {
	b.rec.Lock()
	defer b.rec.Unlock()
	return slices.Clone(b.events), slices.Clone(b.repairs)
}

// count returns how often an event was seen.
func (b *bench) count(e Event) (n int) {
	events, _ := b.seen()
	for _, s := range events {
		if s == e {
			n++
		}
	}
	return n
}

// lines returns the lines of the log that contain a text: without one, all but
// those that say when a watch begins and ends.
func (b *bench) lines(text string) (found []string) {
	b.rec.Lock()
	defer b.rec.Unlock()
	for l := range strings.Lines(b.log.String()) {
		if strings.Contains(l, text) && (text != "" || !strings.Contains(l, "watching the VIP")) {
			found = append(found, l)
		}
	}
	return found
}

func (b *bench) named() neigh.LLAddr {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.holder()
}

// when returns how long it took until ok, never if it did not within a time.
func when(within time.Duration, ok func() bool) time.Duration {
	for start := time.Now(); time.Since(start) <= within; rest(ms) {
		if ok() {
			return time.Since(start)
		}
	}
	return never
}

// rest lets time pass, and what is due then be done.
func rest(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

const never = time.Duration(1<<63 - 1)

// broadcasts returns when everybody was asked, from some time on.
func (b *bench) broadcasts(since time.Duration) (at []time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range b.asks {
		if a.LLAddr.Len() == 0 && a.at >= since {
			at = append(at, a.at)
		}
	}
	return at
}

// writes returns what was done to the table, from some time on.
func (b *bench) writes(since time.Duration) (did []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, o := range b.ops {
		if o.at >= since {
			did = append(did, o.do)
		}
	}
	return did
}

func (b *bench) checked() []neigh.LLAddr {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.checks)
}

func (b *bench) now() time.Duration { return time.Since(b.made) }

func (b *bench) wantEvents(t *testing.T, want ...Event) {
	t.Helper()
	if got, _ := b.seen(); !slices.Equal(got, want) {
		t.Errorf("events %v, want %v", got, want)
	}
}

func (b *bench) wantRepairs(t *testing.T, want ...Cause) {
	t.Helper()
	if _, got := b.seen(); !slices.Equal(got, want) {
		t.Errorf("repairs %v, want %v", got, want)
	}
}
