package policy

import (
	"errors"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/hcl/ast"
	"github.com/hashicorp/hcl/hcl/parser"
	"github.com/hashicorp/hcl/hcl/scanner"
	hclstrconv "github.com/hashicorp/hcl/hcl/strconv"
	"github.com/hashicorp/hcl/hcl/token"
)

// node is a value of a text in HCL or JSON. What HCL writes as a block with several
// keys (path "a" {...}) is an object in an object, as in JSON.
type node struct {
	Position
	kind  kind
	text  string // of texts; the literal of numbers
	truth bool
	list  []*node
	items []item
}

// item is one key of an object.
type item struct {
	Position
	key   string
	value *node
	block bool // written without "=", so that it may be repeated
}

type kind int

const (
	text kind = iota
	number
	boolean
	null
	list
	object
)

func (k kind) String() string {
	return [...]string{"a text", "a number", "a truth value", "null", "a list", "a block"}[k]
}

// file parses HCL.
func (r *reader) file(src string) (*ast.File, *node) {
	if !r.shallow(src) {
		return nil, nil
	}
	var file *ast.File
	err := guard(func() (err error) {
		// Keys that repeat are reported below, together with all else.
		file, err = parser.ParseDontErrorOnDuplicateKeys([]byte(src))
		return err
	})
	if err != nil {
		r.syntax(err)
		return nil, nil
	}
	root, ok := file.Node.(*ast.ObjectList)
	if !ok {
		r.problem(Position{1, 1}, "the text is not a list of stanzas")
		return nil, nil
	}
	return file, r.objectList(root, Position{1, 1})
}

// shallow says whether src is nested so little that parsing it cannot use much of
// the stack; the parser is recursive and has no limit.
func (r *reader) shallow(src string) bool {
	depth, deepest := 0, Position{}
	// The parser reports what the scanner does, so errors are of no interest here;
	// without a function for them it would print them.
	_ = guard(func() error {
		s := scanner.New([]byte(src))
		s.Error = func(token.Pos, string) {}
		for {
			switch t := s.Scan(); t.Type {
			case token.LBRACE, token.LBRACK:
				if depth++; depth > MaxNesting {
					deepest = position(t.Pos)
					return nil
				}
			case token.RBRACE, token.RBRACK:
				depth--
			case token.EOF:
				return nil
			}
		}
	})
	if deepest.Line > 0 {
		r.problem(deepest, "nested deeper than %d levels", MaxNesting)
		return false
	}
	return true
}

// guard turns panics of the HCL library into errors. It has them for texts that its
// scanner accepts and its other parts do not.
func guard(f func() error) (err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("this cannot be parsed")
		}
	}()
	return f()
}

func (r *reader) syntax(err error) {
	if pe, ok := errors.AsType[*parser.PosError](err); ok {
		// Errors within lists wrap others, whose positions are exacter.
		for {
			inner, ok := errors.AsType[*parser.PosError](pe.Err)
			if !ok {
				break
			}
			pe = inner
		}
		r.problem(position(pe.Pos), "%s", plain.Replace(pe.Err.Error()))
		return
	}
	r.problem(Position{1, 1}, "%s", plain.Replace(err.Error()))
}

// plain replaces the names of tokens by the tokens.
var plain = strings.NewReplacer(
	"LBRACE", `"{"`, "RBRACE", `"}"`, "LBRACK", `"["`, "RBRACK", `"]"`, "ASSIGN", `"="`, "COMMA", `","`,
	"IDENT", "a name", "STRING", "a text", "HEREDOC", "a text", "NUMBER", "a number", "FLOAT", "a number", "BOOL", "a truth value",
	"PERIOD", `"."`, "ADD", `"+"`, "SUB", `"-"`, "EOF", "the end of the text", "ILLEGAL", "an illegal character",
	" | ", ", ",
)

func position(p token.Pos) Position { return Position{max(p.Line, 1), max(p.Column, 1)} }

func (r *reader) objectList(l *ast.ObjectList, at Position) *node {
	n := &node{Position: at, kind: object}
	assigned := make(map[string]bool)
	for _, it := range l.Items {
		if len(it.Keys) == 0 || it.Val == nil {
			r.problem(at, "a value without a name")
			continue
		}
		value := r.value(it.Val)
		block := !it.Assign.IsValid()
		for i := len(it.Keys) - 1; i >= 0; i-- {
			at := position(it.Keys[i].Pos())
			key, ok := r.key(it.Keys[i].Token)
			if !ok {
				continue
			}
			if i == 0 && !block {
				if assigned[key] {
					r.problem(at, "%q is set twice; every name can be set only once", key)
					continue
				}
				assigned[key] = true
			}
			inner := item{Position: at, key: key, value: value, block: block}
			if i == 0 {
				n.items = append(n.items, inner)
			} else {
				value = &node{Position: at, kind: object, items: []item{inner}}
			}
		}
	}
	return n
}

func (r *reader) key(t token.Token) (string, bool) {
	if t.Type == token.IDENT {
		return t.Text, true
	}
	key, err := hclstrconv.Unquote(t.Text)
	if err != nil {
		r.problem(position(t.Pos), "the text %s has an escape or \"${\" that cannot be read", short(t.Text))
		return "", false
	}
	return key, true
}

func (r *reader) value(v ast.Node) *node {
	at := position(v.Pos())
	switch v := v.(type) {
	case *ast.ObjectType:
		return r.objectList(v.List, at)
	case *ast.ListType:
		n := &node{Position: at, kind: list}
		for _, element := range v.List {
			n.list = append(n.list, r.value(element))
		}
		return n
	case *ast.LiteralType:
		return r.literal(v.Token, at)
	}
	r.problem(at, "a value of an unknown kind")
	return &node{Position: at, kind: null}
}

func (r *reader) literal(t token.Token, at Position) *node {
	switch t.Type {
	case token.STRING:
		s, _ := r.key(t)
		return &node{Position: at, kind: text, text: s}
	case token.HEREDOC:
		n := &node{Position: at, kind: text}
		if err := guard(func() error { n.text, _ = t.Value().(string); return nil }); err != nil {
			r.problem(at, "the text %s cannot be read", short(t.Text))
		}
		return n
	case token.NUMBER, token.FLOAT:
		n := &node{Position: at, kind: number, text: t.Text}
		if _, err := n.number(); err != nil {
			r.problem(at, "the number %s cannot be represented", short(t.Text))
			n.kind = null
		}
		return n
	case token.BOOL:
		return &node{Position: at, kind: boolean, truth: t.Text == "true"}
	}
	r.problem(at, "unexpected %s", short(t.Text))
	return &node{Position: at, kind: null}
}

// number returns an int64 or a float64.
func (n *node) number() (any, error) {
	if !strings.ContainsAny(n.text, ".eE") || strings.HasPrefix(n.text, "0x") || strings.HasPrefix(n.text, "0X") {
		return strconv.ParseInt(n.text, 0, 64)
	}
	return strconv.ParseFloat(n.text, 64)
}

// short quotes s for a message.
func short(s string) string {
	const most = 60
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return strconv.Quote(s)
}
