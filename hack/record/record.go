// Package record keeps what a program under hack/ has measured in a CSV file, from
// which pictures and tables of docs/ are made: one comment line that says which run
// the figures are from, the names of the columns, and the rows.
package record

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"os"
	"strings"
	"time"
)

// Record is one run.
type Record struct {
	Run     string // command, kernel and day
	Columns []string
	Rows    [][]string
}

// New returns a record without rows of a run of command, now and on this machine.
func New(command string, columns ...string) *Record {
	run := fmt.Sprintf("%s, Linux %s, %s", command, Kernel(), time.Now().Format("2 January 2006"))
	return &Record{Run: run, Columns: columns}
}

// Kernel returns the version of the kernel, such as 6.18.44, without what its builder
// calls it.
func Kernel() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "?"
	}
	version, _, _ := strings.Cut(strings.TrimSpace(string(b)), "-")
	return version
}

// Write writes a record to a file.
func (r *Record) Write(file string) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# %s\n", r.Run)
	w := csv.NewWriter(&b)
	if err := w.WriteAll(append([][]string{r.Columns}, r.Rows...)); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return os.WriteFile(file, b.Bytes(), 0o644)
}

// Read reads what Write wrote.
func Read(file string) (*Record, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	first, rest, _ := strings.Cut(string(b), "\n")
	run, found := strings.CutPrefix(first, "# ")
	if !found {
		return nil, fmt.Errorf("%s: the first line does not say which run this is", file)
	}
	rows, err := csv.NewReader(strings.NewReader(rest)).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if len(rows) < 2 {
		return nil, fmt.Errorf("%s: there are no rows", file)
	}
	return &Record{Run: run, Columns: rows[0], Rows: rows[1:]}, nil
}
