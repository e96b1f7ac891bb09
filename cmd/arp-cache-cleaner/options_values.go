package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/vip"
)

// value is what a flag is bound to. Its Set refuses what is not allowed, and takes
// what is: no second look is needed.
type value struct {
	set  func(text string) error
	text string // as it was last set
	want string // what is allowed: completes "want ..."
}

// Set implements pflag.Value.
func (v *value) Set(text string) error {
	if err := v.set(text); err != nil {
		return refused(text, err)
	}
	v.text = text
	return nil
}

// String implements pflag.Value.
func (v *value) String() string { return v.text }

// Type implements pflag.Value.
func (*value) Type() string { return "string" }

// refusal is a text that is not allowed: the one that was given, an element of it, or
// what was understood.
type refusal string

func (r refusal) Error() string { return fmt.Sprintf("%q is not allowed", string(r)) }

// refused makes whatever is wrong with a text a refusal.
func refused(text string, err error) error {
	if r := refusal(""); errors.As(err, &r) {
		return r
	}
	return refusal(text)
}

// newSingle binds a flag with one value to a variable. def is the default; with "" the
// variable stays as it is.
func newSingle[T any](to *T, def, want string, parse func(string) (T, error)) *value {
	v := &value{want: want, set: func(text string) error {
		parsed, err := parse(text)
		if err == nil {
			*to = parsed
		}
		return err
	}}
	if def != "" {
		_ = v.Set(def)
	}
	return v
}

// newList binds a flag to a variable that may be repeated, and whose values may have
// commas between them. def is the default, which the first value replaces; with "" it
// is empty. An empty list is refused: of interfaces or prefixes it would mean all of them.
func newList[T any](to *[]T, def, want string, parse func(string) (T, error)) *value {
	given := false
	v := &value{want: want, set: func(text string) error {
		elements, err := split(text)
		if err != nil {
			return err
		}
		if !given {
			*to, given = nil, true
		}
		for _, e := range elements {
			parsed, err := parse(e)
			if err != nil {
				return refused(e, err)
			}
			*to = append(*to, parsed)
		}
		return nil
	}}
	if def != "" {
		_ = v.Set(def)
		given = false
	}
	return v
}

// split returns the elements of a list, which is one line of CSV.
func split(text string) ([]string, error) {
	r := csv.NewReader(strings.NewReader(strings.TrimSpace(text)))
	r.TrimLeadingSpace = true
	elements, err := r.Read()
	if err != nil {
		return nil, err
	}
	if _, err := r.Read(); !errors.Is(err, io.EOF) {
		return nil, refusal(text)
	}
	for i, e := range elements {
		elements[i] = strings.TrimSpace(e)
	}
	return elements, nil
}

// choice is one of a few names.
func choice(to *string, def string, names ...string) *value {
	return choiceOf(to, def, names, names)
}

// choiceOf is one of a few names, each of which stands for a value.
func choiceOf[T any](to *T, def string, names []string, values []T) *value {
	last := len(names) - 1
	return newSingle(to, def, strings.Join(names[:last], ", ")+" or "+names[last], func(s string) (v T, err error) {
		i := slices.Index(names, s)
		if i < 0 {
			return v, refusal(s)
		}
		return values[i], nil
	})
}

func boolean(to *bool) *value { return newSingle(to, "false", "true or false", strconv.ParseBool) }

// duration is from lo to hi.
func duration(to *time.Duration, def string, lo, hi time.Duration, want string) *value {
	return newSingle(to, def, want, func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		if err == nil && (d < lo || d > hi) {
			err = refusal(d.String())
		}
		return d, err
	})
}

// number is from lo to hi.
func number[T int | uint16](to *T, def string, lo, hi T) *value {
	return newSingle(to, def, fmt.Sprintf("a number from %d to %d", lo, hi), func(s string) (T, error) {
		n, err := strconv.ParseInt(s, 0, 64)
		if err == nil && (n < int64(lo) || n > int64(hi)) {
			err = refusal(s)
		}
		return T(n), err
	})
}

// text is anything.
func text(to *string, want string) *value {
	return newSingle(to, "", want, func(s string) (string, error) { return s, nil })
}

// globs match names of devices.
func globs(to *[]string, want string) *value {
	return newList(to, "", want, func(s string) (string, error) {
		if _, err := path.Match(s, ""); err != nil || s == "" {
			return "", refusal(s)
		}
		return s, nil
	})
}

// prefixes of addresses, without the bits behind them.
func prefixes(to *[]netip.Prefix) *value {
	return newList(to, "", "a prefix such as 10.0.0.0/8 or 2001:db8::/32", func(s string) (netip.Prefix, error) {
		p, err := netip.ParsePrefix(s)
		if err == nil && p.Addr().Is4In6() { // the table knows no mapped addresses: it would match nothing
			err = refusal(s)
		}
		return p.Masked(), err
	})
}

// listenHost is an address, or "" for every address.
func listenHost(to *string) *value {
	return newSingle(to, "", "an IPv4 or IPv6 address", func(s string) (string, error) {
		if s == "" {
			return s, nil
		}
		_, err := netip.ParseAddr(s)
		return s, err
	})
}

// listenAddresses have a port, and may have a host.
func listenAddresses(to *[]string, def string) *value {
	return newList(to, def, "host:port, :port or [ipv6]:port", func(s string) (string, error) {
		_, port, err := net.SplitHostPort(s)
		if err == nil {
			_, err = strconv.ParseUint(port, 10, 16)
		}
		return s, err
	})
}

// hostName is a name that may be in a certificate.
func hostName(to *string) *value {
	return newSingle(to, "", "a DNS name", func(s string) (string, error) {
		if !dnsName.MatchString(s) {
			return "", refusal(s)
		}
		return s, nil
	})
}

// vipValue is one value of --vip: auto, none, or else a target, whose port is 0
// where it is to be --vip-port.
type vipValue struct {
	auto, none bool
	target     vip.Given
}

func vips(to *[]vipValue) *value {
	return newList(to, "auto", "auto, ADDRESS, IPv4:PORT, [IPv6]:PORT, NAME, NAME:PORT, or none alone", parseVIP)
}

func parseVIP(s string) (vipValue, error) {
	if s == "auto" || s == "none" {
		return vipValue{auto: s == "auto", none: s == "none"}, nil
	}
	host, port, ok := splitPort(s)
	addr, err := netip.ParseAddr(host)
	addr = addr.Unmap()
	switch {
	case !ok || host == "auto" || host == "none":
	case err == nil && addr.IsGlobalUnicast() && addr.Zone() == "":
		return vipValue{target: vip.Given{Addr: addr, Port: port}}, nil
	case err != nil && dnsName.MatchString(host):
		return vipValue{target: vip.Given{Name: host, Port: port}}, nil
	}
	return vipValue{}, refusal(s)
}

// splitPort takes a port off the end of an address or a name. An IPv6 address
// that has one is in brackets. Without a port it is 0.
func splitPort(s string) (host string, port uint16, ok bool) {
	if _, err := netip.ParseAddr(s); err == nil || !strings.Contains(s, ":") {
		return s, 0, true
	}
	host, text, err := net.SplitHostPort(s)
	n, err2 := strconv.ParseUint(text, 10, 16)
	if err != nil || err2 != nil || n == 0 || strings.Contains(host, ":") != strings.HasPrefix(s, "[") {
		return "", 0, false
	}
	return host, uint16(n), true
}

// dnsName matches host names (RFC 1123 section 2.1) with a letter in the last
// label, so that a mistyped address is none.
var dnsName = regexp.MustCompile(`^([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.)*[a-zA-Z]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.?$`)
