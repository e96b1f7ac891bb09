package vip

import (
	"context"
	"errors"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/shield"
)

// line is a Line that is opened when it is needed, and again when it has failed.
type line struct {
	watch *watch
	Line
}

// open reports whether there is a line.
func (l *line) open() bool {
	if l.Line != nil {
		return true
	}
	v := l.watch
	opened, err := v.cfg.Dial(v.key())
	switch {
	case err == nil:
		l.Line = opened
		return true
	case errors.Is(err, neigh.ErrPermission):
		v.said.do("permission", func() {
			v.cfg.Log.Warn("CAP_NET_RAW is missing: the holders of VIPs cannot be asked, and a move is noticed by their connections alone")
		})
	case errors.Is(err, neigh.ErrUnsupported):
		v.said.do(v.target.String()+" "+v.way.Link.Name, func() {
			v.log.Warn("nobody can be asked on this device: the VIP is judged by its connections alone", "device", v.way.Link.Name, "err", err)
		})
	default:
		l.failed(err)
	}
	return false
}

// ask sends one request, and collects answers for window, or until enough says so
// of one.
func (l *line) ask(ctx context.Context, h neigh.LLAddr, window time.Duration, enough func(shield.Reply) bool) error {
	if !l.open() {
		return neigh.ErrUnsupported
	}
	v := l.watch
	if err := v.cfg.Pace(ctx, v.way.Link.Index); err != nil {
		return err
	}
	err := l.Ask(ctx, h, window, func(r shield.Reply) bool {
		v.cfg.Hooks.Answered(r.RTT)
		return enough(r)
	})
	if err != nil && ctx.Err() == nil {
		l.failed(err)
	}
	return err
}

// failed notes that nobody could be asked: the device may have gone.
func (l *line) failed(err error) {
	l.watch.log.Debug("asking for the VIP", "err", err)
	l.watch.way.at = time.Time{}
	l.close()
}

// heard receives when somebody has announced the VIP.
func (l *line) heard() <-chan struct{} {
	if l.Line == nil {
		return nil
	}
	return l.Heard()
}

func (l *line) close() {
	if l.Line != nil {
		_ = l.Close()
		l.Line = nil
	}
}
