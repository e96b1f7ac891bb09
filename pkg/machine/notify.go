package machine

import (
	"net"
	"os"
)

// Started tells the systemd that runs this program as a service of Type=notify that
// it has started (sd_notify(3)), and does nothing where none asked for it.
func Started() error {
	socket := os.Getenv("NOTIFY_SOCKET") // one that begins with @ is abstract, to net as well
	if socket == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_, err = conn.Write([]byte("READY=1"))
	return err
}
