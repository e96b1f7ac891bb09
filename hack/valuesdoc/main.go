// Command valuesdoc writes what values.yaml of the chart says into tables of
// Markdown files, for `make manifests`:
//
//	go run ./hack/valuesdoc VALUES PREFIX FILE...
//
// In each file, the lines between <!-- values --> and <!-- /values --> become a
// table of every value. With names behind it (<!-- values act vip.addresses -->) it
// has those alone, each with PREFIX before it, in the columns that Palette packs use.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v2"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "valuesdoc:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 3 {
		return fmt.Errorf("%d arguments: want values.yaml, a prefix and files", len(args))
	}
	source, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	values, err := parse(source)
	if err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	for _, name := range args[2:] {
		old, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		text, err := fill(string(old), values, args[1])
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// A value is one that a comment explains.
type value struct {
	name    string // such as image.registry
	comment string
	def     any
}

var key = regexp.MustCompile(`^( *)([A-Za-z]\w*):`)

// parse reads a values file: each value, or an object around it, has a comment in
// the lines right above. Those of an object that has one beside its fields are both
// listed.
func parse(source []byte) ([]value, error) {
	var all yaml.MapSlice
	if err := yaml.Unmarshal(source, &all); err != nil {
		return nil, err
	}
	var values []value
	var path, comment []string
	silent := map[string]bool{} // the objects whose comment speaks for their fields
	for line := range strings.Lines(string(source)) {
		line = strings.TrimRight(line, "\n")
		if text, ok := strings.CutPrefix(strings.TrimLeft(line, " "), "#"); ok {
			comment = append(comment, strings.TrimSpace(text))
			continue
		}
		m := key.FindStringSubmatch(line)
		if m == nil {
			comment = nil
			continue
		}
		depth := len(m[1]) / 2
		if depth > len(path) {
			continue // within a list
		}
		path = append(path[:depth], m[2])
		name, text := strings.Join(path, "."), strings.Join(comment, " ")
		comment = nil
		def := find(all, path)
		_, object := def.(yaml.MapSlice)
		parent := strings.Join(path[:depth], ".")
		switch {
		case text != "":
			values = append(values, value{name, text, def})
			silent[name] = object
		case silent[parent]:
			silent[name] = true
		case !object:
			return nil, fmt.Errorf("%s has no comment", name)
		}
	}
	return values, nil
}

// find returns what is at a path, nil if there is nothing.
func find(m yaml.MapSlice, path []string) any {
	for _, item := range m {
		if item.Key == path[0] {
			if inner, ok := item.Value.(yaml.MapSlice); ok && len(path) > 1 {
				return find(inner, path[1:])
			}
			return item.Value
		}
	}
	return nil
}

var marks = regexp.MustCompile(`(?s)(<!-- values([^>]*) -->\n).*?(<!-- /values -->)`)

// fill writes the tables between the marks of a file.
func fill(text string, values []value, prefix string) (string, error) {
	if !marks.MatchString(text) {
		return "", fmt.Errorf("no <!-- values --> in it")
	}
	var err error
	text = marks.ReplaceAllStringFunc(text, func(s string) string {
		m := marks.FindStringSubmatch(s)
		names := strings.Fields(m[2])
		if len(names) == 0 {
			return m[1] + every(values) + m[3]
		}
		rows, e := some(values, names, prefix)
		err = e
		return m[1] + rows + m[3]
	})
	return text, err
}

func every(values []value) string {
	var b strings.Builder
	b.WriteString("| value | default | meaning |\n|---|---|---|\n")
	for _, v := range values {
		fmt.Fprintf(&b, "| `%s` | `%s` | %s |\n", v.name, cell(flow(v.def)), cell(v.comment))
	}
	return b.String()
}

func some(values []value, names []string, prefix string) (string, error) {
	var b strings.Builder
	b.WriteString("| **Parameter** | **Description** | **Type** | **Default Value** | **Required** |\n|---|---|---|---|---|\n")
next:
	for _, name := range names {
		for _, v := range values {
			if v.name == name {
				fmt.Fprintf(&b, "| %s%s | %s | %s | `%s` | No |\n", prefix, name, cell(v.comment), kind(v.def), cell(flow(v.def)))
				continue next
			}
		}
		return "", fmt.Errorf("there is no value %s, or it has no comment", name)
	}
	return b.String(), nil
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

func kind(v any) string {
	switch v.(type) {
	case bool:
		return "Boolean"
	case int:
		return "Int"
	case []any:
		return "List"
	case yaml.MapSlice:
		return "Object"
	}
	return "String"
}

// flow writes a value in one line of YAML.
func flow(v any) string {
	var parts []string
	switch v := v.(type) {
	case yaml.MapSlice:
		for _, item := range v {
			parts = append(parts, fmt.Sprintf("%v: %s", item.Key, flow(item.Value)))
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case []any:
		for _, e := range v {
			parts = append(parts, flow(e))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case string:
		// Quoted only where YAML would take it for something else.
		var back any
		if err := yaml.Unmarshal([]byte(v), &back); err == nil && back == v {
			return v
		}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Sprint(v)
	}
	return strings.TrimSpace(b.String())
}
