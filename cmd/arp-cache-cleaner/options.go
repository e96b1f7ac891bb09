package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/policy"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/vip"
)

const (
	minInterval   = time.Second
	minScanPeriod = 10 * time.Millisecond
	maxScanPeriod = 30 * time.Second
	maxPerEntry   = 10000
)

// options is everything that flags and environment decide.
type options struct {
	Command string // "" for the agent

	Interval   time.Duration
	ScanPeriod time.Duration
	Act        string
	Announce   bool
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

	List  listOptions
	Probe probeOptions
	Check checkOptions
}

// listOptions are those of list, beside Scope and Web.
type listOptions struct {
	Filter policy.Scope // what the command line says of Scope, without the environment
	Watch  bool
}

// probeOptions are those of probe.
type probeOptions struct {
	Address   netip.Addr
	Count     int
	Interval  time.Duration
	Interface string
}

// checkOptions are those of check, beside VIP.Health and VIP.CAFile.
type checkOptions struct {
	Server  netip.AddrPort
	Name    string
	Timeout time.Duration
}

// vipOptions is what decides which VIPs are watched, and how.
type vipOptions struct {
	Auto       bool
	Targets    []vip.Given // those that are named, each once
	Port       uint16
	Interval   time.Duration
	Health     string
	CAFile     string
	OnConflict string
}

// watches reports whether any VIP may be watched.
func (v *vipOptions) watches() bool { return v.Auto || len(v.Targets) > 0 }

// errHelp says that help was asked for and has been printed.
var errHelp = errors.New("help was printed")

// flags binds the flags of a command to o.
type flags struct {
	*pflag.FlagSet
	o       *options
	sources map[string]string // the variables that set flags, by flag

	listenHost string
	vips       []vipValue
}

// newFlags declares the flags of a command.
func newFlags(command string, o *options) *flags {
	f := &flags{FlagSet: pflag.NewFlagSet("arp-cache-cleaner", pflag.ContinueOnError), o: o, sources: map[string]string{}}
	f.SortFlags = false
	f.SetOutput(io.Discard)
	if c, ok := find(command); ok && c.declare != nil {
		c.declare(f)
	}
	return f
}

// add declares a flag. The text of its default, as documentation shows it, can be
// set where there is no literal one.
func (f *flags) add(v *value, name, usage string) *pflag.Flag { return f.VarPF(v, name, "", usage) }

func (f *flags) addSwitch(to *bool, name, usage string) {
	f.add(boolean(to), name, usage).NoOptDefVal = "true"
}

func (f *flags) addOutput() {
	f.VarP(choice(&f.o.Output, "table", "table", "json"), "output", "o", "output format")
}

func (f *flags) addScope() {
	scope := &f.o.Scope
	f.add(choiceOf(&scope.Family, "all", []string{"ipv4", "ipv6", "all"}, []string{"ipv4", "ipv6", ""}), "family", "address family that is renewed")
	f.add(globs(&scope.Interfaces, "a glob such as eth0 or ens*"), "interface", "glob of devices whose entries are renewed; repeatable").DefValue = "every device"
	f.add(globs(&scope.ExcludeInterfaces, "a glob such as cali* or lxc*"), "exclude-interface", "glob of devices whose entries are left alone; repeatable, wins over --interface").DefValue = "none"
	f.add(prefixes(&scope.CIDRs), "cidr", "prefix of addresses whose entries are renewed; repeatable").DefValue = "every address"
	f.add(prefixes(&scope.ExcludeCIDRs), "exclude-cidr", "prefix of addresses whose entries are left alone; repeatable, wins over --cidr").DefValue = "none"
}

func (f *flags) addVIP() {
	v := &f.o.VIP
	f.add(vips(&f.vips), "vip", "control-plane address that is watched and repaired within seconds, with its TCP port where that is not --vip-port; auto: those this node has connections to on --vip-port; repeatable")
	f.addPort()
	f.add(duration(&v.Interval, "2s", time.Second, time.Minute, "a duration from 1s to 1m"), "vip-interval", "how often a VIP is looked at")
	f.add(choice(&v.Health, "https", "https", "tcp", "none"), "vip-health", "how the server behind a VIP is checked once it is suspect; https: GET /livez; tcp: a connection, for VIPs that are no API server; none: not at all")
	f.addCAFile()
	f.add(choice(&v.OnConflict, "verified", "verified", "healthy", "report"), "vip-on-conflict", "which other holder of a VIP is followed when the present one does not serve; verified: one that serves, with a certificate that --vip-ca-file confirms; healthy: any that serves; report: none")
}

func (f *flags) addPort() {
	f.add(number(&f.o.VIP.Port, "6443", 1, 65535), "vip-port", "TCP port of the API server")
}

func (f *flags) addCAFile() {
	f.add(text(&f.o.VIP.CAFile, "a file of PEM certificates"), "vip-ca-file", "PEM file of the CA that the server's certificate has to lead to").DefValue = "no certificate is verified"
}

func (f *flags) addWeb() {
	f.addWebAddress()
	f.addListenHost()
}

func (f *flags) addWebAddress() {
	f.add(listenAddresses(&f.o.Web, ":10330"), "web.listen-address", "address of the status page and of /metrics; repeatable")
}

func (f *flags) addHealth() {
	f.add(listenAddresses(&f.o.Health, ":10331"), "health.listen-address", "address of /healthz and /readyz; repeatable")
	f.addListenHost()
}

func (f *flags) addListenHost() {
	f.add(listenHost(&f.listenHost), "listen-host", "address that listen addresses without a host, such as :10330, are on; in a pod, the node's").DefValue = "every address of the node"
}

// addAgent declares the flags of the agent, in the order of the documentation.
func (f *flags) addAgent() {
	o := f.o
	f.add(duration(&o.Interval, "300s", minInterval, math.MaxInt64, "a duration of 1s or more, such as 300s or 5m"), "interval", "no age of a learned entry is to exceed this")
	f.add(duration(&o.ScanPeriod, "", minScanPeriod, maxScanPeriod, "a duration from 10ms to 30s, and a tenth of --interval at most"), "scan-period", "how often the table is read; half as often while nothing is about to be verified").DefValue = "interval/15, 30s at most"
	f.add(choice(&o.Act, "always", "always", "vsphere", "never"), "act", "whether entries are renewed; vsphere: only on VMware virtual machines, by their DMI strings or PCI devices; never: dry run")
	f.add(choiceOf(&o.Announce, "never", []string{"never", "start"}, []bool{false, true}), "announce", "whether the node's own addresses are announced (gratuitous ARP, unsolicited Neighbor Advertisement) when the agent starts, for gateways and hosts that know a rebuilt node by its old link-layer address; start: each once, unless another host answers for it; VIPs are left to what moves them")
	f.addSwitch(&o.Once, "once", "renew everything eligible now, print a summary and exit")
	f.addScope()
	f.addVIP()
	f.add(number(&o.PerEntry, "0", 0, maxPerEntry), "metrics-per-entry", "entries, beside next hops, whose ages are exported one by one")
	f.addWebAddress()
	f.add(text(&o.WebConfig, "a web configuration file of the Prometheus exporter toolkit"), "web.config.file", "TLS, client certificates and passwords for --web.listen-address").DefValue = "none: plain HTTP"
	f.addHealth()
	f.add(choiceOf(&o.Log.Level, "info", []string{"debug", "info", "warn", "error"},
		[]slog.Leveler{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError}), "log-level", "least severe level that is logged")
	f.add(choice(&o.LogFormat, "text", "text", "json"), "log-format", "log format")
	f.addSwitch(&o.Version, "version", "print the version and exit")
}

func (f *flags) addList() {
	f.addScope()
	f.addOutput()
	f.addSwitch(&f.o.List.Watch, "watch", "show the table again every 2 seconds, until interrupted")
	f.addWeb()
}

func (f *flags) addProbe() {
	o := f.o
	f.add(number(&o.Probe.Count, "3", 1, 1000), "count", "how often to ask")
	f.add(duration(&o.Probe.Interval, "1s", 500*time.Millisecond, time.Minute, "a duration from 500ms to 1m"), "interval", "time between two requests; answers are collected for half a second")
	f.add(text(&o.Probe.Interface, "the name of a device"), "interface", "device to ask on").DefValue = "the one that the route to the address uses"
	f.addOutput()
}

func (f *flags) addCheck() {
	o := f.o
	f.add(choice(&o.VIP.Health, "https", "https", "tcp"), "vip-health", "how the server is checked; https: GET /livez; tcp: a connection, for servers that are no API server")
	f.addPort()
	f.addCAFile()
	f.add(hostName(&o.Check.Name), "name", "name that the server's certificate may be for, beside the address and kubernetes.default.svc").DefValue = "none"
	f.add(duration(&o.Check.Timeout, "4s", 100*time.Millisecond, time.Minute, "a duration from 100ms to 1m"), "timeout", "time for the whole check, of which half is for the connection and the TLS handshake")
}

// parse reads the command line, then the environment for flags that it leaves
// open. It prints help to stdout where asked. An error is one line that names
// the flag or variable, the value and what is allowed.
func parse(args []string, env func(string) (string, bool), stdout io.Writer) (*options, error) {
	o := &options{}
	if named(args) {
		o.Command, args = args[0], args[1:]
	}
	if o.Command == "help" {
		o.Command = ""
		if named(args) {
			o.Command = args[0]
		}
		args = []string{"--help"}
	}
	c, ok := find(o.Command)
	if !ok {
		return nil, unknownCommand(o.Command)
	}
	f := newFlags(o.Command, o)
	err := f.Parse(args)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		f.help(stdout, &c)
		return nil, errHelp
	case err != nil:
		return nil, f.explain(err)
	case c.argument == nil && f.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q: want flags only", f.Arg(0))
	}
	if o.Command == "list" {
		o.List.Filter = o.Scope
	}
	if err := f.environment(env, &c); err != nil {
		return nil, err
	}
	if c.argument != nil {
		return o, f.address(&c)
	}
	return o, f.complete()
}

// named reports whether arguments begin with a name, not a flag.
func named(args []string) bool { return len(args) > 0 && !strings.HasPrefix(args[0], "-") }

// explain says what is allowed, or what may have been meant, where pflag only says
// what is wrong.
func (f *flags) explain(err error) error {
	var invalid *pflag.InvalidValueError
	var text refusal
	if errors.As(err, &invalid) && errors.As(err, &text) {
		return f.refuse(invalid.GetFlag().Name, string(text))
	}
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() == "" {
		var names []string
		f.VisitAll(func(p *pflag.Flag) { names = append(names, p.Name) })
		if meant := nearest(unknown.GetSpecifiedName(), names); meant != "" {
			return fmt.Errorf("%w: did you mean --%s? see --help", err, meant)
		}
	}
	return fmt.Errorf("%w; see --help", err)
}

// refuse says that a flag, or the variable that set it, cannot have that value.
func (f *flags) refuse(name, text string) error {
	source, ok := f.sources[name]
	if !ok {
		source = "--" + name
	}
	return fmt.Errorf("%s: %q: want %s", source, text, allowed(f.Lookup(name)))
}

// allowed is what a flag allows.
func allowed(p *pflag.Flag) string {
	if v, ok := p.Value.(*value); ok {
		return v.want
	}
	return ""
}

// complete fills in the options that depend on several flags.
func (f *flags) complete() error {
	o := f.o
	// It is done here because $(HOST_IP):10330, in a manifest, is no address where
	// HOST_IP is an IPv6 one.
	for _, addresses := range [][]string{o.Web, o.Health} {
		for i, a := range addresses {
			if host, port, err := net.SplitHostPort(a); err == nil && host == "" {
				addresses[i] = net.JoinHostPort(f.listenHost, port)
			}
		}
	}
	for _, v := range f.vips {
		v.target.Port = cmp.Or(v.target.Port, o.VIP.Port)
		switch {
		case v.auto:
			o.VIP.Auto = true
		case v.none && len(f.vips) > 1:
			return f.refuse("vip", "none")
		case !v.none && !slices.Contains(o.VIP.Targets, v.target):
			o.VIP.Targets = append(o.VIP.Targets, v.target)
		}
	}
	if o.Command != "" {
		return nil
	}
	if !f.Changed("scan-period") {
		o.ScanPeriod = min(o.Interval/15, maxScanPeriod)
	}
	if o.ScanPeriod > o.Interval/10 {
		return f.refuse("scan-period", o.ScanPeriod.String())
	}
	return nil
}

// address takes the one argument of a command that has one.
func (f *flags) address(c *command) error {
	if f.NArg() != 1 {
		return fmt.Errorf("%s: %d addresses: want one", c.name, f.NArg())
	}
	if err := c.argument(f.o, f.Arg(0)); err != nil {
		return fmt.Errorf("%s: %q: want %w", c.name, f.Arg(0), err)
	}
	return nil
}

// probeAddress takes the address of probe. The error says what is wanted.
func probeAddress(o *options, s string) error {
	s, _, zone := strings.Cut(s, "%") // netip knows no zones of IPv4 addresses
	addr, err := netip.ParseAddr(s)
	a := addr.Unmap()
	switch {
	case err != nil || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback():
		return errors.New("the IPv4 or IPv6 address of a neighbour")
	case zone:
		return errors.New("an address without a zone: --interface names the device")
	}
	o.Probe.Address = a
	return nil
}

// checkAddress takes the address of check. The error says what is wanted.
func checkAddress(o *options, s string) error {
	host, port, ok := splitPort(s)
	addr, err := netip.ParseAddr(host)
	if !ok || err != nil || addr.IsUnspecified() || addr.IsMulticast() {
		return errors.New("ADDRESS, IPv4:PORT or [IPv6]:PORT")
	}
	o.Check.Server = netip.AddrPortFrom(addr.Unmap(), cmp.Or(port, o.VIP.Port))
	return nil
}
