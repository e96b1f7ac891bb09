// Package markdown reads as much of GitHub's Markdown as it takes to check the
// documents, and replaces the sections of them that are generated.
package markdown

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"
)

// Splice returns a text in which content stands between the marks
// <!-- SECTION: generated --> and <!-- /SECTION -->, each on a line of its own.
func Splice(text, section, content string) (string, error) {
	begin, end := "<!-- "+section+": generated -->\n", "<!-- /"+section+" -->"
	head, rest, found := strings.Cut(text, begin)
	_, tail, closed := strings.Cut(rest, end)
	if !found || !closed {
		return "", fmt.Errorf("there is no section %q", section)
	}
	return head + begin + content + end + tail, nil
}

// Page is what a document has.
type Page struct {
	Title   string // the first heading
	Intro   string // the first line below it that is not empty
	Last    string // the first line of the last paragraph
	Lines   int
	Anchors map[string]bool // of headings, as GitHub makes them, and of HTML
	Links   []Link
	Blocks  []Block

	within bool // a paragraph
}

// Link is a link or a picture.
type Link struct {
	Line   int // from 1
	Target string
}

// Block is a fenced block of code.
type Block struct {
	Line int    // of the opening fence, from 1
	Info string // what stands behind the fence, such as "sh run"
	Text string
}

var (
	fence     = regexp.MustCompile("^ *(```+|~~~+)(.*)$")
	heading   = regexp.MustCompile(`^#{1,6} +(.*?) *#*$`)
	code      = regexp.MustCompile("``.*?``|`[^`]*`")
	inline    = regexp.MustCompile(`\]\(<?([^)\s>]+)>?(?: +"[^"]*")?\)`)
	reference = regexp.MustCompile(`^ *\[[^\]]+\]: *(\S+)`)
	attribute = regexp.MustCompile(`(?:href|src|srcset)="([^"]+)"`)
	named     = regexp.MustCompile(`(?:id|name)="([^"]+)"`)
	linked    = regexp.MustCompile(`!?\[([^\]]*)\]\([^)]*\)`)
)

// Parse reads a document.
func Parse(text string) *Page {
	p := &Page{Anchors: map[string]bool{}}
	closing := "" // of the block that is open
	for line := range strings.Lines(text) {
		p.Lines++
		line = strings.TrimRight(line, "\r\n")
		if m := fence.FindStringSubmatch(line); m != nil && closing == "" {
			closing, p.within = m[1], false
			p.Blocks = append(p.Blocks, Block{Line: p.Lines, Info: strings.TrimSpace(m[2])})
			continue
		}
		if closing != "" {
			if strings.TrimSpace(line) == closing {
				closing = ""
			} else {
				p.Blocks[len(p.Blocks)-1].Text += line + "\n"
			}
			continue
		}
		p.prose(line)
	}
	return p
}

// prose reads a line that is not code.
func (p *Page) prose(line string) {
	if strings.TrimSpace(line) == "" {
		p.within = false
		return
	}
	if m := heading.FindStringSubmatch(line); m != nil {
		if p.Title == "" {
			p.Title = m[1]
		}
		p.anchor(Slug(m[1]))
	} else if p.Title != "" && p.Intro == "" {
		p.Intro = line
	}
	if !p.within {
		p.Last, p.within = line, true
	}
	line = code.ReplaceAllString(line, "")
	for _, pattern := range []*regexp.Regexp{inline, reference, attribute} {
		for _, m := range pattern.FindAllStringSubmatch(line, -1) {
			p.Links = append(p.Links, Link{p.Lines, m[1]})
		}
	}
	for _, m := range named.FindAllStringSubmatch(line, -1) {
		p.Anchors[m[1]] = true
	}
}

// anchor adds that of a heading; one that is there already is numbered.
func (p *Page) anchor(slug string) {
	name := slug
	for n := 1; p.Anchors[name]; n++ {
		name = fmt.Sprintf("%s-%d", slug, n)
	}
	p.Anchors[name] = true
}

// Slug returns the anchor that GitHub gives a heading.
func Slug(heading string) string {
	heading = linked.ReplaceAllString(heading, "$1")
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.Is(unicode.M, r):
			return unicode.ToLower(r)
		}
		return -1
	}, strings.TrimSpace(heading))
}
