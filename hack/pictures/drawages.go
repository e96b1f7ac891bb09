package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/hack/record"
)

// bound is what --interval is by default, in seconds.
const bound = 300

// panel is where one node's entries are drawn.
type panel struct{ left, top, width, height, seconds, most float64 }

func (a panel) x(seconds float64) float64 { return a.left + a.width*seconds/a.seconds }
func (a panel) y(age float64) float64     { return a.top + a.height*(1-age/a.most) }

// drawAges draws the two nodes of measureAges side by side.
func drawAges(r *record.Record) (string, error) {
	times, err := column(r, 0)
	if err != nil {
		return "", err
	}
	length := times[len(times)-1]
	p := newPicture(880, 340, "Ages of the entries of two neighbour tables over ten minutes, and the bound of 300 seconds")
	var uses []string
	for i, side := range sides {
		a := panel{left: 60 + 430*float64(i), top: 50, width: 366, height: 210, seconds: length, most: length}
		a.axes(p, side)
		for c, name := range r.Columns {
			rest, mine := strings.CutPrefix(name, side+": ")
			if !mine {
				continue
			}
			use, _, _ := cutLast(rest)
			if !slices.Contains(uses, use) {
				uses = append(uses, use)
			}
			ages, err := column(r, c)
			if err != nil {
				return "", err
			}
			points := make([]point, len(ages))
			for i, age := range ages {
				points[i] = point{a.x(times[i]), a.y(age), age < 0}
			}
			p.curve(fmt.Sprintf("c%d", slices.Index(uses, use)), points)
		}
		p.line("bound", a.left, a.y(bound), a.left+a.width, a.y(bound))
	}
	x := 60.0
	for i, use := range uses {
		p.line(fmt.Sprintf("line c%d", i), x, 305, x+20, 305)
		p.text(x+26, 309, "", "start", legend[use])
		x += 50 + 7*float64(len(legend[use]))
	}
	p.line("bound", x, 305, x+20, 305)
	p.text(x+26, 309, "", "start", fmt.Sprintf("%d s", bound))
	p.text(60, 329, "small", "start", "The greatest of each entry's three ages in ip -statistics neighbour. "+r.Run+".")
	return p.end(), nil
}

var legend = map[string]string{"TCP": "steady TCP", "UDP": "steady UDP", "next hop": "idle next hop", "idle": "used once"}

// axes draws a panel without its curves.
func (a panel) axes(p *picture, title string) {
	p.text(a.left+a.width/2, a.top-20, "title", "middle", title)
	for s := 0.0; s <= a.most; s += bound / 3 {
		p.line("grid", a.left, a.y(s), a.left+a.width, a.y(s))
		p.text(a.left-6, a.y(s)+4, "small", "end", fmt.Sprintf("%.0f s", s))
	}
	for m := 0.0; m*60 <= a.seconds; m += 2 {
		p.text(a.x(m*60), a.top+a.height+16, "small", "middle", fmt.Sprintf("%.0f min", m))
	}
}

// column reads the numbers of a column; -1 where there is none.
func column(r *record.Record, c int) ([]float64, error) {
	var all []float64
	for _, row := range r.Rows {
		n := -1.0
		if row[c] != "" {
			var err error
			if n, err = strconv.ParseFloat(row[c], 64); err != nil {
				return nil, err
			}
		}
		all = append(all, n)
	}
	return all, nil
}

// cutLast cuts a text at its last space.
func cutLast(s string) (before, after string, found bool) {
	if i := strings.LastIndexByte(s, ' '); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}
