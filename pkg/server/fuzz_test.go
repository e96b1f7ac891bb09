package server

import (
	"bufio"
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// Whatever is asked, the handlers answer with one of a few codes, and say
// nothing of what was asked: what a probe prints ends up in events and logs.
func FuzzHandlers(f *testing.F) {
	web := Web(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("sample 1\n")) }),
		func() Page { return fakePage{} })
	health := Health(func() error { return nil }, func() error { return errors.New("the table cannot be read") })
	for _, s := range []string{
		"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /healthz HTTP/1.0\r\n\r\n",
		"HEAD /readyz HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
		"GET //metrics/../healthz?x=%00 HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET http://elsewhere/metrics HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\nAccept: text/html;q=0.9\r\nAccept: */*\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for name, h := range map[string]http.Handler{"web": web, "health": health} {
			r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
			if err != nil {
				return
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			switch w.Code {
			case http.StatusOK, http.StatusMovedPermanently, http.StatusTemporaryRedirect, http.StatusPermanentRedirect,
				http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusServiceUnavailable:
			default:
				t.Errorf("%s: %d to %q", name, w.Code, b)
			}
			if to := w.Header().Get("Location"); strings.HasPrefix(to, "//") || strings.Contains(to, "://") {
				t.Errorf("%s: sent elsewhere, to %q, by %q", name, to, b)
			}
			if n := w.Body.Len(); n > 1024+2*len(b) {
				t.Errorf("%s: %d bytes to %q", name, n, b)
			}
		}
	})
}
