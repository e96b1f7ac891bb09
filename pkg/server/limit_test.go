package server

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"runtime"
	"testing"
	"time"
)

// running runs a server until the test ends.
func running(t *testing.T, s *opened) {
	done := make(chan error, 1)
	go func() { done <- s.Run(t.Context()) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A thousand clients connect; half say nothing, half begin a request and do not
// finish it. Who comes after them is served at once, and so is who came before
// them and waits for an answer.
func TestSlowClientsKeepNobodyOut(t *testing.T) {
	entered, answer := make(chan struct{}), make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/slow", func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-answer
		_, _ = io.WriteString(w, "late")
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	s := listen(t, mux, "127.0.0.1:0")
	running(t, s)
	dial := func(say string) net.Conn {
		c, err := net.Dial("tcp", s.Addrs()[0].String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_, _ = io.WriteString(c, say) // it may have been closed already
		return c
	}
	hear := func(c net.Conn) string {
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return string(b)
	}
	slow := dial("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
	<-entered
	var others []net.Conn
	for i := range 1000 {
		others = append(others, dial([]string{"", "GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "}[i%2]))
		if i%100 == 0 {
			if got := hear(dial("GET / HTTP/1.1\r\nHost: x\r\n\r\n")); got != "ok" {
				t.Errorf("after %d clients: %q", i, got)
			}
		}
	}
	if got := hear(dial("GET / HTTP/1.1\r\nHost: x\r\n\r\n")); got != "ok" {
		t.Errorf("after all of them: %q", got)
	}
	l := s.listeners[0].(*limited)
	l.mu.Lock()
	open := len(l.conns)
	l.mu.Unlock()
	if open > maxConnections {
		t.Errorf("%d connections are open, the limit is %d", open, maxConnections)
	}
	close(answer)
	if got := hear(slow); got != "late" {
		t.Errorf("the request that was being answered: %q", got)
	}
	for _, c := range others {
		_ = c.Close()
	}
	for start := time.Now(); ; <-time.After(5 * time.Millisecond) {
		l.mu.Lock()
		open = len(l.conns)
		l.mu.Unlock()
		if open <= 2 { // the two that were answered are kept alive
			break
		}
		if time.Since(start) > 10*time.Second {
			t.Fatalf("%d connections are remembered that are closed", open)
		}
	}
}

// A crowd has gathered while the agent was busy, and some of it have asked for
// something: they are heard before others take their place. The agent has one Go
// thread.
func TestRequestsInACrowdAreHeard(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	s := listen(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }), "127.0.0.1:0")
	asking := make(map[int]net.Conn)
	for i := range 4 * maxConnections {
		c, err := net.Dial("tcp", s.Addrs()[0].String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		switch i {
		case 0, 1, maxConnections - 1, maxConnections, maxConnections + 1, 2 * maxConnections, 3 * maxConnections:
			asking[i] = c
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		}
	}
	running(t, s)
	for i, c := range asking {
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Errorf("connection %d: %v", i, err)
			continue
		}
		_ = resp.Body.Close()
	}
}

// The oldest that is not being answered has to go, once it has been heard; where
// all are being answered, the new one, at once.
func TestAdmit(t *testing.T) {
	begun := time.Now()
	l := &limited{}
	for i := range maxConnections {
		if victim, wait := l.admit(&conn{of: l}, begun.Add(time.Duration(i)*time.Millisecond)); victim != nil || wait != 0 {
			t.Fatalf("connection %d: there was room", i)
		}
	}
	last := &conn{of: l}
	if victim, wait := l.admit(last, begun.Add(hearing/2)); victim != l.conns[0] || wait != hearing/2 {
		t.Errorf("%p had to go in %v, not the oldest in %v", victim, wait, hearing/2)
	}
	l.conns[0].answers(true)
	if victim, wait := l.admit(last, begun.Add(hearing)); victim != l.conns[1] || wait != time.Millisecond {
		t.Errorf("%p had to go in %v, not the second in 1ms", victim, wait)
	}
	for _, c := range l.conns {
		c.answers(true)
	}
	if victim, wait := l.admit(last, begun.Add(time.Second)); victim != last || wait != 0 || len(l.conns) != maxConnections {
		t.Errorf("%p had to go in %v, not the new one at once", victim, wait)
	}
}
