// Command check-docs holds the documents to what they say, for `make check-docs`:
//
//   - every link to a file of the repository, and to an anchor in one, leads there;
//     so does every address of it on GitHub that any file has, such as a runbook_url;
//   - the README has 150 lines at most, and a link to every page of docs/;
//   - a page of docs/ says first whom it is for, and last where to go next;
//   - what stands in a code block marked ```sh run runs, on a host of a lab of network
//     namespaces with an agent, a gateway 192.0.2.1 and an API server at 192.0.2.100.
//
// What is generated in the documents is checked by the tests, and by CI, which
// generates it again.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/hack/markdown"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

func main() {
	root := flag.String("root", ".", "root of the repository")
	flag.Parse()
	if err := errors.Join(lab.Enter(), run(*root)); err != nil {
		fmt.Fprintf(os.Stderr, "check-docs: %v\n", err)
		os.Exit(1)
	}
}

func run(root string) error {
	files, err := tracked(root)
	if err != nil {
		return err
	}
	d, err := read(root, files)
	if err != nil {
		return err
	}
	ran, err := runBlocks(d)
	if err := errors.Join(d.links(), d.addresses(files), d.shape(), err); err != nil {
		return err
	}
	fmt.Printf("check-docs: %d documents, %d links, %d blocks run\n", len(d.pages), d.checked, ran)
	return nil
}

// tracked returns the files of the repository, those that are new included.
func tracked(root string) ([]string, error) {
	cmd := exec.Command("git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("git ls-files: %w", err)
	}
	var files []string
	for f := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
		info, err := os.Stat(filepath.Join(root, f)) // one that was deleted is still in the index
		if err == nil && info.Mode().IsRegular() && !strings.Contains(f, "testdata/") {
			files = append(files, f)
		}
	}
	return files, nil
}

// documents are the Markdown files of a repository.
type documents struct {
	root    string
	names   []string // in order, relative to root
	pages   map[string]*markdown.Page
	checked int // links that lead into the repository
}

func read(root string, files []string) (*documents, error) {
	d := &documents{root: root, pages: map[string]*markdown.Page{}}
	for _, name := range files {
		if filepath.Ext(name) != ".md" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return nil, err
		}
		d.names = append(d.names, name)
		d.pages[name] = markdown.Parse(string(text))
	}
	return d, nil
}
