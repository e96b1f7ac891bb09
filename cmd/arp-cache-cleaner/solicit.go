package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/shield"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/solicit"
)

// solicitor asks for the sweep, and for the watch over VIPs, through packet sockets. A solicit.Conn serves
// one Ask at a time, and rounds overlap, so it keeps those that are not in use
// for the next one.
type solicitor struct {
	mu     sync.Mutex
	idle   map[int]idleConn // one for each device
	closed bool
}

// idleConn is a Conn that nobody uses.
type idleConn struct {
	*solicit.Conn
	since time.Time
}

// maxIdle is how long a Conn is kept for the next Ask: devices come and go.
const maxIdle = 10 * time.Minute

// Ask implements sweep.Solicitor.
func (s *solicitor) Ask(ctx context.Context, device int, questions []shield.Question, window time.Duration, reply func(shield.Reply)) error {
	c, err := s.take(device)
	if err != nil {
		return err
	}
	targets := make([]solicit.Target, len(questions))
	for i, q := range questions {
		targets[i] = solicit.Target{Addr: q.Addr, Source: q.Source}
		if q.LLAddr.Len() > 0 {
			targets[i].LLAddr = q.LLAddr.Bytes()
		}
	}
	err = c.Ask(ctx, targets, window, func(a solicit.Answer) {
		if lladdr, ok := neigh.LLAddrFrom(a.LLAddr); ok && a.Solicited {
			reply(shield.Reply{Addr: a.Addr, LLAddr: lladdr, RTT: a.RTT})
		}
	})
	if err != nil && ctx.Err() == nil {
		_ = c.Close() // the device may be another one of the same index by now
		return err
	}
	s.give(device, c)
	return err
}

// take returns a Conn that is not in use.
func (s *solicitor) take(device int) (*solicit.Conn, error) {
	s.mu.Lock()
	idle, ok := s.idle[device]
	delete(s.idle, device)
	var old []idleConn
	for d, c := range s.idle {
		if time.Since(c.since) > maxIdle {
			old = append(old, c)
			delete(s.idle, d)
		}
	}
	s.mu.Unlock()
	for _, c := range old {
		_ = c.Close()
	}
	if ok {
		return idle.Conn, nil
	}
	c, err := solicit.Dial(device)
	if errors.Is(err, solicit.ErrPermission) {
		return nil, fmt.Errorf("%w: %w", neigh.ErrPermission, err)
	}
	return c, err
}

// give keeps a Conn for the next Ask, or closes it where one is kept already.
func (s *solicitor) give(device int, c *solicit.Conn) {
	s.mu.Lock()
	if s.idle == nil {
		s.idle = make(map[int]idleConn)
	}
	if _, ok := s.idle[device]; !ok && !s.closed {
		s.idle[device], c = idleConn{c, time.Now()}, nil
	}
	s.mu.Unlock()
	if c != nil {
		_ = c.Close()
	}
}

// Close closes what is kept.
func (s *solicitor) Close() {
	s.mu.Lock()
	idle := s.idle
	s.idle, s.closed = nil, true
	s.mu.Unlock()
	for _, c := range idle {
		_ = c.Close()
	}
}
