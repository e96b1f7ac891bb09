package main

import (
	"strings"
	"testing"
)

const values = `# The head of the file.

image:
  # Where from.
  registry: ghcr.io
  # Which one.
  tag: ""

# Two lines
# of comment | with a bar.
resources:
  limits:
    memory: 64Mi

# How.
strategy:
  # A type.
  type: RollingUpdate
  deep: {one: 1}

# Taints.
tolerations:
  - operator: Exists
    effect: NoSchedule

# A number that is a string.
label: "1"
`

func TestFill(t *testing.T) {
	v, err := parse([]byte(values))
	if err != nil {
		t.Fatal(err)
	}
	text, err := fill("before\n<!-- values -->\nold\n<!-- /values -->\n\n<!-- values image.tag tolerations -->\n<!-- /values -->\nafter\n", v, "charts.x.")
	if err != nil {
		t.Fatal(err)
	}
	want := "before\n<!-- values -->\n" +
		"| value | default | meaning |\n|---|---|---|\n" +
		"| `image.registry` | `ghcr.io` | Where from. |\n" +
		"| `image.tag` | `\"\"` | Which one. |\n" +
		"| `resources` | `{limits: {memory: 64Mi}}` | Two lines of comment \\| with a bar. |\n" +
		"| `strategy` | `{type: RollingUpdate, deep: {one: 1}}` | How. |\n" +
		"| `strategy.type` | `RollingUpdate` | A type. |\n" +
		"| `tolerations` | `[{operator: Exists, effect: NoSchedule}]` | Taints. |\n" +
		"| `label` | `\"1\"` | A number that is a string. |\n" +
		"<!-- /values -->\n\n<!-- values image.tag tolerations -->\n" +
		"| **Parameter** | **Description** | **Type** | **Default Value** | **Required** |\n|---|---|---|---|---|\n" +
		"| charts.x.image.tag | Which one. | String | `\"\"` | No |\n" +
		"| charts.x.tolerations | Taints. | List | `[{operator: Exists, effect: NoSchedule}]` | No |\n" +
		"<!-- /values -->\nafter\n"
	if text != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
}

func TestRefused(t *testing.T) {
	if _, err := parse([]byte("# One.\na: 1\nb: 2\n")); err == nil || err.Error() != "b has no comment" {
		t.Errorf("a value without a comment: %v", err)
	}
	v, err := parse([]byte("# One.\na: 1\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fill("<!-- values b -->\n<!-- /values -->\n", v, ""); err == nil || !strings.Contains(err.Error(), "no value b") {
		t.Errorf("a name that is none: %v", err)
	}
	if _, err := fill("nothing", v, ""); err == nil {
		t.Error("a file without marks is accepted")
	}
}
