package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
)

// limits are the kernel's bounds on the number of IPv4 neighbour entries. They
// exist in the first network namespace only, and all namespaces share them.
type limits struct {
	was  [3]string
	once sync.Once
	err  error
	max  int // entries that fit
}

func limitPath(i int) string { return fmt.Sprintf("/proc/sys/net/ipv4/neigh/default/gc_thresh%d", i+1) }

// defaultLimit is gc_thresh2 of a kernel that nobody has tuned: above it,
// stale entries are collected within 5 s (neigh_forced_gc).
const defaultLimit = 512

// raiseLimits makes room for n entries. Where that is not permitted it leaves
// the limits as they are.
func raiseLimits(n int) (*limits, error) {
	l := &limits{max: defaultLimit}
	for i := range l.was {
		b, err := os.ReadFile(limitPath(i))
		if errors.Is(err, os.ErrNotExist) { // not the first namespace
			l.once.Do(func() {})
			return l, nil
		}
		if err != nil {
			return nil, err
		}
		l.was[i] = strings.TrimSpace(string(b))
	}
	if now, err := strconv.Atoi(l.was[1]); err == nil {
		l.max = now
	}
	if l.max >= n {
		l.once.Do(func() {})
		return l, nil
	}
	for i := len(l.was) - 1; i >= 0; i-- { // the hard limit first, so that their order holds at each step
		if err := os.WriteFile(limitPath(i), []byte(strconv.Itoa(n)), 0); err != nil {
			return l, errors.Join(err, l.restore())
		}
	}
	l.max = n
	return l, nil
}

// room is the number of entries that fit.
func (l *limits) room() int { return l.max }

// restore puts the limits back, once.
func (l *limits) restore() error {
	l.once.Do(func() {
		for i, v := range l.was {
			l.err = errors.Join(l.err, os.WriteFile(limitPath(i), []byte(v), 0))
		}
	})
	return l.err
}
