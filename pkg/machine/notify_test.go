package machine

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestStarted(t *testing.T) {
	for name, socket := range map[string]string{
		"path":     filepath.Join(t.TempDir(), "notify"),
		"abstract": fmt.Sprintf("@machine-test-%d", os.Getpid()),
	} {
		t.Run(name, func(t *testing.T) {
			systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = systemd.Close() }()
			t.Setenv("NOTIFY_SOCKET", socket)
			if err := Started(); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 64)
			_ = systemd.SetReadDeadline(time.Now().Add(5 * time.Second))
			n, err := systemd.Read(b)
			if err != nil || string(b[:n]) != "READY=1" {
				t.Errorf("systemd was told %q, %v", b[:n], err)
			}
		})
	}
}

func TestStartedWithoutSystemd(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := Started(); err != nil {
		t.Errorf("nobody asked: %v", err)
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "nobody"))
	if err := Started(); err == nil {
		t.Error("nobody listens, and there is no error")
	}
}
