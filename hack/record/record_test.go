package record

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestRecord(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.csv")
	r := New("make x", "case", "seconds")
	r.Rows = [][]string{{"a, b", "1.5"}, {"c", ""}}
	if err := r.Write(file); err != nil {
		t.Fatal(err)
	}
	got, err := Read(file)
	if err != nil || !reflect.DeepEqual(got, r) {
		t.Errorf("%+v, %v; want %+v", got, err, r)
	}
	if !strings.HasPrefix(got.Run, "make x, Linux ") {
		t.Errorf("run %q", got.Run)
	}
}

func TestReadRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"no run":       "case,seconds\na,1\n",
		"no rows":      "# make x\ncase,seconds\n",
		"a cell short": "# make x\ncase,seconds\na\n",
	} {
		file := filepath.Join(t.TempDir(), "x.csv")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if r, err := Read(file); err == nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
}
