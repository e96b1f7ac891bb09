package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
)

const (
	minInterval   = time.Second
	minScanPeriod = 10 * time.Millisecond
	maxScanPeriod = 15 * time.Second
	maxPerEntry   = 10000
)

// options is everything that flags and environment decide.
type options struct {
	Command string // "", "list", "probe", "check", "ready"

	Interval   time.Duration
	ScanPeriod time.Duration
	Act        string
	Once       bool
	Scope      policy.Scope
	PerEntry   int
	VIP        vipOptions
	Web        []string
	WebConfig  string
	Health     []string
	Log        slog.HandlerOptions
	LogFormat  string
	Version    bool
	Output     string // of list and probe

	// Of probe.
	Address       netip.Addr
	Count         int
	ProbeInterval time.Duration
	Interface     string

	// Of check, with VIP.Health and VIP.CAFile.
	Server  netip.AddrPort
	Name    string
	Timeout time.Duration
}

// vipOptions is what decides which VIPs are watched, and how.
type vipOptions struct {
	Auto       bool
	Targets    []vipTarget // those that are named, each once
	Port       uint16
	Interval   time.Duration
	Health     string
	CAFile     string
	OnConflict string
}

// watches reports whether any VIP may be watched.
func (v *vipOptions) watches() bool { return v.Auto || len(v.Targets) > 0 }

// vipTarget is a VIP that --vip names, by its address or by its name.
type vipTarget struct {
	Addr netip.Addr // not valid where there is a name
	Name string
	Port uint16 // its own, or --vip-port
}

// errHelp says that help was asked for and has been printed.
var errHelp = errors.New("help was printed")

// flagText is what documentation and errors say of a flag beside its usage.
type flagText struct {
	allowed string // completes "want ..."
	shown   string // the default as documentation shows it, where it is not the literal one
}

// flags binds the flags of a command to o.
type flags struct {
	*pflag.FlagSet
	o       *options
	text    map[string]flagText
	sources map[string]string // the variables that set flags, by flag

	family, level        string
	listenHost           string
	cidrs, excludeCIDRs  []string
	interfaces, excludes []string
	vips                 []string
}

// newFlags declares the flags of a command.
func newFlags(command string, o *options) *flags {
	f := &flags{FlagSet: pflag.NewFlagSet("arp-cache-cleaner", pflag.ContinueOnError), o: o, text: map[string]flagText{}, sources: map[string]string{}}
	f.SortFlags = false
	f.SetOutput(io.Discard)
	say := func(name, allowed, shown string) { f.text[name] = flagText{allowed, shown} }

	if command == "probe" {
		f.IntVar(&o.Count, "count", 3, "how often to ask")
		say("count", "a number from 1 to 1000", "")
		f.DurationVar(&o.ProbeInterval, "interval", time.Second, "time between two requests; answers are collected for half a second")
		say("interval", "a duration from 500ms to 1m", "")
		f.StringVar(&o.Interface, "interface", "", "device to ask on")
		say("interface", "the name of a device", "the one that the route to the address uses")
		f.StringVarP(&o.Output, "output", "o", "table", "output format")
		say("output", "table or json", "")
		return f
	}
	health := func(usage, allowed string) {
		f.StringVar(&o.VIP.Health, "vip-health", "https", usage)
		say("vip-health", allowed, "")
		f.StringVar(&o.VIP.CAFile, "vip-ca-file", "", "PEM file of the CA that the server's certificate has to lead to")
		say("vip-ca-file", "a file of PEM certificates", "no certificate is verified")
	}
	if command == "check" {
		health("how the server is checked; https: GET /livez; tcp: a connection, for servers that are no API server", "https or tcp")
		f.StringVar(&o.Name, "name", "", "name that the server's certificate may be for, beside the address and kubernetes.default.svc")
		say("name", "a DNS name", "none")
		f.DurationVar(&o.Timeout, "timeout", 4*time.Second, "time for the whole check, of which half is for the connection and the TLS handshake")
		say("timeout", "a duration from 100ms to 1m", "")
		return f
	}
	listen := func() {
		f.StringSliceVar(&o.Health, "health.listen-address", []string{":10331"}, "address of /healthz and /readyz; repeatable")
		say("health.listen-address", "host:port, :port or [ipv6]:port", "")
		f.StringVar(&f.listenHost, "listen-host", "", "address that listen addresses without a host, such as :10330, are on; in a pod, the node's")
		say("listen-host", "an IPv4 or IPv6 address", "every address of the node")
	}
	if command == "ready" {
		listen()
		return f
	}
	if command == "" {
		f.DurationVar(&o.Interval, "interval", 300*time.Second, "no age of a learned entry is to exceed this")
		say("interval", "a duration of 1s or more, such as 300s or 5m", "300s")
		f.DurationVar(&o.ScanPeriod, "scan-period", 0, "how often the table is read")
		say("scan-period", "a duration from 10ms to 15s, and a tenth of --interval at most", "interval/60, 15s at most")
		f.StringVar(&o.Act, "act", "always", "whether entries are renewed; vsphere: only on VMware virtual machines, by their DMI strings or PCI devices; never: dry run")
		say("act", "always, vsphere or never", "")
		f.BoolVar(&o.Once, "once", false, "renew everything eligible now, print a summary and exit")
		say("once", "true or false", "")
	}
	f.StringVar(&f.family, "family", "all", "address family that is renewed")
	say("family", "ipv4, ipv6 or all", "")
	f.StringSliceVar(&f.interfaces, "interface", nil, "glob of devices whose entries are renewed; repeatable")
	say("interface", "a glob such as eth0 or ens*", "every device")
	f.StringSliceVar(&f.excludes, "exclude-interface", nil, "glob of devices whose entries are left alone; repeatable, wins over --interface")
	say("exclude-interface", "a glob such as cali* or lxc*", "none")
	f.StringSliceVar(&f.cidrs, "cidr", nil, "prefix of addresses whose entries are renewed; repeatable")
	say("cidr", "a prefix such as 10.0.0.0/8 or 2001:db8::/32", "every address")
	f.StringSliceVar(&f.excludeCIDRs, "exclude-cidr", nil, "prefix of addresses whose entries are left alone; repeatable, wins over --cidr")
	say("exclude-cidr", "a prefix such as 10.0.0.0/8 or 2001:db8::/32", "none")
	if command == "list" {
		f.StringVarP(&o.Output, "output", "o", "table", "output format")
		say("output", "table or json", "")
		return f
	}
	f.StringSliceVar(&f.vips, "vip", []string{"auto"}, "control-plane address that is watched and repaired within seconds, with its TCP port where that is not --vip-port; auto: those this node has connections to on --vip-port; repeatable")
	say("vip", "auto, ADDRESS, IPv4:PORT, [IPv6]:PORT, NAME, NAME:PORT, or none alone", "")
	f.Uint16Var(&o.VIP.Port, "vip-port", 6443, "TCP port of the API server")
	say("vip-port", "a number from 1 to 65535", "")
	f.DurationVar(&o.VIP.Interval, "vip-interval", 2*time.Second, "how often a VIP is looked at")
	say("vip-interval", "a duration from 1s to 1m", "")
	health("how the server behind a VIP is checked once it is suspect; https: GET /livez; tcp: a connection, for VIPs that are no API server; none: not at all", "https, tcp or none")
	f.StringVar(&o.VIP.OnConflict, "vip-on-conflict", "verified", "which other holder of a VIP is followed when the present one does not serve; verified: one that serves, with a certificate that --vip-ca-file confirms; healthy: any that serves; report: none")
	say("vip-on-conflict", "verified, healthy or report", "")
	f.IntVar(&o.PerEntry, "metrics-per-entry", 0, "entries, beside next hops, whose ages are exported one by one")
	say("metrics-per-entry", "a number from 0 to 10000", "")
	f.StringSliceVar(&o.Web, "web.listen-address", []string{":10330"}, "address of /metrics; repeatable")
	say("web.listen-address", "host:port, :port or [ipv6]:port", "")
	f.StringVar(&o.WebConfig, "web.config.file", "", "TLS, client certificates and passwords for --web.listen-address")
	say("web.config.file", "a web configuration file of the Prometheus exporter toolkit", "none: plain HTTP")
	listen()
	f.StringVar(&f.level, "log-level", "info", "least severe level that is logged")
	say("log-level", "debug, info, warn or error", "")
	f.StringVar(&o.LogFormat, "log-format", "text", "log format")
	say("log-format", "text or json", "")
	f.BoolVar(&o.Version, "version", false, "print the version and exit")
	say("version", "true or false", "")
	return f
}

// parse reads the command line, then the environment for flags that it leaves
// open. It prints help to stdout where asked. An error is one line that names
// the flag or variable, the value and what is allowed.
func parse(args []string, env func(string) (string, bool), stdout io.Writer) (*options, error) {
	o := &options{}
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		o.Command, args = args[0], args[1:]
	}
	if _, ok := usage[o.Command]; !ok {
		return nil, fmt.Errorf("unknown command %q: want list, probe, check or ready, or none to run the agent", o.Command)
	}
	f := newFlags(o.Command, o)
	err := f.Parse(args)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		f.help(stdout)
		return nil, errHelp
	case err != nil:
		return nil, f.explain(err)
	case o.Command == "probe":
		return o, f.validateProbe()
	case o.Command == "check":
		return o, f.validateCheck()
	case f.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q: want flags only", f.Arg(0))
	}
	if err := f.environment(env); err != nil {
		return nil, err
	}
	return o, f.validate()
}

// explain puts what is allowed into an error of pflag's.
func (f *flags) explain(err error) error {
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		return f.refuse(invalid.GetFlag().Name, invalid.GetValue())
	}
	return fmt.Errorf("%w; see --help", err)
}

// refuse says that a flag, or the variable that set it, cannot have that value.
func (f *flags) refuse(name, value string) error {
	source, ok := f.sources[name]
	if !ok {
		source = "--" + name
	}
	return fmt.Errorf("%s: %q: want %s", source, value, f.text[name].allowed)
}

// variable is the name of the environment variable for a flag.
func variable(flag string) string {
	return "ARP_CACHE_CLEANER_" + strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(flag))
}

// environment sets flags that the command line left open. An empty variable
// counts as unset, so that manifests can leave values open.
func (f *flags) environment(env func(string) (string, bool)) (err error) {
	f.VisitAll(func(p *pflag.Flag) {
		value, ok := env(variable(p.Name))
		if err != nil || p.Changed || !ok || value == "" {
			return
		}
		f.sources[p.Name] = variable(p.Name)
		if f.Set(p.Name, value) != nil {
			err = f.refuse(p.Name, value)
		}
	})
	return err
}

// validate checks what the types do not, and completes the options.
func (f *flags) validate() error {
	o := f.o
	oneOf := func(name, value string, allowed ...string) error {
		if !slices.Contains(allowed, value) {
			return f.refuse(name, value)
		}
		return nil
	}
	errs := []error{f.empty(), f.listen()}
	if o.Command == "ready" {
		return first(errs)
	}
	errs = append(errs, oneOf("family", f.family, "ipv4", "ipv6", "all"))
	if f.family != "all" {
		o.Scope.Family = f.family
	}
	o.Scope.Interfaces, o.Scope.ExcludeInterfaces = f.interfaces, f.excludes
	for _, g := range []struct {
		name  string
		globs []string
	}{{"interface", f.interfaces}, {"exclude-interface", f.excludes}} {
		for _, glob := range g.globs {
			if _, err := path.Match(glob, ""); err != nil || glob == "" {
				errs = append(errs, f.refuse(g.name, glob))
			}
		}
	}
	for _, c := range []struct {
		name     string
		values   []string
		prefixes *[]netip.Prefix
	}{{"cidr", f.cidrs, &o.Scope.CIDRs}, {"exclude-cidr", f.excludeCIDRs, &o.Scope.ExcludeCIDRs}} {
		for _, v := range c.values {
			p, err := netip.ParsePrefix(v)
			if err != nil || p.Addr().Is4In6() { // the table knows no mapped addresses: it would match nothing
				errs = append(errs, f.refuse(c.name, v))
			}
			*c.prefixes = append(*c.prefixes, p.Masked())
		}
	}
	if o.Command == "list" {
		return first(append(errs, oneOf("output", o.Output, "table", "json")))
	}
	errs = append(errs, f.validateVIP(oneOf))
	errs = append(errs, oneOf("act", o.Act, "always", "vsphere", "never"), oneOf("log-format", o.LogFormat, "text", "json"))
	if o.Interval < minInterval {
		errs = append(errs, f.refuse("interval", o.Interval.String()))
	}
	if !f.Changed("scan-period") {
		o.ScanPeriod = min(max(o.Interval/60, minScanPeriod), maxScanPeriod)
	}
	if o.ScanPeriod < minScanPeriod || o.ScanPeriod > min(maxScanPeriod, o.Interval/10) {
		errs = append(errs, f.refuse("scan-period", o.ScanPeriod.String()))
	}
	if o.PerEntry < 0 || o.PerEntry > maxPerEntry {
		errs = append(errs, f.refuse("metrics-per-entry", strconv.Itoa(o.PerEntry)))
	}
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	level, ok := levels[f.level]
	if !ok {
		errs = append(errs, f.refuse("log-level", f.level))
	}
	o.Log.Level = level
	return first(errs)
}

// validateVIP checks the flags of the watch over VIPs.
func (f *flags) validateVIP(oneOf func(name, value string, allowed ...string) error) error {
	v := &f.o.VIP
	for _, s := range f.vips {
		target, ok := parseTarget(s, v.Port)
		switch {
		case s == "auto":
			v.Auto = true
		case s == "none" && len(f.vips) == 1:
		case !ok:
			return f.refuse("vip", s)
		case !slices.Contains(v.Targets, target):
			v.Targets = append(v.Targets, target)
		}
	}
	errs := []error{
		oneOf("vip-health", v.Health, "https", "tcp", "none"),
		oneOf("vip-on-conflict", v.OnConflict, "verified", "healthy", "report"),
	}
	if v.Port == 0 {
		errs = append(errs, f.refuse("vip-port", "0"))
	}
	if v.Interval < time.Second || v.Interval > time.Minute {
		errs = append(errs, f.refuse("vip-interval", v.Interval.String()))
	}
	return first(errs)
}

// parseTarget reads a VIP: an address or a name, with a port or without.
func parseTarget(s string, otherwise uint16) (vipTarget, bool) {
	host, port, ok := splitPort(s, otherwise)
	addr, err := netip.ParseAddr(host)
	addr = addr.Unmap()
	switch {
	case !ok || host == "auto" || host == "none":
		return vipTarget{}, false
	case err == nil && addr.IsGlobalUnicast() && addr.Zone() == "":
		return vipTarget{Addr: addr, Port: port}, true
	case err != nil && dnsName.MatchString(host):
		return vipTarget{Name: host, Port: port}, true
	}
	return vipTarget{}, false
}

// dnsName matches host names (RFC 1123 section 2.1) with a letter in the last
// label, so that a mistyped address is none.
var dnsName = regexp.MustCompile(`^([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.)*[a-zA-Z]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.?$`)

// validateProbe checks the flags and the address of probe. It reads no
// environment: in a pod, ARP_CACHE_CLEANER_INTERVAL is the agent's.
func (f *flags) validateProbe() error {
	o := f.o
	if f.NArg() != 1 {
		return fmt.Errorf("probe: %d addresses: want one", f.NArg())
	}
	addr, err := netip.ParseAddr(f.Arg(0))
	o.Address = addr.Unmap()
	switch {
	case err != nil || o.Address.IsUnspecified() || o.Address.IsMulticast() || o.Address.IsLoopback():
		return fmt.Errorf("probe: %q: want the IPv4 or IPv6 address of a neighbour", f.Arg(0))
	case addr.Zone() != "":
		return fmt.Errorf("probe: %q: want an address without a zone: --interface names the device", f.Arg(0))
	}
	switch {
	case o.Count < 1 || o.Count > 1000:
		return f.refuse("count", strconv.Itoa(o.Count))
	case o.ProbeInterval < 500*time.Millisecond || o.ProbeInterval > time.Minute:
		return f.refuse("interval", o.ProbeInterval.String())
	case o.Output != "table" && o.Output != "json":
		return f.refuse("output", o.Output)
	}
	return nil
}

// defaultCheckPort is the API server's.
const defaultCheckPort = 6443

// validateCheck checks the flags and the address of check. It reads no
// environment, as probe does not.
func (f *flags) validateCheck() error {
	o := f.o
	if f.NArg() != 1 {
		return fmt.Errorf("check: %d addresses: want one", f.NArg())
	}
	host, port, ok := splitPort(f.Arg(0), defaultCheckPort)
	addr, err := netip.ParseAddr(host)
	if !ok || err != nil || addr.IsUnspecified() || addr.IsMulticast() {
		return fmt.Errorf("check: %q: want ADDRESS, IPv4:PORT or [IPv6]:PORT", f.Arg(0))
	}
	o.Server = netip.AddrPortFrom(addr.Unmap(), port)
	switch {
	case o.VIP.Health != "https" && o.VIP.Health != "tcp":
		return f.refuse("vip-health", o.VIP.Health)
	case f.Changed("name") && !dnsName.MatchString(o.Name):
		return f.refuse("name", o.Name)
	case o.Timeout < 100*time.Millisecond || o.Timeout > time.Minute:
		return f.refuse("timeout", o.Timeout.String())
	}
	return nil
}

// splitPort takes a port off the end of an address or a name. An IPv6 address
// that has one is in brackets. Without a port it is the given one.
func splitPort(s string, otherwise uint16) (host string, port uint16, ok bool) {
	if _, err := netip.ParseAddr(s); err == nil || !strings.Contains(s, ":") {
		return s, otherwise, true
	}
	host, text, err := net.SplitHostPort(s)
	n, err2 := strconv.ParseUint(text, 10, 16)
	if err != nil || err2 != nil || n == 0 || strings.Contains(host, ":") != strings.HasPrefix(s, "[") {
		return "", 0, false
	}
	return host, uint16(n), true
}

// empty refuses list flags that were given nothing, such as --interface=: taken
// as an empty list they would mean everything.
func (f *flags) empty() (err error) {
	f.Visit(func(p *pflag.Flag) {
		if list, ok := p.Value.(pflag.SliceValue); ok && len(list.GetSlice()) == 0 {
			err = f.refuse(p.Name, "")
		}
	})
	return err
}

func (f *flags) listen() error {
	if f.listenHost != "" {
		if _, err := netip.ParseAddr(f.listenHost); err != nil {
			return f.refuse("listen-host", f.listenHost)
		}
	}
	return first([]error{f.addresses("web.listen-address", f.o.Web), f.addresses("health.listen-address", f.o.Health)})
}

// addresses checks listen addresses, and puts --listen-host into those that
// name no host. It is done here because $(HOST_IP):10330, in a manifest, is no
// address where HOST_IP is an IPv6 one.
func (f *flags) addresses(name string, values []string) error {
	for i, v := range values {
		host, port, err := net.SplitHostPort(v)
		if err == nil {
			_, err = strconv.ParseUint(port, 10, 16)
		}
		if err != nil {
			return f.refuse(name, v)
		}
		if host == "" {
			values[i] = net.JoinHostPort(f.listenHost, port)
		}
	}
	return nil
}

func first(errs []error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

var usage = map[string]string{
	"": `Renews this node's learned neighbour (ARP and ND) entries, so that none goes
unverified for longer than --interval.

Usage:
  arp-cache-cleaner [flags]       run the agent
  arp-cache-cleaner list [flags]  show the table, and what the agent would do with each entry
  arp-cache-cleaner probe ADDRESS ask who holds an address, and show everybody who answers
  arp-cache-cleaner check ADDRESS check the API server behind an address, as the agent would
  arp-cache-cleaner ready         ask the agent on this node whether it is ready

Flags, each also read from the environment (--scan-period from ARP_CACHE_CLEANER_SCAN_PERIOD):
`,
	"probe": `Asks by broadcast who holds an address, and shows every holder that answers.
An entry of this node's for the address keeps its link-layer address. Needs
CAP_NET_RAW, and CAP_NET_ADMIN where there is such an entry.

Usage:
  arp-cache-cleaner probe ADDRESS [flags]

Exit code: 0 if one holder answers, 3 if none does, 4 if several do.

Flags:
`,
	"check": `Checks the API server behind an address once, as the agent checks the one behind
a VIP, and shows what became of it in one line. For scripts such as keepalived's
vrrp_script. Needs no privilege.

Usage:
  arp-cache-cleaner check ADDRESS[:PORT] [flags]

The port is 6443 by default.

Exit code: 0 if it serves, 1 if not, 2 for bad input.

Flags:
`,
	"ready": `Asks the agent on this node whether it is ready, as kubelet does, and shows what
it answers.

Usage:
  arp-cache-cleaner ready [flags]

Exit code: 0 if it is ready, 1 if not.

Flags, each also read from the environment (--listen-host from ARP_CACHE_CLEANER_LISTEN_HOST):
`,
	"list": `Shows the neighbour table, and what the agent would do with each entry once it
is due. Changes nothing, and needs no privilege.

Usage:
  arp-cache-cleaner list [flags]

Flags, each also read from the environment (--exclude-cidr from ARP_CACHE_CLEANER_EXCLUDE_CIDR):
`,
}

func (f *flags) help(w io.Writer) {
	_, _ = io.WriteString(w, usage[f.o.Command])
	f.VisitAll(func(p *pflag.Flag) {
		name := "--" + p.Name
		if p.Shorthand != "" {
			name = "-" + p.Shorthand + ", " + name
		}
		_, _ = fmt.Fprintf(w, "  %s\n        %s\n        allowed: %s; default: %s\n", name, p.Usage, f.text[p.Name].allowed, f.shown(p))
	})
}

// shown is the default of a flag as documentation shows it.
func (f *flags) shown(p *pflag.Flag) string {
	if s := f.text[p.Name].shown; s != "" {
		return s
	}
	return strings.Trim(p.DefValue, "[]")
}
