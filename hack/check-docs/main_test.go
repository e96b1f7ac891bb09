package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/hack/markdown"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// repo is a repository of these files.
func repo(t *testing.T, files map[string]string) (*documents, []string) {
	t.Helper()
	root := t.TempDir()
	var names []string
	for name, text := range files {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	d, err := read(root, names)
	if err != nil {
		t.Fatal(err)
	}
	return d, names
}

// A link that leads nowhere is found, and said where it is; one that leads somewhere
// is none of those.
func TestLinks(t *testing.T) {
	for link, want := range map[string]string{
		"[x](b.md)":                   "",
		"[x](b.md#two-words)":         "",
		"[x](b.md#two-words-1)":       "",
		"[x](#here)":                  "",
		"[x](../README.md)":           "",
		"[x](../pkg)":                 "",
		"[x](https://example.org/#y)": "",
		"`[x](gone.md)`":              "",
		"[x](gone.md)":                "docs/a.md:5: gone.md: there is no such file",
		"![x](gone.svg)":              "docs/a.md:5: gone.svg: there is no such file",
		`<img src="gone.png" alt="">`: "docs/a.md:5: gone.png: there is no such file",
		"[x](b.md#gone)":              `docs/a.md:5: b.md#gone: docs/b.md has no anchor "gone"`,
		"[x](b.md#two-words-2)":       `docs/b.md has no anchor "two-words-2"`,
		"[x](#gone)":                  `docs/a.md has no anchor "gone"`,
		"[x](../pkg#gone)":            "only documents have anchors",
		"[x](../../etc)":              "it leads out of the repository",
	} {
		d, _ := repo(t, map[string]string{
			"README.md": "# r\n", "pkg/x.go": "package pkg\n",
			"docs/a.md": "# a\n\n## Here\n\n" + link + "\n",
			"docs/b.md": "# b\n\n## Two words\n\n```\n# gone\n```\n\n## `Two` words\n",
		})
		says(t, link, d.links(), want)
	}
}

func says(t *testing.T, what string, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("%s: %v", what, err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("%s: %v; want %s", what, err, want)
	}
}

// Addresses of the repository are checked in every file.
func TestAddresses(t *testing.T) {
	const url = "https://github.com/arp-cache-cleaner/arp-cache-cleaner/"
	for address, want := range map[string]string{
		url + "blob/main/docs/a.md#here":    "",
		url + "tree/main/docs":              "",
		url + "releases/latest":             "",
		url + "blob/v0.1.0/docs/gone.md":    "",
		url + "blob/main/docs/a.md#gone":    `rules.yaml:2: ` + url + `blob/main/docs/a.md#gone: docs/a.md has no anchor "gone"`,
		url + "blob/main/deploy/RUNBOOK.md": "there is no such file",
	} {
		d, files := repo(t, map[string]string{"docs/a.md": "# a\n## Here\n", "rules.yaml": "\nrunbook_url: " + address + "\n"})
		says(t, address, d.addresses(files), want)
	}
}

func TestShape(t *testing.T) {
	good := map[string]string{"README.md": "# r\n[a](docs/a.md)\n", "docs/a.md": "# a\n\nFor testers.\n\nNext: home.\n"}
	for name, tt := range map[string]struct{ file, text, want string }{
		"good":     {"README.md", good["README.md"], ""},
		"long":     {"README.md", good["README.md"] + strings.Repeat("\n", 149), "README.md: 151 lines are more than 150"},
		"no link":  {"README.md", "# r\n", "docs/a.md: the README has no link to it"},
		"for whom": {"docs/a.md", "# a\n\nThis page.\n\nNext: home.\n", `docs/a.md: it does not say first whom it is for (For ...), but "This page."`},
		"no next":  {"docs/a.md", "# a\n\nFor testers.\n\nThe end.\n", `docs/a.md: it does not say last where to go next (Next: ...), but "The end."`},
	} {
		files := map[string]string{"README.md": good["README.md"], "docs/a.md": good["docs/a.md"]}
		files[tt.file] = tt.text
		d, _ := repo(t, files)
		says(t, name, d.shape(), tt.want)
	}
}

func TestMarked(t *testing.T) {
	for info, want := range map[string]bool{"sh run": true, "sh": false, "": false, "run": false, "yaml run": false} {
		if got := marked(markdown.Block{Info: info}); got != want {
			t.Errorf("%q: %t", info, got)
		}
	}
}

// A block runs on the lab's machine and nowhere else; one of which any command fails
// is said to have failed, with the command.
func TestBlocks(t *testing.T) {
	l := lab.Start(t)
	m := &machine{node: l.Host("node"), root: t.TempDir(), path: os.Getenv("PATH")}
	m.node.Plug(l.Switch(), "eth0", "02:00:00:00:00:10", "192.0.2.10/24")
	says(t, "on the machine", m.run("ip -brief address | grep 192.0.2.10\ntest $(ls /proc/self/task | wc -l) = 1 # a remark\n"), "")
	says(t, "first of two", m.run("ip neigh show dev gone\ntrue\n"), "failed: ip neigh show dev gone")
	says(t, "in a pipe", m.run("false | true\n"), "exit status 1")
	says(t, "no such command", m.run("no-such-command\n"), "command not found")
}
