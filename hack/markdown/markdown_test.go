package markdown

import (
	"slices"
	"testing"
)

func TestSlug(t *testing.T) {
	for heading, want := range map[string]string{
		"Never a burst":                  "never-a-burst",
		"A pass, a scan, a scrape":       "a-pass-a-scan-a-scrape",
		"`list` and `probe`":             "list-and-probe",
		"A mirror, or an image of 1 own": "a-mirror-or-an-image-of-1-own",
		"\"no route to host\" (IPv4)":    "no-route-to-host-ipv4",
		"[chart](deploy/chart)":          "chart",
		"gc_thresh3 – what":              "gc_thresh3--what",
		"ArpCacheCleanerVIPUnhealthy":    "arpcachecleanervipunhealthy",
	} {
		if got := Slug(heading); got != want {
			t.Errorf("%q: %q, want %q", heading, got, want)
		}
	}
}

func TestParse(t *testing.T) {
	p := Parse("# Title\n\nFor a, [b](c.md#d)\nand ![e](f.png \"g\") [![h](i.svg)](j).\n\n" +
		"```sh run\n# no heading\n[no](link)\n```\n\n  ```\n  x\n  ```\n<a id=\"k\"></a>\n[l]: m.md\n\n## Title\n\n`[no](link)` Next: n\nand o\n")
	var links []string
	for _, l := range p.Links {
		links = append(links, l.Target)
	}
	if want := []string{"c.md#d", "f.png", "i.svg", "j", "m.md"}; !slices.Equal(links, want) {
		t.Errorf("links %q, want %q", links, want)
	}
	if p.Title != "Title" || p.Intro != "For a, [b](c.md#d)" || p.Last != "`[no](link)` Next: n" || p.Lines != 20 {
		t.Errorf("%+v", p)
	}
	if len(p.Anchors) != 3 || !p.Anchors["title"] || !p.Anchors["title-1"] || !p.Anchors["k"] {
		t.Errorf("anchors %v", p.Anchors)
	}
	want := []Block{{6, "sh run", "# no heading\n[no](link)\n"}, {11, "", "  x\n"}}
	if !slices.Equal(p.Blocks, want) {
		t.Errorf("blocks %v, want %v", p.Blocks, want)
	}
}

func TestSplice(t *testing.T) {
	got, err := Splice("a\n<!-- s: generated -->\nold\n<!-- /s -->\nb\n", "s", "new\n")
	if want := "a\n<!-- s: generated -->\nnew\n<!-- /s -->\nb\n"; err != nil || got != want {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := Splice("a\n<!-- s: generated -->\nold\n", "s", ""); err == nil {
		t.Error("a section without an end is accepted")
	}
}
