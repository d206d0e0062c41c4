package load

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// render writes a diagnostic as this test wants to see it: for people, and where Falco would say
// that it is.
func render(b *bytes.Buffer, d *Diagnostic) {
	fmt.Fprintf(b, "%s %s\n", d.Code, d.Error())
	if d.Line != "" {
		fmt.Fprintf(b, "\t%s\n\t%s%s\n", d.Line, strings.Repeat(" ", d.At.Column-1), strings.Repeat("^", d.Width))
	}
	for _, l := range d.Locations {
		fmt.Fprintf(b, "\t%s %q %s:%d:%d+%d\n", l.ItemType, l.ItemName, l.Position.Name, l.Position.Line, l.Position.Column, l.Position.Offset)
	}
	fmt.Fprintf(b, "\t%q\n", d.Snippet)
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		a, b := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
		for i := range a {
			if i >= len(b) || a[i] != b[i] {
				t.Fatalf("%s:%d\ngot  %s\nwant %s", name, i+1, a[i], b[min(i, len(b)-1)])
			}
		}
		t.Fatalf("%s: less than was wanted", name)
	}
}

func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/cases/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, name := range files {
		t.Run(filepath.Base(name), func(t *testing.T) {
			content, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			described, report := Describe([]File{{Name: filepath.Base(name), Content: content}}, options())
			var b bytes.Buffer
			for _, f := range report.Files {
				for _, d := range append(f.Errors, f.Warnings...) {
					render(&b, d)
				}
				for _, d := range f.Notes {
					fmt.Fprintf(&b, "note %s\n", d.Error())
				}
				fmt.Fprintf(&b, "schema %v\n", f.SchemaValid)
				for _, w := range f.SchemaWarnings {
					fmt.Fprintf(&b, "\t%s\n", w)
				}
			}
			if described != nil {
				if err := json.Indent(&b, described, "", " "); err != nil {
					t.Fatal(err)
				}
				b.WriteByte('\n')
			}
			golden(t, strings.TrimSuffix(name, ".yaml")+".golden", b.Bytes())
		})
	}
}
