package main

import (
	"fmt"
	"html"
	"strings"
)

// picture is an SVG that is being drawn. It has its own background, and colours for
// light and dark pages.
type picture struct {
	strings.Builder
}

const style = `<style>
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-size: 15px; font-weight: 600 }
.small { font-size: 11px; fill: #57606a }
.strong { font-weight: 600 }
.page { fill: #ffffff; stroke: #d0d7de }
.grid { stroke: #d8dee4 }
.bound { stroke: #cf222e; stroke-dasharray: 6 4; stroke-width: 1.5 }
.cut { fill: #cf222e }
.served { fill: #54aeff }
.line { fill: none; stroke-width: 1.6; stroke-linejoin: round }
.c0 { stroke: #0969da } .c1 { stroke: #8250df } .c2 { stroke: #bf8700 } .c3 { stroke: #6e7781 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.small { fill: #9198a1 }
.page { fill: #0d1117; stroke: #30363d }
.grid { stroke: #30363d }
.bound { stroke: #ff7b72 }
.cut { fill: #da3633 }
.served { fill: #1f6feb }
.c0 { stroke: #58a6ff } .c1 { stroke: #bc8cff } .c2 { stroke: #e3b341 } .c3 { stroke: #9198a1 }
}
</style>
`

// newPicture begins a picture. The title is what is read out instead of it.
func newPicture(width, height int, title string) *picture {
	p := &picture{}
	fmt.Fprintf(p, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img">`+"\n",
		width, height, width, height)
	fmt.Fprintf(p, "<title>%s</title>\n%s", html.EscapeString(title), style)
	fmt.Fprintf(p, `<rect class="page" x="0.5" y="0.5" width="%d" height="%d" rx="6"/>`+"\n", width-1, height-1)
	return p
}

func (p *picture) end() string {
	p.WriteString("</svg>\n")
	return p.String()
}

// text writes a line; anchor is start, middle or end.
func (p *picture) text(x, y float64, class, anchor, s string) {
	fmt.Fprintf(p, `<text class="%s" x="%.4g" y="%.4g" text-anchor="%s">%s</text>`+"\n", class, x, y, anchor, html.EscapeString(s))
}

func (p *picture) line(class string, x1, y1, x2, y2 float64) {
	fmt.Fprintf(p, `<path class="%s" d="M%.4g %.4gL%.4g %.4g"/>`+"\n", class, x1, y1, x2, y2)
}

func (p *picture) bar(class string, x, y, width, height float64) {
	fmt.Fprintf(p, `<rect class="%s" x="%.4g" y="%.4g" width="%.4g" height="%.4g"/>`+"\n", class, x, y, width, height)
}

// point is one of a curve; a curve is broken where there is a gap.
type point struct {
	x, y float64
	gap  bool
}

func (p *picture) curve(class string, points []point) {
	var d strings.Builder
	pen := "M"
	for _, q := range points {
		if q.gap {
			pen = "M"
			continue
		}
		fmt.Fprintf(&d, "%s%.4g %.4g", pen, q.x, q.y)
		pen = "L"
	}
	fmt.Fprintf(p, `<path class="line %s" d="%s"/>`+"\n", class, d.String())
}
