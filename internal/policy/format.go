package policy

import (
	"bytes"
	"reflect"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/hcl/ast"
	"github.com/hashicorp/hcl/hcl/printer"
)

// maxFormatSteps bounds the work of the printer, which compares every stanza with
// every comment.
const maxFormatSteps = 50_000_000

// Format returns a text in the canonical layout, that of the command policy fmt of
// Vault: aligned HCL, with the comments of the text. JSON becomes HCL. The result
// means the same as text, and formatting it again does not change it. The error is an
// [Error]; there is one as well in the rare case that the layout cannot be had
// without losing a comment or the meaning.
func Format(text string) (string, error) {
	var r reader
	file, root := r.read(text)
	rules := r.top(root)
	if err := r.err(); err != nil {
		return "", err
	}
	if file == nil {
		text = hclOf(root)
		if file, _ = r.file(text); file == nil {
			return "", r.err()
		}
	}
	// The printer needs two passes for some comments until nothing moves any more.
	for range 4 {
		items := 0
		ast.Walk(file, func(n ast.Node) (ast.Node, bool) {
			if _, ok := n.(*ast.ObjectItem); ok {
				items++
			}
			return n, n != nil
		})
		if items*len(file.Comments) > maxFormatSteps {
			return "", Error{{Position{1, 1}, "too many rules and comments to be formatted"}}
		}
		var b bytes.Buffer
		if err := guard(func() error { return printer.Fprint(&b, file) }); err != nil {
			return "", Error{{Position{1, 1}, "the text cannot be formatted"}}
		}
		b.WriteByte('\n')
		if b.String() == text {
			return text, nil
		}
		comments := commentTexts(file)
		text = b.String()
		r = reader{}
		var again *node
		file, again = r.file(text)
		if file == nil || !sameRules(r.top(again), rules) || r.err() != nil || !sameTexts(commentTexts(file), comments) {
			return "", Error{{Position{1, 1}, "the text cannot be formatted without changing it; move comments to lines of their own"}}
		}
	}
	return "", Error{{Position{1, 1}, "the text cannot be formatted; move comments to lines of their own"}}
}

// sameRules says whether rules are the same but for their positions.
func sameRules(a, b []Rule) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		p, q := a[i], b[i]
		p.Position, q.Position = Position{}, Position{}
		if !reflect.DeepEqual(p, q) {
			return false
		}
	}
	return true
}

// commentTexts counts the comments of a file by their texts, without the spaces that
// a layout changes.
func commentTexts(file *ast.File) map[string]int {
	texts := make(map[string]int)
	for _, group := range file.Comments {
		for _, c := range group.List {
			texts[strings.Join(strings.Fields(c.Text), " ")]++
		}
	}
	return texts
}

func sameTexts(a, b map[string]int) bool { return reflect.DeepEqual(a, b) }

// hclOf writes the tree of a JSON text as HCL.
func hclOf(root *node) string {
	var b strings.Builder
	for _, it := range root.items {
		if it.key == "path" {
			writePaths(&b, it.value)
		} else {
			b.WriteString(it.key + " = ")
			writeValue(&b, it.value)
			b.WriteString("\n\n")
		}
	}
	return b.String()
}

func writePaths(b *strings.Builder, v *node) {
	if v.kind == list {
		for _, element := range v.list {
			writePaths(b, element)
		}
		return
	}
	for _, it := range v.items {
		stanzas := []*node{it.value}
		if it.value.kind == list {
			stanzas = it.value.list
		}
		for _, stanza := range stanzas {
			b.WriteString("path " + quote(it.key) + " {\n")
			for _, it := range stanza.items {
				b.WriteString(it.key + " = ")
				writeValue(b, it.value)
				b.WriteByte('\n')
			}
			b.WriteString("}\n\n")
		}
	}
}

func writeValue(b *strings.Builder, v *node) {
	switch v.kind {
	case text:
		b.WriteString(quote(v.text))
	case number:
		// Not all numbers of JSON are written so in HCL.
		switch n, _ := v.number(); n := n.(type) {
		case int64:
			b.WriteString(strconv.FormatInt(n, 10))
		case float64:
			s := strconv.FormatFloat(n, 'f', -1, 64)
			if !strings.Contains(s, ".") {
				s += ".0"
			}
			b.WriteString(s)
		}
	case boolean:
		b.WriteString(strconv.FormatBool(v.truth))
	case null:
		b.WriteString(`""`)
	case list:
		b.WriteByte('[')
		for i, element := range v.list {
			if i > 0 {
				b.WriteString(", ")
			}
			writeValue(b, element)
		}
		b.WriteByte(']')
	case object:
		b.WriteString("{\n")
		for _, it := range v.items {
			b.WriteString(quote(it.key) + " = ")
			writeValue(b, it.value)
			b.WriteByte('\n')
		}
		b.WriteByte('}')
	}
}

// quote writes a text so that HCL does not find an interpolation in it.
func quote(s string) string {
	return strings.ReplaceAll(strconv.Quote(s), "${", `\u0024{`)
}
