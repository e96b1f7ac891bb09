package main

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

func TestCheckCommand(t *testing.T) {
	t.Parallel()
	l := lab.Start(t)
	sw := l.Switch()
	n, master := l.Host("node"), l.Host("master")
	n.Plug(sw, "eth0", nodeMAC, "10.0.0.1/24")
	master.Plug(sw, "eth0", peerMAC, "10.0.0.2/24", "2001:db8::2/64")
	n.IP("addr add 2001:db8::1/64 dev eth0 nodad")
	ca, other := l.CA(), l.CA()
	master.ServeAPI(ca, "[::]:6443", []string{"10.0.0.2"})
	master.ServeAPI(ca, "[::]:7443", []string{"api.example"})
	frozen := master.ServeAPI(ca, "[::]:8443", []string{"10.0.0.2"})
	frozen.Freeze()
	file, wrong := ca.File(t.TempDir()), other.File(t.TempDir())
	empty := filepath.Join(t.TempDir(), "empty.crt")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const caVariable = "ARP_CACHE_CLEANER_VIP_CA_FILE="
	const took = ` took=[0-9.]+m?s`
	for _, tt := range []struct {
		name, says string
		args       []string
		code       int
		env        []string
	}{
		{"serves", `^10.0.0.2:6443 served status=200 verified=true` + took + "\n$", []string{"10.0.0.2", "--vip-ca-file=" + file}, 0, nil},
		{"serves, unverified", `^\[2001:db8::2\]:6443 served status=200 verified=false` + took + "\n$", []string{"[2001:db8::2]:6443"}, 0, nil},
		{"serves, by name", `^10.0.0.2:7443 served status=200 verified=true` + took + "\n$", []string{"10.0.0.2:7443", "--name=api.example", "--vip-ca-file=" + file}, 0, nil},
		{"serves, unproven", `^10.0.0.2:7443 served status=200 verified=false` + took + ` unproven=".*"\n$`, []string{"10.0.0.2:7443", "--vip-ca-file=" + file}, 0, nil},
		{"another CA", `^10.0.0.2:6443 tls status=none verified=false` + took + ` error="certificate of 10.0.0.2:6443: .*"\n$`, []string{"10.0.0.2:6443", "--vip-ca-file=" + wrong}, 1, nil},
		{"refused", `^10.0.0.2:1 refused status=none .* error=`, []string{"10.0.0.2:1"}, 1, nil},
		{"frozen", `^10.0.0.2:8443 timeout status=none .* error="TLS handshake`, []string{"10.0.0.2:8443", "--timeout=400ms"}, 1, nil},
		{"frozen, as TCP sees it", `^10.0.0.2:8443 served status=none verified=false`, []string{"10.0.0.2:8443", "--vip-health=tcp"}, 0, nil},
		{"no CA", `^$`, []string{"10.0.0.2", "--vip-ca-file=" + empty}, 2, nil},
		{"another CA, in the agent's pod", `^10.0.0.2:6443 tls status=none verified=false`, []string{"10.0.0.2"}, 1, []string{caVariable + wrong}},
		{"serves, in the agent's pod", `^10.0.0.2:6443 served status=200 verified=true`, []string{"10.0.0.2"}, 0, []string{caVariable + file}},
		{"the flag wins over the variable", `^10.0.0.2:6443 served status=200 verified=true`, []string{"10.0.0.2", "--vip-ca-file=" + file}, 0, []string{caVariable + wrong}},
		{"without a file, in the agent's pod", `^10.0.0.2:6443 served status=200 verified=false`, []string{"10.0.0.2", "--vip-ca-file="}, 0, []string{caVariable + wrong}},
		{"no CA, in the agent's pod", `^$`, []string{"10.0.0.2"}, 2, []string{caVariable + empty}},
		{"another port, in the agent's pod", `^10.0.0.2:7443 served status=200 verified=false`, []string{"10.0.0.2"}, 0, []string{"ARP_CACHE_CLEANER_VIP_PORT=7443"}},
		{"no port, in the agent's pod", `^$`, []string{"10.0.0.2"}, 2, []string{"ARP_CACHE_CLEANER_VIP_PORT=70000"}},
		{"no address", `^$`, []string{"api.example"}, 2, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := prepare(t, n, append([]string{"check"}, tt.args...)...)
			p.cmd.Env = append(p.cmd.Env, tt.env...)
			p.launch(nil)
			code := p.wait()
			if code != tt.code || !regexp.MustCompile(tt.says).MatchString(p.stdout.String()) || (p.stderr.String() != "") != (tt.code == 2) {
				t.Errorf("exit code %d, %q, stderr %q; want %d, %s", code, p.stdout.String(), p.stderr.String(), tt.code, tt.says)
			}
		})
	}
}
