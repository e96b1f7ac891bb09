package main

import (
	"bytes"
	"io"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/vip"
)

func environment(vars map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v, ok := vars[name]
		return v, ok
	}
}

func TestParse(t *testing.T) {
	defaults := func() *options {
		return &options{
			Interval: 300 * time.Second, ScanPeriod: 20 * time.Second, Act: "always",
			VIP: vipOptions{Auto: true, Port: 6443, Interval: 2 * time.Second, Health: "https", OnConflict: "verified"},
			Web: []string{":10330"}, Health: []string{":10331"},
			Log: slog.HandlerOptions{Level: slog.LevelInfo}, LogFormat: "text",
		}
	}
	for _, tt := range []struct {
		name string
		args []string
		env  map[string]string
		want func(*options)
	}{
		{name: "defaults", want: func(*options) {}},
		{
			name: "scan period follows the interval", args: []string{"--interval=20m"},
			want: func(o *options) { o.Interval, o.ScanPeriod = 20*time.Minute, 30*time.Second },
		},
		{
			name: "shortest interval", args: []string{"--interval=1s"},
			want: func(o *options) { o.Interval, o.ScanPeriod = time.Second, time.Second/15 },
		},
		{
			name: "environment", env: map[string]string{"ARP_CACHE_CLEANER_INTERVAL": "60s", "ARP_CACHE_CLEANER_ONCE": "true"},
			want: func(o *options) { o.Interval, o.ScanPeriod, o.Once = time.Minute, 4*time.Second, true },
		},
		{
			name: "addresses are announced", env: map[string]string{"ARP_CACHE_CLEANER_ANNOUNCE": "start"},
			want: func(o *options) { o.Announce = true },
		},
		{
			name: "flags win over environment", args: []string{"--interval=30s"}, env: map[string]string{"ARP_CACHE_CLEANER_INTERVAL": "nonsense"},
			want: func(o *options) { o.Interval, o.ScanPeriod = 30*time.Second, 2*time.Second },
		},
		{
			name: "empty variable is unset", env: map[string]string{"ARP_CACHE_CLEANER_INTERVAL": ""},
			want: func(*options) {},
		},
		{
			name: "what Kubernetes sets for a Service of that name is ignored",
			env:  map[string]string{"ARP_CACHE_CLEANER_PORT": "tcp://10.96.0.7:10330", "ARP_CACHE_CLEANER_SERVICE_HOST": "10.96.0.7"},
			want: func(*options) {},
		},
		{
			name: "scope", args: []string{"--family=ipv6", "--interface=eth*", "--interface=bond0", "--exclude-interface=eth9", "--cidr=2001:db8::/32,fd00::/8", "--exclude-cidr=2001:db8:1::/48"},
			want: func(o *options) {
				o.Scope = policy.Scope{
					Family: "ipv6", Interfaces: []string{"eth*", "bond0"}, ExcludeInterfaces: []string{"eth9"},
					CIDRs:        []netip.Prefix{netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("fd00::/8")},
					ExcludeCIDRs: []netip.Prefix{netip.MustParsePrefix("2001:db8:1::/48")},
				}
			},
		},
		{
			name: "listen addresses", args: []string{"--web.listen-address=127.0.0.1:1", "--web.listen-address=[::1]:1"},
			env: map[string]string{"ARP_CACHE_CLEANER_HEALTH_LISTEN_ADDRESS": "10.0.0.1:2,[2001:db8::1]:2"},
			want: func(o *options) {
				o.Web, o.Health = []string{"127.0.0.1:1", "[::1]:1"}, []string{"10.0.0.1:2", "[2001:db8::1]:2"}
			},
		},
		{
			name: "VIPs", args: []string{"--vip=auto,10.0.0.100", "--vip=2001:db8::100", "--vip=vip.example.com", "--vip=::ffff:10.0.0.101", "--vip-port=443", "--vip-interval=5s", "--vip-health=tcp", "--vip-on-conflict=healthy"},
			env: map[string]string{"ARP_CACHE_CLEANER_VIP_CA_FILE": "/ca.crt"},
			want: func(o *options) {
				o.VIP = vipOptions{
					Auto: true,
					Targets: []vip.Given{
						{Addr: netip.MustParseAddr("10.0.0.100"), Port: 443}, {Addr: netip.MustParseAddr("2001:db8::100"), Port: 443},
						{Name: "vip.example.com", Port: 443}, {Addr: netip.MustParseAddr("10.0.0.101"), Port: 443},
					},
					Port: 443, Interval: 5 * time.Second, Health: "tcp", OnConflict: "healthy", CAFile: "/ca.crt",
				}
			},
		},
		{
			name: "VIPs with ports", args: []string{"--vip=10.0.0.100:16443,10.0.0.100", "--vip=[2001:db8::100]:8443", "--vip=vip.example.com:9443", "--vip=10.0.0.100:16443,[::ffff:10.0.0.101]:1"},
			want: func(o *options) {
				o.VIP.Auto = false
				o.VIP.Targets = []vip.Given{
					{Addr: netip.MustParseAddr("10.0.0.100"), Port: 16443}, {Addr: netip.MustParseAddr("10.0.0.100"), Port: 6443},
					{Addr: netip.MustParseAddr("2001:db8::100"), Port: 8443}, {Name: "vip.example.com", Port: 9443}, {Addr: netip.MustParseAddr("10.0.0.101"), Port: 1},
				}
			},
		},
		{
			name: "lists as they stand in manifests", env: map[string]string{
				"ARP_CACHE_CLEANER_CIDR":              "10.0.0.0/8, 2001:db8::/32\n",
				"ARP_CACHE_CLEANER_EXCLUDE_INTERFACE": " cali* ,lxc*",
				"ARP_CACHE_CLEANER_VIP":               "10.0.0.100, vip.example.com",
			},
			want: func(o *options) {
				o.Scope.CIDRs = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}
				o.Scope.ExcludeInterfaces = []string{"cali*", "lxc*"}
				o.VIP.Auto, o.VIP.Targets = false, []vip.Given{{Addr: netip.MustParseAddr("10.0.0.100"), Port: 6443}, {Name: "vip.example.com", Port: 6443}}
			},
		},
		{
			name: "version", args: []string{"version"},
			want: func(o *options) { *o = options{Command: "version"} },
		},
		{
			name: "a VIP's port is --vip-port, wherever that stands", args: []string{"--vip=10.0.0.100,10.0.0.100:443", "--vip-port=443"},
			want: func(o *options) {
				o.VIP.Auto, o.VIP.Port, o.VIP.Targets = false, 443, []vip.Given{{Addr: netip.MustParseAddr("10.0.0.100"), Port: 443}}
			},
		},
		{
			name: "no VIPs", args: []string{"--vip=none"},
			want: func(o *options) { o.VIP.Auto = false },
		},
		{
			name: "listen host, IPv6 as Kubernetes gives it", env: map[string]string{"ARP_CACHE_CLEANER_LISTEN_HOST": "2001:db8::7"},
			want: func(o *options) { o.Web, o.Health = []string{"[2001:db8::7]:10330"}, []string{"[2001:db8::7]:10331"} },
		},
		{
			name: "listen host, only where none is named", args: []string{"--listen-host=10.0.0.7", "--web.listen-address=:1,127.0.0.1:2"},
			want: func(o *options) { o.Web, o.Health = []string{"10.0.0.7:1", "127.0.0.1:2"}, []string{"10.0.0.7:10331"} },
		},
		{
			name: "web configuration", args: []string{"--web.config.file=/etc/web.yaml"},
			want: func(o *options) { o.WebConfig = "/etc/web.yaml" },
		},
		{
			name: "ready", args: []string{"ready"}, env: map[string]string{"ARP_CACHE_CLEANER_LISTEN_HOST": "10.0.0.7"},
			want: func(o *options) { *o = options{Command: "ready", Health: []string{"10.0.0.7:10331"}} },
		},
		{
			name: "check has the agent's CA file and port, and nothing else of the agent's", args: []string{"check", "10.0.0.1"},
			env: map[string]string{"ARP_CACHE_CLEANER_VIP_PORT": "8443", "ARP_CACHE_CLEANER_VIP_CA_FILE": "/ca.crt", "ARP_CACHE_CLEANER_VIP_HEALTH": "none", "ARP_CACHE_CLEANER_NAME": "a", "ARP_CACHE_CLEANER_TIMEOUT": "1s"},
			want: func(o *options) {
				*o = options{Command: "check", Check: checkOptions{Server: netip.MustParseAddrPort("10.0.0.1:8443"), Timeout: 4 * time.Second}, VIP: vipOptions{Port: 8443, Health: "https", CAFile: "/ca.crt"}}
			},
		},
		{
			name: "check has the port that is given", args: []string{"check", "10.0.0.1:7443", "--vip-port=9443"},
			env: map[string]string{"ARP_CACHE_CLEANER_VIP_PORT": "8443"},
			want: func(o *options) {
				*o = options{Command: "check", Check: checkOptions{Server: netip.MustParseAddrPort("10.0.0.1:7443"), Timeout: 4 * time.Second}, VIP: vipOptions{Port: 9443, Health: "https"}}
			},
		},
		{
			name: "probe has nothing of the agent's", args: []string{"probe", "10.0.0.1"},
			env: map[string]string{"ARP_CACHE_CLEANER_INTERVAL": "30s", "ARP_CACHE_CLEANER_INTERFACE": "eth*"},
			want: func(o *options) {
				*o = options{Command: "probe", Probe: probeOptions{Address: netip.MustParseAddr("10.0.0.1"), Count: 3, Interval: time.Second}, Output: "table"}
			},
		},
		{
			name: "logging", args: []string{"--log-level=debug", "--log-format=json", "--metrics-per-entry=7", "--act=vsphere"},
			want: func(o *options) { o.Log.Level, o.LogFormat, o.PerEntry, o.Act = slog.LevelDebug, "json", 7, "vsphere" },
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parse(tt.args, environment(tt.env), io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			want := defaults()
			tt.want(want)
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

// Bad input ends in one line that names the flag or variable, the value, and
// what is allowed, before anything is opened or touched.
func TestBadInput(t *testing.T) {
	for _, tt := range []struct {
		args []string
		env  map[string]string
		want string
	}{
		{args: []string{"--interval=999ms"}, want: `--interval: "999ms": want a duration of 1s or more, such as 300s or 5m`},
		{args: []string{"--interval=300"}, want: `--interval: "300": want a duration of 1s or more, such as 300s or 5m`},
		{args: []string{"--interval=-5m"}, want: `--interval: "-5m0s": want a duration of 1s or more, such as 300s or 5m`},
		{env: map[string]string{"ARP_CACHE_CLEANER_INTERVAL": "5"}, want: `ARP_CACHE_CLEANER_INTERVAL: "5": want a duration of 1s or more, such as 300s or 5m`},
		{env: map[string]string{"ARP_CACHE_CLEANER_INTERVAL": "5ms"}, want: `ARP_CACHE_CLEANER_INTERVAL: "5ms": want a duration of 1s or more, such as 300s or 5m`},
		{args: []string{"--scan-period=31s"}, want: `--scan-period: "31s": want a duration from 10ms to 30s, and a tenth of --interval at most`},
		{args: []string{"--scan-period=0s"}, want: `--scan-period: "0s": want a duration from 10ms to 30s, and a tenth of --interval at most`},
		{args: []string{"--interval=10s", "--scan-period=2s"}, want: `--scan-period: "2s": want a duration from 10ms to 30s, and a tenth of --interval at most`},
		{args: []string{"--family=inet"}, want: `--family: "inet": want ipv4, ipv6 or all`},
		{args: []string{"--interface=[eth"}, want: `--interface: "[eth": want a glob such as eth0 or ens*`},
		{args: []string{"--interface="}, want: `--interface: "": want a glob such as eth0 or ens*`},
		{args: []string{"--web.listen-address="}, want: `--web.listen-address: "": want host:port, :port or [ipv6]:port`},
		{args: []string{"--exclude-interface=a[]"}, want: `--exclude-interface: "a[]": want a glob such as cali* or lxc*`},
		{args: []string{"--cidr=10.0.0.1"}, want: `--cidr: "10.0.0.1": want a prefix such as 10.0.0.0/8 or 2001:db8::/32`},
		{args: []string{"--cidr=::ffff:10.0.0.0/104"}, want: `--cidr: "::ffff:10.0.0.0/104": want a prefix such as 10.0.0.0/8 or 2001:db8::/32`},
		{env: map[string]string{"ARP_CACHE_CLEANER_EXCLUDE_CIDR": "x/8"}, want: `ARP_CACHE_CLEANER_EXCLUDE_CIDR: "x/8": want a prefix such as 10.0.0.0/8 or 2001:db8::/32`},
		{args: []string{"--act=maybe"}, want: `--act: "maybe": want always, vsphere or never`},
		{args: []string{"--once=perhaps"}, want: `--once: "perhaps": want true or false`},
		{args: []string{"--vip=10.0.0"}, want: `--vip: "10.0.0": want auto, ADDRESS, IPv4:PORT, [IPv6]:PORT, NAME, NAME:PORT, or none alone`},
		{args: []string{"--vip=10.0.0.1000"}, want: `--vip: "10.0.0.1000": want auto, ADDRESS, IPv4:PORT, [IPv6]:PORT, NAME, NAME:PORT, or none alone`},
		{args: []string{"--vip=none,10.0.0.1"}, want: `--vip: "none": want auto, ADDRESS, IPv4:PORT, [IPv6]:PORT, NAME, NAME:PORT, or none alone`},
		{args: []string{"--vip="}, want: `--vip: "": want auto, ADDRESS, IPv4:PORT, [IPv6]:PORT, NAME, NAME:PORT, or none alone`},
		{args: []string{"--vip=127.0.0.1"}, want: `--vip: "127.0.0.1": want auto, ADDRESS, IPv4:PORT, [IPv6]:PORT, NAME, NAME:PORT, or none alone`},
		{args: []string{"--vip=fe80::1"}, want: `--vip: "fe80::1": want auto, ADDRESS, IPv4:PORT, [IPv6]:PORT, NAME, NAME:PORT, or none alone`},
		{args: []string{"--vip=https://vip:6443"}, want: `--vip: "https://vip:6443": want auto, ADDRESS, IPv4:PORT, [IPv6]:PORT, NAME, NAME:PORT, or none alone`},
		{args: []string{"--vip=2001:db8::1%eth0"}, want: `--vip: "2001:db8::1%eth0": want auto, ADDRESS, IPv4:PORT, [IPv6]:PORT, NAME, NAME:PORT, or none alone`},
		{env: map[string]string{"ARP_CACHE_CLEANER_VIP": "auto,none"}, want: `ARP_CACHE_CLEANER_VIP: "none": want auto, ADDRESS, IPv4:PORT, [IPv6]:PORT, NAME, NAME:PORT, or none alone`},
		{env: map[string]string{"ARP_CACHE_CLEANER_CIDR": "10.0.0.0/8, 10.0.0.1"}, want: `ARP_CACHE_CLEANER_CIDR: "10.0.0.1": want a prefix such as 10.0.0.0/8 or 2001:db8::/32`},
		{env: map[string]string{"ARP_CACHE_CLEANER_CIDR": "10.0.0.0/8\n10.1.0.0/16"}, want: `ARP_CACHE_CLEANER_CIDR: "10.0.0.0/8\n10.1.0.0/16": want a prefix such as 10.0.0.0/8 or 2001:db8::/32`},
		{env: map[string]string{"ARP_CACHE_CLEANER_INTERVAL": "10s", "ARP_CACHE_CLEANER_SCAN_PERIOD": "2s"}, want: `ARP_CACHE_CLEANER_SCAN_PERIOD: "2s": want a duration from 10ms to 30s, and a tenth of --interval at most`},
		{args: []string{"--vip-port=0"}, want: `--vip-port: "0": want a number from 1 to 65535`},
		{args: []string{"--vip-port=65536"}, want: `--vip-port: "65536": want a number from 1 to 65535`},
		{args: []string{"--vip-interval=0s"}, want: `--vip-interval: "0s": want a duration from 1s to 1m`},
		{args: []string{"--vip-health=http"}, want: `--vip-health: "http": want https, tcp or none`},
		{env: map[string]string{"ARP_CACHE_CLEANER_VIP_ON_CONFLICT": "follow"}, want: `ARP_CACHE_CLEANER_VIP_ON_CONFLICT: "follow": want verified, healthy or report`},
		{args: []string{"--metrics-per-entry=-1"}, want: `--metrics-per-entry: "-1": want a number from 0 to 10000`},
		{args: []string{"--metrics-per-entry=10001"}, want: `--metrics-per-entry: "10001": want a number from 0 to 10000`},
		{args: []string{"--web.listen-address=10330"}, want: `--web.listen-address: "10330": want host:port, :port or [ipv6]:port`},
		{args: []string{"--health.listen-address=::1:80"}, want: `--health.listen-address: "::1:80": want host:port, :port or [ipv6]:port`},
		{args: []string{"--health.listen-address=:99999"}, want: `--health.listen-address: ":99999": want host:port, :port or [ipv6]:port`},
		{args: []string{"--listen-host=[::1]"}, want: `--listen-host: "[::1]": want an IPv4 or IPv6 address`},
		{env: map[string]string{"ARP_CACHE_CLEANER_LISTEN_HOST": "node1"}, want: `ARP_CACHE_CLEANER_LISTEN_HOST: "node1": want an IPv4 or IPv6 address`},
		{args: []string{"ready", "--health.listen-address=10331"}, want: `--health.listen-address: "10331": want host:port, :port or [ipv6]:port`},
		{args: []string{"--log-level=loud"}, want: `--log-level: "loud": want debug, info, warn or error`},
		{args: []string{"--log-format=xml"}, want: `--log-format: "xml": want text or json`},
		{args: []string{"list", "-o", "yaml"}, want: `--output: "yaml": want table or json`},
		{args: []string{"list", "--interval=5s"}, want: `unknown flag: --interval; see --help`},
		{args: []string{"--no-such-flag"}, want: `unknown flag: --no-such-flag; see --help`},
		{args: []string{"--interal=5m"}, want: `unknown flag: --interal: did you mean --interval? see --help`},
		{args: []string{"--scan_period=5s"}, want: `unknown flag: --scan_period: did you mean --scan-period? see --help`},
		{args: []string{"--announce=always"}, want: `--announce: "always": want never or start`},
		{args: []string{"list", "--famliy=ipv4"}, want: `unknown flag: --famliy: did you mean --family? see --help`},
		{args: []string{"-once"}, want: `unknown shorthand flag: 'o' in -once; see --help`},
		{args: []string{"--interval"}, want: `flag needs an argument: --interval; see --help`},
		{args: []string{"list", "-o"}, want: `flag needs an argument: 'o' in -o; see --help`},
		{args: []string{"--=5s"}, want: `bad flag syntax: --=5s; see --help`},
		{args: []string{"--version=latest"}, want: `--version: "latest": want true or false`},
		{args: []string{"flush"}, want: `unknown command "flush": want list, probe, check, ready, status, version or help, or none to run the agent`},
		{args: []string{"porbe", "10.0.0.1"}, want: `unknown command "porbe": did you mean probe? want list, probe, check, ready, status, version or help, or none to run the agent`},
		{args: []string{"help", "flush"}, want: `unknown command "flush": want list, probe, check, ready, status, version or help, or none to run the agent`},
		{args: []string{"version", "now"}, want: `unexpected argument "now": want flags only`},
		{args: []string{"probe"}, want: `probe: 0 addresses: want one`},
		{args: []string{"probe", "10.0.0.1", "10.0.0.2"}, want: `probe: 2 addresses: want one`},
		{args: []string{"probe", "vip.example"}, want: `probe: "vip.example": want the IPv4 or IPv6 address of a neighbour`},
		{args: []string{"probe", "224.0.0.1"}, want: `probe: "224.0.0.1": want the IPv4 or IPv6 address of a neighbour`},
		{args: []string{"probe", "::ffff:224.0.0.1"}, want: `probe: "::ffff:224.0.0.1": want the IPv4 or IPv6 address of a neighbour`},
		{args: []string{"probe", "10.0.0.1%eth0"}, want: `probe: "10.0.0.1%eth0": want an address without a zone: --interface names the device`},
		{args: []string{"probe", "gateway%eth0"}, want: `probe: "gateway%eth0": want the IPv4 or IPv6 address of a neighbour`},
		{args: []string{"probe", "fe80::1%eth0"}, want: `probe: "fe80::1%eth0": want an address without a zone: --interface names the device`},
		{args: []string{"probe", "10.0.0.1", "--count=many"}, want: `--count: "many": want a number from 1 to 1000`},
		{args: []string{"probe", "10.0.0.1", "--count=0"}, want: `--count: "0": want a number from 1 to 1000`},
		{args: []string{"probe", "10.0.0.1", "--interval=1ms"}, want: `--interval: "1ms": want a duration from 500ms to 1m`},
		{args: []string{"--vip=10.0.0.1:0"}, want: `--vip: "10.0.0.1:0": want auto, ADDRESS, IPv4:PORT, [IPv6]:PORT, NAME, NAME:PORT, or none alone`},
		{args: []string{"--vip=10.0.0.1:65536"}, want: `--vip: "10.0.0.1:65536": want auto, ADDRESS, IPv4:PORT, [IPv6]:PORT, NAME, NAME:PORT, or none alone`},
		{args: []string{"--vip=10.0.0.1:"}, want: `--vip: "10.0.0.1:": want auto, ADDRESS, IPv4:PORT, [IPv6]:PORT, NAME, NAME:PORT, or none alone`},
		{args: []string{"--vip=:6443"}, want: `--vip: ":6443": want auto, ADDRESS, IPv4:PORT, [IPv6]:PORT, NAME, NAME:PORT, or none alone`},
		{args: []string{"--vip=[2001:db8::1]"}, want: `--vip: "[2001:db8::1]": want auto, ADDRESS, IPv4:PORT, [IPv6]:PORT, NAME, NAME:PORT, or none alone`},
		{args: []string{"--vip=[10.0.0.1]:6443"}, want: `--vip: "[10.0.0.1]:6443": want auto, ADDRESS, IPv4:PORT, [IPv6]:PORT, NAME, NAME:PORT, or none alone`},
		{args: []string{"--vip=[fe80::1]:6443"}, want: `--vip: "[fe80::1]:6443": want auto, ADDRESS, IPv4:PORT, [IPv6]:PORT, NAME, NAME:PORT, or none alone`},
		{args: []string{"--vip=auto:6443"}, want: `--vip: "auto:6443": want auto, ADDRESS, IPv4:PORT, [IPv6]:PORT, NAME, NAME:PORT, or none alone`},
		{args: []string{"--vip=none:6443"}, want: `--vip: "none:6443": want auto, ADDRESS, IPv4:PORT, [IPv6]:PORT, NAME, NAME:PORT, or none alone`},
		{args: []string{"--vip=vip.example:https"}, want: `--vip: "vip.example:https": want auto, ADDRESS, IPv4:PORT, [IPv6]:PORT, NAME, NAME:PORT, or none alone`},
		{args: []string{"check"}, want: `check: 0 addresses: want one`},
		{args: []string{"check", "vip.example"}, want: `check: "vip.example": want ADDRESS, IPv4:PORT or [IPv6]:PORT`},
		{args: []string{"check", "10.0.0.1:0"}, want: `check: "10.0.0.1:0": want ADDRESS, IPv4:PORT or [IPv6]:PORT`},
		{args: []string{"check", "224.0.0.1"}, want: `check: "224.0.0.1": want ADDRESS, IPv4:PORT or [IPv6]:PORT`},
		{args: []string{"check", "10.0.0.1", "--vip-health=none"}, want: `--vip-health: "none": want https or tcp`},
		{args: []string{"check", "10.0.0.1", "--name=10.0.0.1"}, want: `--name: "10.0.0.1": want a DNS name`},
		{args: []string{"check", "10.0.0.1", "--name="}, want: `--name: "": want a DNS name`},
		{args: []string{"check", "10.0.0.1", "--timeout=1ms"}, want: `--timeout: "1ms": want a duration from 100ms to 1m`},
		{args: []string{"probe", "10.0.0.1", "-o", "xml"}, want: `--output: "xml": want table or json`},
		{args: []string{"ready", "now"}, want: `unexpected argument "now": want flags only`},
		{args: []string{"--once", "now"}, want: `unexpected argument "now": want flags only`},
	} {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			if _, err := parse(tt.args, environment(tt.env), io.Discard); err == nil || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
	var out, errOut bytes.Buffer
	code := runArgs(t.Context(), []string{"--interval=0"}, &out, &errOut)
	if want := "arp-cache-cleaner: --interval: \"0s\": want a duration of 1s or more, such as 300s or 5m\n"; code != 2 || errOut.String() != want || out.Len() != 0 {
		t.Errorf("exit code %d, stderr %q, stdout %q\nwant 2, %q and nothing", code, errOut.String(), out.String(), want)
	}
}

func TestEveryFlagSaysWhatIsAllowed(t *testing.T) {
	for _, c := range commands() {
		f := newFlags(c.name, &options{})
		for _, p := range declared(f) {
			if allowed(p) == "" || p.Usage == "" {
				t.Errorf("--%s has no description of what it does or allows", p.Name)
			}
		}
	}
}

// A variable that is none of the agent's, but looks like one, is a mistake, unless
// kubelet has set it for a Service.
func TestUnknownVariables(t *testing.T) {
	got := unknownVariables([]string{
		"PATH=/bin", "ARP_CACHE_CLEANER_INTERVAL=5m", "ARP_CACHE_CLEANER_WEB_CONFIG_FILE=/w", "ARP_CACHE_CLEANER_OLD=",
		"ARP_CACHE_CLEANER_INTERAL=5m", "ARP_CACHE_CLEANER_VIP_PROT=443", "ARP_CACHE_CLEANER_API_SERVER_PORT=443", "ARP_CACHE_CLEANER_COLOUR=red",
		"ARP_CACHE_CLEANER_SERVICE_HOST=10.96.0.7", "ARP_CACHE_CLEANER_SERVICE_PORT=10330", "ARP_CACHE_CLEANER_SERVICE_PORT_METRICS=10330",
		"ARP_CACHE_CLEANER_PORT=tcp://10.96.0.7:10330", "ARP_CACHE_CLEANER_PORT_10330_TCP=tcp://10.96.0.7:10330",
		"ARP_CACHE_CLEANER_PORT_10330_TCP_PROTO=tcp", "ARP_CACHE_CLEANER_PORT_10330_TCP_PORT=10330", "ARP_CACHE_CLEANER_PORT_10330_TCP_ADDR=10.96.0.7",
		"ARP_CACHE_CLEANER_METRICS_SERVICE_HOST=10.96.0.8", "ARP_CACHE_CLEANER_METRICS_PORT=udp://[fd00::8]:53",
	})
	if want := []unknownVariable{
		{"ARP_CACHE_CLEANER_INTERAL", "ARP_CACHE_CLEANER_INTERVAL"}, {"ARP_CACHE_CLEANER_VIP_PROT", "ARP_CACHE_CLEANER_VIP_PORT"},
		{"ARP_CACHE_CLEANER_API_SERVER_PORT", ""}, {"ARP_CACHE_CLEANER_COLOUR", ""},
	}; !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// declared lists the flags in the order they were declared.
func declared(f *flags) (all []*pflag.Flag) {
	f.VisitAll(func(p *pflag.Flag) { all = append(all, p) })
	return all
}
