package status

import (
	"slices"
	"sync"
	"time"
)

// Event is something that happened.
type Event struct {
	At      time.Time // the last time
	Subject string    // a VIP, or a device
	What    string
	Times   int // in a row
}

// maxEvents bounds the events that a Log remembers.
const maxEvents = 20

// Log remembers the last events. The zero value is empty. Its methods may be called
// from any goroutine.
type Log struct {
	mu     sync.Mutex
	events []Event // oldest first
}

// Add adds an event. One that is the same as the last one is counted there, so that an
// event that repeats does not drive out all others.
func (l *Log) Add(at time.Time, subject, what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.events); n > 0 && l.events[n-1].Subject == subject && l.events[n-1].What == what {
		l.events[n-1].At = at
		l.events[n-1].Times++
		return
	}
	if len(l.events) == maxEvents {
		l.events = slices.Delete(l.events, 0, 1)
	}
	l.events = append(l.events, Event{At: at, Subject: subject, What: what, Times: 1})
}

// Last returns what is remembered, newest first.
func (l *Log) Last() []Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	events := slices.Clone(l.events)
	slices.Reverse(events)
	return events
}
