package status

import (
	"fmt"
	"html/template"
	"io"
	"strings"
	"sync"
	"text/tabwriter"
	"unicode"
)

// page is parsed when it is first asked for: most agents never are. It has no script
// and loads nothing, and can be read without its style.
var page = sync.OnceValues(func() (*template.Template, error) {
	return template.New("page").Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta name="color-scheme" content="light dark"/>
<title>{{.Title}}</title>
<style>
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 56rem; margin: 0 auto; padding: 1rem; color: #1b1f24; background: #fff }
h1 { font-size: 1.5rem; overflow-wrap: anywhere }
h2 { font-size: 1.1rem; margin: 1.5rem 0 .25rem; overflow-wrap: anywhere }
p { margin: .25rem 0 }
div { overflow-x: auto }
table { border-collapse: collapse; min-width: 100% }
th, td { text-align: left; vertical-align: top; padding: .2rem 1rem .2rem 0; border-bottom: 1px solid #d0d7de; font-weight: normal }
th { color: #59636e }
div td { white-space: nowrap }
.facts th { width: 11rem }
.facts td { overflow-wrap: anywhere }
.bad { color: #b42318; font-weight: bold }
.good { color: #1a7f37 }
a { color: #0969da }
@media (prefers-color-scheme: dark) {
body { color: #e6edf3; background: #0d1117 }
th, td { border-color: #3d444d }
th { color: #9198a1 }
.bad { color: #ff8e86 }
.good { color: #4ac26b }
a { color: #6cb6ff }
}
@media (max-width: 40rem) {
th, td { padding-right: .6rem }
.facts th { width: 7rem }
}
</style>
</head>
<body>
<h1>{{.Title}}</h1>
{{range .Troubles}}<p class="bad">{{.}}</p>
{{else}}<p class="good">No trouble is known.</p>
{{end -}}
{{range .Sections}}<h2>{{.Title}}</h2>
{{if .Rows}}{{if .Head}}<div><table>
<tr>{{range .Head}}<th>{{.}}</th>{{end}}</tr>
{{range .Rows}}<tr>{{range .}}{{template "cell" .}}{{end}}</tr>
{{end}}</table></div>
{{else}}<table class="facts">
{{range .Rows}}<tr><th>{{(index . 0).Text}}</th>{{template "cell" index . 1}}</tr>
{{end}}</table>
{{end}}{{else}}<p>{{.None}}</p>
{{end}}{{end -}}
</body>
</html>
{{define "cell"}}<td{{if .Bad}} class="bad"{{end}}>{{if .Link}}<a href="{{.Link}}" rel="noreferrer">{{.Text}}</a>{{else}}{{.Text}}{{end}}</td>{{end}}`)
})

// HTML writes the page for browsers. Everything in it is escaped.
func (p *Page) HTML(w io.Writer) error {
	t, err := page()
	if err != nil {
		return err
	}
	return t.Execute(w, struct {
		Title    string
		Troubles []string
		Sections []section
	}{p.title(), p.troubles(), p.sections()})
}

// Text writes the page for terminals. What a terminal could take for a command, in
// a name that somebody else has given, is replaced.
func (p *Page) Text(w io.Writer) error {
	var b strings.Builder
	_, _ = fmt.Fprintln(&b, printable(p.title()))
	troubles := p.troubles()
	for _, t := range troubles {
		_, _ = fmt.Fprintln(&b, printable(t))
	}
	if len(troubles) == 0 {
		_, _ = fmt.Fprintln(&b, "No trouble is known.")
	}
	for _, s := range p.sections() {
		_, _ = fmt.Fprintf(&b, "\n%s\n", printable(s.Title))
		if len(s.Rows) == 0 {
			_, _ = fmt.Fprintf(&b, "  %s\n", s.None)
			continue
		}
		table(&b, &s)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// table writes the rows of a section, in columns.
func table(b *strings.Builder, s *section) {
	var rows strings.Builder
	tw := tabwriter.NewWriter(&rows, 0, 0, 2, ' ', 0)
	if s.Head != nil {
		_, _ = fmt.Fprintf(tw, "  %s\n", strings.ToUpper(strings.Join(s.Head, "\t")))
	}
	for _, row := range s.Rows {
		texts := make([]string, len(row))
		for i, c := range row {
			texts[i] = printable(c.Text)
		}
		_, _ = fmt.Fprintf(tw, "  %s\n", strings.Join(texts, "\t"))
	}
	_ = tw.Flush()
	for line := range strings.Lines(rows.String()) {
		_, _ = fmt.Fprintln(b, strings.TrimRight(line, " \n"))
	}
}

// printable replaces what does not print.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}
