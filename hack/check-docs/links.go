package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// links checks each link that leads into the repository.
func (d *documents) links() error {
	var errs []error
	for _, name := range d.names {
		for _, l := range d.pages[name].Links {
			if strings.Contains(l.Target, "://") || strings.HasPrefix(l.Target, "mailto:") {
				continue
			}
			path, anchor, _ := strings.Cut(l.Target, "#")
			to := name
			if path != "" {
				to = filepath.Join(filepath.Dir(name), path)
			}
			if err := d.leads(to, anchor); err != nil {
				errs = append(errs, fmt.Errorf("%s:%d: %s: %w", name, l.Line, l.Target, err))
			}
		}
	}
	return errors.Join(errs...)
}

// leads returns why there is nothing at a path of the repository, or at an anchor there.
func (d *documents) leads(path, anchor string) error {
	d.checked++
	if strings.HasPrefix(path, "..") {
		return errors.New("it leads out of the repository")
	}
	if _, err := os.Stat(filepath.Join(d.root, path)); err != nil {
		return errors.New("there is no such file")
	}
	page := d.pages[path]
	switch {
	case anchor == "":
	case page == nil:
		return errors.New("only documents have anchors")
	case !page.Anchors[anchor]:
		return fmt.Errorf("%s has no anchor %q", path, anchor)
	}
	return nil
}

const repository = "github.com/arp-cache-cleaner/arp-cache-cleaner"

// address is that of a file of the repository on GitHub, on the main branch. Those of
// a release are left to the release: its files are not the present ones.
var address = regexp.MustCompile(`https://` + regexp.QuoteMeta(repository) + `/(?:blob|tree|raw)/main/([\w./-]*\w)(?:#([\w-]+))?`)

// addresses checks each address of the repository on GitHub, in whichever file.
func (d *documents) addresses(files []string) error {
	var errs []error
	for _, name := range files {
		text, err := os.ReadFile(filepath.Join(d.root, name))
		if err != nil {
			return err
		}
		if !strings.Contains(string(text), repository+"/") {
			continue
		}
		n := 0
		for line := range strings.Lines(string(text)) {
			n++
			for _, m := range address.FindAllStringSubmatch(line, -1) {
				if err := d.leads(m[1], m[2]); err != nil {
					errs = append(errs, fmt.Errorf("%s:%d: %s: %w", name, n, m[0], err))
				}
			}
		}
	}
	return errors.Join(errs...)
}

// readmeLines is how long the README may be.
const readmeLines = 150

// shape checks what holds for the README, and for each page of docs/.
func (d *documents) shape() error {
	var errs []error
	fault := func(name, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", name, fmt.Sprintf(format, args...)))
	}
	readme := d.pages["README.md"]
	if readme == nil {
		return errors.New("there is no README.md")
	}
	if readme.Lines > readmeLines {
		fault("README.md", "%d lines are more than %d", readme.Lines, readmeLines)
	}
	linked := map[string]bool{}
	for _, l := range readme.Links {
		path, _, _ := strings.Cut(l.Target, "#")
		linked[path] = true
	}
	for _, name := range d.names {
		if filepath.Dir(name) != "docs" {
			continue
		}
		p := d.pages[name]
		if !strings.HasPrefix(p.Intro, "For ") {
			fault(name, "it does not say first whom it is for (For ...), but %q", p.Intro)
		}
		if !strings.HasPrefix(p.Last, "Next: ") {
			fault(name, "it does not say last where to go next (Next: ...), but %q", p.Last)
		}
		if !linked[name] {
			fault(name, "the README has no link to it")
		}
	}
	return errors.Join(errs...)
}
