package main

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

// Whatever stands on the command line and in the environment: one line of
// error, or options within their bounds.
func FuzzParse(f *testing.F) {
	f.Add("--interval=300s\x00--vip=10.0.0.100\x00--vip=none", "ARP_CACHE_CLEANER_ACT=vsphere")
	f.Add("--scan-period=1ms", "ARP_CACHE_CLEANER_INTERVAL=1s\x00ARP_CACHE_CLEANER_CIDR=10.0.0.0/8,::/0")
	f.Add("list\x00-o\x00json\x00--family=ipv6", "")
	f.Add("probe\x00--count=3\x00fe80::1%eth0", "")
	f.Add("check\x00--name=api.example\x00[2001:db8::1]:6443", "")
	f.Add("--vip=10.0.0.100:6443\x00--vip=[2001:db8::100]:16443\x00--vip=api.example:443,auto", "")
	f.Add("--vip=[10.0.0.100]:6443\x00--vip=[::1%lo]:1\x00--vip=:6443", "")
	f.Add("--interface=[\x00--exclude-interface=cali*\x00--cidr=::ffff:1.2.3.4/96", "ARP_CACHE_CLEANER_WEB_LISTEN_ADDRESS=[::1]:99999")
	f.Add("--vip=k8s.example.\x00--vip-port=0\x00--vip-interval=1h\x00--metrics-per-entry=-1", "ARP_CACHE_CLEANER_ONCE=maybe")
	f.Add("--help", "ARP_CACHE_CLEANER_HELP=1")
	f.Add("--version\x00--\x00x", "ARP_CACHE_CLEANER_VERSION=true")
	f.Fuzz(func(t *testing.T, line, vars string) {
		var args []string
		if line != "" {
			args = strings.Split(line, "\x00")
		}
		env := map[string]string{}
		for _, v := range strings.Split(vars, "\x00") {
			name, value, _ := strings.Cut(v, "=")
			env[name] = value
		}
		o, err := parse(args, func(name string) (string, bool) { v, ok := env[name]; return v, ok }, io.Discard)
		switch {
		case errors.Is(err, errHelp):
			return
		case err != nil:
			if text := err.Error(); text == "" || !strings.ContainsAny(line+vars, "\n\r") && strings.ContainsAny(text, "\n\r") {
				t.Errorf("%q, %q: not one line: %q", args, env, text)
			}
			return
		}
		if o.Command == "check" && (!o.Check.Server.Addr().IsValid() || o.Check.Server.Port() == 0) {
			t.Errorf("%q: %+v", args, o.Check.Server)
		}
		if o.Command != "" {
			return
		}
		for _, target := range o.VIP.Targets {
			if target.Port == 0 || target.Addr.IsValid() == (target.Name != "") || target.Name == "" && (!target.Addr.IsGlobalUnicast() || target.Addr.Is4In6()) {
				t.Errorf("%q, %q: VIP %+v", args, env, target)
			}
		}
		if o.Interval < minInterval || o.ScanPeriod < minScanPeriod || o.ScanPeriod > maxScanPeriod || o.ScanPeriod > o.Interval/10 {
			t.Errorf("%q, %q: interval %v, scan period %v", args, env, o.Interval, o.ScanPeriod)
		}
		if o.PerEntry < 0 || o.PerEntry > maxPerEntry || o.VIP.Port == 0 || o.VIP.Interval < time.Second || o.VIP.Interval > time.Minute {
			t.Errorf("%q, %q: %+v", args, env, o)
		}
		for _, p := range append(o.Scope.CIDRs, o.Scope.ExcludeCIDRs...) {
			if !p.IsValid() || p != p.Masked() {
				t.Errorf("%q, %q: prefix %v", args, env, p)
			}
		}
	})
}
