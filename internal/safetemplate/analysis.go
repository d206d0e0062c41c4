package safetemplate

import (
	"fmt"
	"maps"
	"slices"
	"text/template/parse"
)

// The functions that an analysis puts into templates. They have names that no template
// can have.
const (
	writeValue  = "_value"  // JSON
	writeKey    = "_key"    // JSON, of an object
	writeQuoted = "_quoted" // in quotes
	writeText   = "_text"   // as it is
	writePath   = "_path"
	writeQuery  = "_query"
	countStep   = "_step"
	rangeOver   = "_range"
)

// analysis finds out in which context each action of a template stands, and rewrites them.
// A template that is called in several contexts is derived once for each.
type analysis struct {
	t       *Template
	trees   map[string]*parse.Tree // as written
	derived map[derivation]*derived
	made    []*parse.Tree
	used    map[string]bool
	calling []string // templates, one calls the next
	work    int
}

type derivation struct {
	name string
	in   context
}

// derived is a template in a context, and what is to be put into it.
type derived struct {
	tree   *parse.Tree
	out    context
	prints map[*parse.ActionNode]string
	calls  map[*parse.TemplateNode]string
	ranges []*parse.RangeNode
	exits  []context // of break and continue of the innermost range
}

// main analyses the main template and returns all trees there are to be.
func (a *analysis) main(tree *parse.Tree) ([]*parse.Tree, error) {
	a.used = make(map[string]bool)
	var in context
	switch a.t.form {
	case JSON:
		in.place = atValue
	case URL:
		in.place = inHost
	default:
		in.place = inText
	}
	d, err := a.derive(tree, a.t.name, in)
	if err != nil {
		return nil, err
	}
	whole := func(format string, args ...any) error {
		return &Problem{Source: a.t.name, Reason: fmt.Sprintf(format, args...)}
	}
	switch c := d.out; {
	case a.t.form == Text:
	case a.t.form == URL:
		if c.place == inHost && !hostEnded(c.host) {
			return nil, whole(urlExample)
		}
	case c.inQuotes():
		return nil, whole("ends inside of quotes; close them")
	case c.open != "":
		closing := map[byte]string{'{': "}", '[': "]"}[c.innermost()]
		return nil, whole("ends before a %s", closing)
	case c.place != atEnd && !c.ended:
		return nil, whole("makes nothing; a body is one JSON value, for example {\"text\": {{.Type}}}")
	}
	return a.made, nil
}

// derive analyses a template in a context, and rewrites a copy of it with a name of its own.
func (a *analysis) derive(tree *parse.Tree, name string, in context) (*derived, error) {
	if len(a.made) >= maxTrees {
		return nil, &Problem{Source: tree.ParseName, Reason: fmt.Sprintf("calls templates in more than %d different places", maxTrees)}
	}
	d := &derived{tree: tree.Copy(), prints: make(map[*parse.ActionNode]string), calls: make(map[*parse.TemplateNode]string)}
	d.tree.Name = name
	a.made = append(a.made, d.tree)
	var err error
	if d.out, err = a.list(d, d.tree.Root, in); err != nil {
		return nil, err
	}
	a.rewrite(d)
	return d, nil
}

// problem is one at a node.
func (a *analysis) problem(d *derived, n parse.Node, format string, args ...any) error {
	var action string
	switch n.(type) {
	case *parse.TextNode:
	default:
		action = shorten(firstLine(n.String()))
	}
	return a.t.at(d.tree.ParseName, n.Position(), action, format, args...)
}

func firstLine(s string) string {
	for i := range s {
		if i > 1 && s[i-2:i] == "}}" {
			return s[:i]
		}
	}
	return s
}

func (a *analysis) list(d *derived, list *parse.ListNode, c context) (context, error) {
	if list == nil {
		return c, nil
	}
	var err error
	for _, n := range list.Nodes {
		if c, err = a.node(d, n, c); err != nil {
			return c, err
		}
	}
	return c, nil
}

func (a *analysis) node(d *derived, n parse.Node, c context) (context, error) {
	if a.work++; a.work > maxWork {
		return c, &Problem{Source: a.t.name, Reason: "is too long winded: its parts call each other too often"}
	}
	if c.dead {
		return c, nil
	}
	switch n := n.(type) {
	case *parse.TextNode:
		after, offset, reason := c.advance(string(n.Text))
		if reason != "" {
			return c, a.t.at(d.tree.ParseName, n.Pos+parse.Pos(offset), "", "%q: %s", excerpt(n.Text, offset), reason)
		}
		return after, nil
	case *parse.ActionNode:
		if len(n.Pipe.Decl) > 0 {
			return c, nil // a variable is set, nothing is printed
		}
		after, function, reason := c.print(isRaw(n.Pipe))
		if reason != "" {
			return c, a.problem(d, n, "%s", reason)
		}
		d.prints[n] = function
		return after, nil
	case *parse.IfNode:
		return a.branches(d, n, n.List, n.ElseList, c)
	case *parse.WithNode:
		return a.branches(d, n, n.List, n.ElseList, c)
	case *parse.RangeNode:
		return a.loop(d, n, c)
	case *parse.BreakNode, *parse.ContinueNode:
		d.exits = append(d.exits, c)
		c.dead = true
		return c, nil
	case *parse.TemplateNode:
		return a.call(d, n, c)
	case *parse.CommentNode:
		return c, nil
	}
	return c, a.problem(d, n, "cannot be used here")
}

// excerpt is what a problem in a text is about.
func excerpt(text []byte, offset int) string {
	end := offset + 1
	for end < len(text) && end < offset+20 && text[end] != '\n' {
		end++
	}
	return string(text[offset:end])
}

// isRaw says whether the last function of a pipeline is raw.
func isRaw(p *parse.PipeNode) bool {
	last := p.Cmds[len(p.Cmds)-1]
	id, ok := last.Args[0].(*parse.IdentifierNode)
	return ok && id.Ident == "raw"
}

const differ = "its branches end in different places, one %s, the other %s, so what comes behind them cannot be known; let all of them end in the same"

func (a *analysis) branches(d *derived, n parse.Node, list, otherwise *parse.ListNode, c context) (context, error) {
	yes, err := a.list(d, list, c)
	if err != nil {
		return c, err
	}
	no, err := a.list(d, otherwise, c)
	if err != nil {
		return c, err
	}
	after, ok := join(yes, no)
	if !ok {
		return c, a.problem(d, n, differ, yes, no)
	}
	return after, nil
}

// loop analyses a range: its rounds begin where it begins, or where a round before ends.
func (a *analysis) loop(d *derived, n *parse.RangeNode, c context) (context, error) {
	if !slices.Contains(d.ranges, n) {
		d.ranges = append(d.ranges, n)
	}
	outer := d.exits
	defer func() { d.exits = outer }()
	begin := c
	for range 8 {
		d.exits = nil
		end, err := a.list(d, n.List, begin)
		if err != nil {
			return c, err
		}
		next, ok := join(begin, end)
		for _, exit := range d.exits {
			if ok {
				end = exit
				next, ok = join(next, exit)
			}
		}
		if !ok {
			return c, a.problem(d, n, "a round begins %s, but ends %s; let it end where it begins", begin, end)
		}
		if next != begin {
			begin = next
			continue
		}
		otherwise, err := a.list(d, n.ElseList, c)
		if err != nil {
			return c, err
		}
		after, ok := join(begin, otherwise)
		if !ok {
			return c, a.problem(d, n, differ, begin, otherwise)
		}
		return after, nil
	}
	return c, a.problem(d, n, "where its rounds begin and end cannot be known")
}

func (a *analysis) call(d *derived, n *parse.TemplateNode, c context) (context, error) {
	tree := a.trees[n.Name]
	if tree == nil {
		return c, a.problem(d, n, "there is no template %q; define it with {{define %q}}...{{end}}", n.Name, n.Name)
	}
	if slices.Contains(a.calling, n.Name) {
		return c, a.problem(d, n, "the template %q calls itself, which could go on for ever", n.Name)
	}
	a.used[n.Name] = true
	key := derivation{n.Name, c}
	switch {
	case c.open == "":
		key.in.open = "t"
	case c.inObject():
		key.in.open = "o"
	case c.inList():
		key.in.open = "l"
	}
	if c.place >= inText {
		key.in.open = ""
	}
	called := a.derived[key]
	if called == nil {
		a.calling = append(a.calling, n.Name)
		// Names of templates in Go have no bound; this one cannot be written.
		made, err := a.derive(tree, fmt.Sprintf("%s\x00%d", n.Name, len(a.made)), key.in)
		if err != nil {
			return c, err
		}
		a.calling = a.calling[:len(a.calling)-1]
		a.derived[key] = made
		called = made
	}
	d.calls[n] = called.tree.Name
	after := called.out
	if tree.ParseName != d.tree.ParseName && c.place == inString && after != key.in {
		return c, &Problem{Source: tree.ParseName, Reason: fmt.Sprintf("the part %q begins inside of quotes, but ends %s; let it end in them", n.Name, after)}
	}
	if c.place < inText {
		// What it has opened it must have closed: c is right about what is open.
		if after.open != key.in.open {
			return c, a.problem(d, n, "the template %q does not close what it opens", n.Name)
		}
		after.open = c.open
	}
	return after, nil
}

// rewrite puts into a derived template what the analysis has found.
func (a *analysis) rewrite(d *derived) {
	for n, function := range d.prints {
		number := len(a.t.sites)
		a.t.sites = append(a.t.sites, site{d.tree.ParseName, n.Pos, n.String()})
		pipe(n.Pipe, function, number)
	}
	for n, name := range d.calls {
		n.Name = name
	}
	for _, n := range d.ranges {
		number := len(a.t.sites)
		a.t.sites = append(a.t.sites, site{d.tree.ParseName, n.Pos, firstLine(n.String())})
		pipe(n.Pipe, rangeOver, number)
		prepend(n.List)
	}
	prepend(d.tree.Root)
}

// pipe adds a command to a pipeline, with the number of its site.
func pipe(p *parse.PipeNode, function string, number int) {
	p.Cmds = append(p.Cmds, &parse.CommandNode{NodeType: parse.NodeCommand, Pos: p.Pos, Args: []parse.Node{
		parse.NewIdentifier(function).SetPos(p.Pos),
		&parse.NumberNode{NodeType: parse.NodeNumber, Pos: p.Pos, IsInt: true, Int64: int64(number), Text: fmt.Sprint(number)},
	}})
}

// prepend lets a list count itself before all else.
func prepend(list *parse.ListNode) {
	step := &parse.ActionNode{NodeType: parse.NodeAction, Pos: list.Pos, Pipe: &parse.PipeNode{
		NodeType: parse.NodePipe, Pos: list.Pos,
		Cmds: []*parse.CommandNode{{NodeType: parse.NodeCommand, Pos: list.Pos, Args: []parse.Node{parse.NewIdentifier(countStep).SetPos(list.Pos)}}},
	}}
	list.Nodes = slices.Insert(list.Nodes, 0, parse.Node(step))
}

func sorted(names []string) []string { return slices.Sorted(slices.Values(names)) }

// Functions returns the names of the functions that templates may use.
func Functions() []string { return slices.Sorted(maps.Keys(names)) }
