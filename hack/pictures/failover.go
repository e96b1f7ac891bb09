package main

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/hack/record"
)

// shown are the cases of bench-vip that are drawn, with what they are called there.
var shown = []struct{ name, says string }{
	{"old holder lost the VIP", "the old holder gave the VIP up"},
	{"old holder forwards for the VIP", "the old holder forwards for it"},
	{"entry kept confirmed by others", "something else confirms the old entry"},
	{"zombie, API process gone", "the old holder still answers, API gone"},
	{"zombie, API frozen", "the old holder still answers, API hangs"},
}

// outage is how long a node was without the VIP, in seconds.
type outage struct {
	seconds float64
	never   bool // longer than the run waited
}

const (
	failoverLeft  = 395.0
	failoverWidth = 415.0
	barHeight     = 15.0
	rowHeight     = 50.0
)

// drawFailover draws for each case the time from the move of the VIP until the node's
// API client is served again, without the agent and with it.
func drawFailover(r *record.Record) (string, error) {
	waited, err := strconv.ParseFloat(value(r, r.Rows[0], "waited"), 64)
	if err != nil {
		return "", err
	}
	x := func(s float64) float64 { return failoverLeft + failoverWidth*s/waited }
	top, bottom := 74.0, 74+rowHeight*float64(len(shown))
	p := newPicture(880, int(bottom)+70, "Seconds until a node is served again after a VIP moved and nothing announced it, without the agent and with it")
	p.text(24, 32, "title", "start", "The VIP moves, and no announcement arrives: how long is a node cut off?")
	for s := 0.0; s <= waited; s += 10 {
		p.line("grid", x(s), top-14, x(s), bottom-4)
		p.text(x(s), bottom+12, "small", "middle", fmt.Sprintf("%.0f s", s))
	}
	p.text(x(0), top-20, "small", "middle", "VIP moves")
	for i, c := range shown {
		y := top + rowHeight*float64(i)
		p.text(24, y+12, "strong", "start", c.says)
		for j, side := range [2]string{"without", "with"} {
			o, err := find(r, c.name, side)
			if err != nil {
				return "", err
			}
			b := y + float64(j)*(barHeight+3)
			end := x(min(o.seconds, waited))
			p.bar("cut", x(0), b, end-x(0), barHeight)
			p.bar("served", end, b, x(waited)-end, barHeight)
			p.text(failoverLeft-8, b+12, "small", "end", map[string]string{"without": "no agent", "with": "agent"}[side])
			says := fmt.Sprintf("%.1f s", o.seconds)
			if o.never {
				says = "never"
			}
			p.text(x(waited)+8, b+12, cmp.Or(map[bool]string{true: "strong"}[side == "with"], "small"), "start", says)
		}
	}
	y := bottom + 34
	p.bar("cut", 24, y-10, 12, 12)
	p.text(42, y, "", "start", "cut off")
	p.bar("served", 110, y-10, 12, 12)
	p.text(128, y, "", "start", "served by the right holder, old connection and new")
	p.text(24, y+21, "small", "start", fmt.Sprintf("IPv4; never: not within %.0f s. %s.", waited, r.Run))
	return p.end(), nil
}

// find returns how long a case lasted.
func find(r *record.Record, name, agent string) (outage, error) {
	for _, row := range r.Rows {
		if value(r, row, "case") == name && value(r, row, "family") == "ipv4" && value(r, row, "agent") == agent {
			return lasted(r, row)
		}
	}
	return outage{}, fmt.Errorf("no case %q, %s the agent", name, agent)
}

// lasted returns how long the case of a row lasted: until new connections and the client
// that was connected before, if there was one, are both served by the new holder.
func lasted(r *record.Record, row []string) (o outage, err error) {
	for _, v := range []string{value(r, row, "connect"), cmp.Or(value(r, row, "tcp"), "0")} {
		if v == "never" {
			v, o.never = value(r, row, "waited"), true
		}
		s, e := strconv.ParseFloat(v, 64)
		o.seconds, err = max(o.seconds, s), errors.Join(err, e)
	}
	return o, err
}

// value returns the cell of a row in the column of that name.
func value(r *record.Record, row []string, column string) string {
	for i, c := range r.Columns {
		if c == column {
			return row[i]
		}
	}
	return ""
}
