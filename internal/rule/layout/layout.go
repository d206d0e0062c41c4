// Package layout writes files of rules in one layout: items with a blank line between them, two
// blanks of indentation, and conditions on one line or, if they are long, with a line for every
// term. Order, comments and all that is not layout stay as they are. It does not check rules: a
// condition that cannot be read is left as it is.
package layout

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

const (
	// Width is how many characters a line with a condition has at most, if it can be helped.
	Width = 100
	// MaxBytes bounds a file.
	MaxBytes = 16 << 20
	// maxDepth bounds how deep what is in a file is nested.
	maxDepth = 100
)

// ErrLeftAlone is wrapped by the error for a file that is right, as far as it is known, and is
// written in a way that cannot be put into the layout.
var ErrLeftAlone = errors.New("the file is written in a way that cannot be laid out anew")

// Format returns a file of rules in the layout. What it returns has the same rules in it.
func Format(content []byte) ([]byte, error) {
	if len(content) > MaxBytes {
		return nil, fmt.Errorf("the file has more than %d bytes", MaxBytes)
	}
	if !utf8.Valid(content) {
		return nil, errors.New("the file is not UTF-8 text")
	}
	text := strings.TrimPrefix(string(content), "\uFEFF")
	text = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(text)
	if i := strings.IndexAny(text, "\u0085\u2028\u2029\uFEFF"); i >= 0 {
		r, _ := utf8.DecodeRuneInString(text[i:])
		return nil, fmt.Errorf(`line %d: %w: it has a character %U, which is written as "\u%04X" in double quotes`, 1+strings.Count(text[:i], "\n"), ErrLeftAlone, r, r)
	}
	documents, err := parse(text)
	if err != nil {
		return nil, err
	}
	f := &file{}
	for s := range strings.SplitSeq(text, "\n") {
		f.lines = append(f.lines, line{old: s})
	}
	for _, d := range documents {
		f.document(d)
	}
	formatted := f.write()
	after, err := parse(formatted)
	if err != nil {
		return nil, ErrLeftAlone
	}
	if !sameDocuments(documents, after) {
		return nil, ErrLeftAlone
	}
	return []byte(formatted), nil
}

// parse reads the documents of a file.
func parse(text string) (documents []*yaml.Node, err error) {
	decoder := yaml.NewDecoder(strings.NewReader(text))
	for {
		var n yaml.Node
		err := decoder.Decode(&n)
		if errors.Is(err, io.EOF) {
			return documents, nil
		}
		if err != nil {
			return nil, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
		}
		if n.Kind != yaml.DocumentNode || len(n.Content) != 1 {
			continue
		}
		root := n.Content[0]
		if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
			documents = append(documents, &n)
			continue
		}
		if root.Kind != yaml.SequenceNode {
			return nil, fmt.Errorf("line %d: a file of rules is a list of items, which begin with \"- \"", root.Line)
		}
		if depth(root) > maxDepth {
			return nil, fmt.Errorf("line %d: what is in there is nested deeper than %d", root.Line, maxDepth)
		}
		documents = append(documents, &n)
	}
}

func depth(n *yaml.Node) int {
	deepest := 0
	for _, c := range n.Content {
		deepest = max(deepest, depth(c))
	}
	return deepest + 1
}

// Changed tells whether a file is not in the layout.
func Changed(content, formatted []byte) bool { return !bytes.Equal(content, formatted) }
