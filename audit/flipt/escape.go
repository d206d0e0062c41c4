package flipt

import (
	"errors"
	"fmt"
	"text/template"
	"text/template/parse"
)

// escapeTemplates makes the actions of templates escape what they print, by whether they stand
// within the quotes of a JSON text or outside. That must not depend on which way a template
// takes.
func escapeTemplates(t *template.Template) error {
	for _, one := range t.Templates() {
		if one.Tree == nil || one.Root == nil {
			continue
		}
		w := escaper{tree: one.Tree}
		within, err := w.list(one.Root, false)
		if err == nil && within {
			err = errors.New("it ends within a text")
		}
		if err != nil {
			return fmt.Errorf("template: %s: %w", one.Name(), err)
		}
	}
	return nil
}

// escaper walks through one template.
type escaper struct{ tree *parse.Tree }

func (w *escaper) fail(n parse.Node, why string) error {
	at, context := w.tree.ErrorContext(n)
	return fmt.Errorf("%s: %s at %s", at, why, context)
}

// list goes through nodes; within says whether a text is open, before and behind.
func (w *escaper) list(l *parse.ListNode, within bool) (bool, error) {
	if l == nil {
		return within, nil
	}
	for _, n := range l.Nodes {
		var err error
		if within, err = w.node(n, within); err != nil {
			return within, err
		}
	}
	return within, nil
}

func (w *escaper) node(n parse.Node, within bool) (bool, error) {
	switch n := n.(type) {
	case *parse.TextNode:
		return w.text(n, within)
	case *parse.ActionNode:
		if len(n.Pipe.Decl) == 0 { // else it prints nothing
			name := escapeAsValue
			if within {
				name = escapeInText
			}
			n.Pipe.Cmds = append(n.Pipe.Cmds, &parse.CommandNode{
				NodeType: parse.NodeCommand,
				Pos:      n.Pos,
				Args:     []parse.Node{parse.NewIdentifier(name).SetTree(w.tree).SetPos(n.Pos)},
			})
		}
	case *parse.IfNode:
		return within, w.branch(n, &n.BranchNode, within)
	case *parse.RangeNode:
		return within, w.branch(n, &n.BranchNode, within)
	case *parse.WithNode:
		return within, w.branch(n, &n.BranchNode, within)
	case *parse.TemplateNode:
		if within {
			return within, w.fail(n, "a template stands within a text; put the quotes into it")
		}
	}
	return within, nil
}

func (w *escaper) branch(n parse.Node, b *parse.BranchNode, within bool) error {
	for _, l := range []*parse.ListNode{b.List, b.ElseList} {
		after, err := w.list(l, within)
		if err != nil {
			return err
		}
		if after != within {
			return w.fail(n, "a text begins or ends only in one branch; put both quotes into it, or none")
		}
	}
	return nil
}

// text follows the quotes of a piece of JSON.
func (w *escaper) text(n *parse.TextNode, within bool) (bool, error) {
	for i := 0; i < len(n.Text); i++ {
		switch c := n.Text[i]; {
		case c == '"':
			within = !within
		case c == '\\' && within:
			if i++; i == len(n.Text) {
				return within, w.fail(n, "a value stands behind a backslash")
			}
		}
	}
	return within, nil
}
