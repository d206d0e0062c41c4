package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tocsin-events/tocsin/internal/config"
)

// sinkDefinition is the definition of a sink while it is put together, of a file and of
// flags. It remembers where its parts come from, so that what is wrong is named there.
type sinkDefinition struct {
	root *yaml.Node // a mapping
	// file is how the file is called in messages, "" without one, and text what it has.
	file string
	text []byte
	// changed says that the definition is not what the text is.
	changed bool
	// from has the flags of nodes that are of no file.
	from map[*yaml.Node]string
	// begun are the lists that a flag has begun anew; further flags append to them.
	begun map[*yaml.Node]bool
}

func newSinkDefinition() *sinkDefinition {
	return &sinkDefinition{root: &yaml.Node{Kind: yaml.MappingNode}, from: make(map[*yaml.Node]string), begun: make(map[*yaml.Node]bool)}
}

// parseSinkDefinition reads the text of a file. The error says where it is no definition.
func parseSinkDefinition(file string, text []byte) (*sinkDefinition, error) {
	d := newSinkDefinition()
	d.file, d.text = file, text
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var document, second yaml.Node
	if err := decoder.Decode(&document); err == nil && len(document.Content) == 1 && document.Content[0].Kind == yaml.MappingNode &&
		errors.Is(decoder.Decode(&second), io.EOF) && len(text) <= config.MaxDefinitionBytes {
		d.root = document.Content[0]
		return d, nil
	}
	if _, err := config.ParseSink("", text); err != nil {
		return nil, d.problems(problemTexts(err))
	}
	return nil, fmt.Errorf("%s is empty; \"tocsin sink kinds\" shows what a definition has", file)
}

// problemTexts returns each of the problems of a definition.
func problemTexts(err error) []string { return strings.Split(err.Error(), "\n") }

// sinkFields are the keys of a definition, by the names of sections.
func sinkFields() []config.Field {
	common, kinds := config.SinkKinds()
	for _, k := range kinds {
		common = append(common, config.Field{Key: string(k.Type), Type: "section", Fields: k.Fields})
	}
	return common
}

// fieldOf returns the field of a key, nil if there is none.
func fieldOf(fields []config.Field, key string) *config.Field {
	for i := range fields {
		if fields[i].Key == key {
			return &fields[i]
		}
	}
	return nil
}

// value returns that of a key of the definition itself, "" if it is no text.
func (d *sinkDefinition) value(key string) string {
	if n := valueOf(d.root, key); n != nil && n.Kind == yaml.ScalarNode {
		return n.Value
	}
	return ""
}

// valueOf returns the value of a key of a mapping, nil if it has none.
func valueOf(n *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// keyStep is a part of a dotted key: a name, and the indices behind it.
type keyStep struct {
	name    string
	indices []int
}

var keyStepForm = regexp.MustCompile(`^([A-Za-z0-9_-]+)((?:\[[0-9]{1,4}\])*)$`)

// parseKey reads a dotted key, such as webhook.headers[0].name.
func parseKey(key string) ([]keyStep, error) {
	var steps []keyStep
	for part := range strings.SplitSeq(key, ".") {
		m := keyStepForm.FindStringSubmatch(part)
		if m == nil {
			return nil, fmt.Errorf("%q is no key; keys are like events.types or webhook.headers[0].name", visible(key))
		}
		step := keyStep{name: m[1]}
		for index := range strings.SplitSeq(strings.ReplaceAll(m[2], "]", ""), "[") {
			if index != "" {
				i, _ := strconv.Atoi(index)
				step.indices = append(step.indices, i)
			}
		}
		steps = append(steps, step)
	}
	return steps, nil
}

// steps reads a key. Keys of the section of the type may be written without its name.
func (d *sinkDefinition) steps(key string) ([]keyStep, error) {
	first, rest, _ := strings.Cut(key, ".")
	name, _, _ := strings.Cut(first, "[")
	fields := sinkFields()
	section := d.value("type")
	if fieldOf(fields, name) == nil {
		if kind := fieldOf(fields, section); kind != nil && fieldOf(kind.Fields, name) != nil {
			key = section + "." + key
			first, rest, _ = strings.Cut(key, ".")
		}
	}
	// The keys of names and texts may have dots.
	if kind := fieldOf(fields, first); kind != nil {
		if at, inner, ok := strings.Cut(rest, "."); ok {
			if f := fieldOf(kind.Fields, at); f != nil && f.Type == "texts" && inner != "" {
				return []keyStep{{name: first}, {name: at}, {name: inner}}, nil
			}
		}
	}
	return parseKey(key)
}

// find returns where a key stands: the node of its value, which is made if it is not there,
// and its field, nil if the key is not known. The flag is where new nodes come from.
func (d *sinkDefinition) find(key, flag string) (*yaml.Node, *config.Field, error) {
	steps, err := d.steps(key)
	if err != nil {
		return nil, nil, err
	}
	n := d.root
	var field *config.Field
	fields := sinkFields()
	for _, step := range steps {
		if n.Kind != yaml.MappingNode {
			if n.Kind != 0 {
				return nil, nil, fmt.Errorf("%q is not in a section", visible(key))
			}
			n.Kind = yaml.MappingNode
		}
		next := valueOf(n, step.name)
		if next == nil {
			name := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: step.name}
			next = &yaml.Node{}
			d.from[name], d.from[next] = flag, flag
			n.Content = append(n.Content, name, next)
		}
		n, field = next, fieldOf(fields, step.name)
		fields = nil
		if field != nil {
			fields = field.Fields
		}
		for _, index := range step.indices {
			if n.Kind == 0 {
				n.Kind = yaml.SequenceNode
			}
			if n.Kind != yaml.SequenceNode || index > len(n.Content) {
				return nil, nil, fmt.Errorf("%q: there is no element %d, and not as many before it", visible(key), index)
			}
			if index == len(n.Content) {
				added := &yaml.Node{}
				d.from[added] = flag
				n.Content = append(n.Content, added)
			}
			n = n.Content[index]
			field = element(field)
		}
	}
	return n, field, nil
}

// element returns the field of an element of a list.
func element(list *config.Field) *config.Field {
	switch {
	case list == nil || list.Type != "list":
		return nil
	case list.Element != "":
		return &config.Field{Key: list.Key, Type: list.Element}
	}
	return &config.Field{Key: list.Key, Type: "section", Fields: list.Fields}
}

// put gives a key a value; a list, unless the value is one, gets an element more.
func (d *sinkDefinition) put(key, flag string, value func(*config.Field) (*yaml.Node, error)) error {
	n, field, err := d.find(key, flag)
	if err != nil {
		return err
	}
	d.changed = true
	if field == nil || field.Type != "list" {
		made, err := value(field)
		if err != nil {
			return err
		}
		d.replace(n, made, flag)
		return nil
	}
	made, err := value(element(field))
	if err != nil {
		return err
	}
	if made.Kind == yaml.SequenceNode {
		d.replace(n, made, flag)
		return nil
	}
	if !d.begun[n] {
		d.begun[n] = true
		d.replace(n, &yaml.Node{Kind: yaml.SequenceNode}, flag)
	}
	added := &yaml.Node{}
	d.replace(added, made, flag)
	n.Content = append(n.Content, added)
	return nil
}

// replace makes n what made is, which comes from a flag.
func (d *sinkDefinition) replace(n, made *yaml.Node, flag string) {
	*n = *made
	d.from[n] = flag
	var mark func(*yaml.Node)
	mark = func(n *yaml.Node) {
		for _, inner := range n.Content {
			d.from[inner] = flag
			mark(inner)
		}
	}
	mark(n)
}

// remove takes a key out, so that it has its default.
func (d *sinkDefinition) remove(key string) error {
	steps, err := d.steps(key)
	if err != nil {
		return err
	}
	n := d.root
	for i, step := range steps {
		if len(step.indices) > 0 {
			return fmt.Errorf("%q: an element of a list is not removed alone; set the whole list", visible(key))
		}
		if n == nil || n.Kind != yaml.MappingNode {
			return nil
		}
		if i < len(steps)-1 {
			n = valueOf(n, step.name)
			continue
		}
		for at := 0; at+1 < len(n.Content); at += 2 {
			if n.Content[at].Value == step.name {
				n.Content = slices.Delete(n.Content, at, at+2)
				d.changed = true
				break
			}
		}
	}
	return nil
}

// scalar is a value that is written as it is. Text stays text, whatever it looks like.
func scalar(field *config.Field, text string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Value: text}
	if field == nil {
		return n
	}
	switch field.Type {
	case "number", "true or false":
	default:
		n.Tag, n.Style = "!!str", yaml.DoubleQuotedStyle
	}
	return n
}

// errSecretArgument refuses a secret on the command line, without repeating it.
var errSecretArgument = errors.New("a secret is no argument, because every user of the machine can see arguments; write --secret KEY=@FILE, KEY=env:NAME, " +
	"KEY=- (standard input) or KEY=prompt. If this was one, change it: it is in the history of the shell, too")

// secretHosts have webhooks whose URLs are secrets: who has one can write to the channel.
var secretHosts = []string{"hooks.slack.com/", "discord.com/api/webhooks/", ".webhook.office.com/", ".logic.azure.com/"}

// parsedValue reads the value of --set. Sections and lists may be written as [..] and {..}.
func parsedValue(key, text string) func(*config.Field) (*yaml.Node, error) {
	return func(field *config.Field) (*yaml.Node, error) {
		if field != nil && field.Type == "secret" {
			return nil, errSecretArgument
		}
		if strings.Contains(text, "://") && slices.ContainsFunc(secretHosts, func(host string) bool { return strings.Contains(text, host) }) {
			return nil, fmt.Errorf("this URL is itself a secret, so that it belongs into secret_url of a sink of type template: %w", errSecretArgument)
		}
		structured := strings.HasPrefix(text, "[") || strings.HasPrefix(text, "{")
		if field != nil && field.Type == "text" && !strings.HasPrefix(text, "[") {
			structured = false
		}
		if !structured {
			if field != nil && (field.Type == "section" || field.Type == "texts") {
				return nil, fmt.Errorf("%s is a section; set one of its keys, or write {key: value, ...}", visible(key))
			}
			return scalar(field, text), nil
		}
		var document yaml.Node
		if err := yaml.Unmarshal([]byte(text), &document); err != nil || len(document.Content) != 1 {
			if field != nil && field.Type == "text" {
				return scalar(field, text), nil // an expression that begins with a bracket
			}
			return nil, fmt.Errorf("the value of %s is not valid YAML", visible(key))
		}
		n := document.Content[0]
		fields := []config.Field(nil)
		if field != nil {
			fields = field.Fields
		}
		secret := false
		eachSecretNode(n, fields, func(n *yaml.Node) {
			_, _, reference := secretReference(n)
			secret = secret || !reference && !(n.Kind == yaml.MappingNode && len(n.Content) == 0)
		})
		if secret {
			return nil, errSecretArgument
		}
		return n, nil
	}
}

// secretValue is a secret by value.
func secretValue(text string) *yaml.Node {
	return &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{
		{Kind: yaml.ScalarNode, Tag: "!!str", Value: "value"},
		{Kind: yaml.ScalarNode, Tag: "!!str", Style: yaml.DoubleQuotedStyle, Value: text},
	}}
}

// eachSecretNode calls visit with the values of keys that are secrets.
func eachSecretNode(n *yaml.Node, fields []config.Field, visit func(*yaml.Node)) {
	switch n.Kind {
	case yaml.SequenceNode:
		for _, inner := range n.Content {
			eachSecretNode(inner, fields, visit)
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			field := fieldOf(fields, n.Content[i].Value)
			switch {
			case field == nil:
			case field.Type == "secret":
				visit(n.Content[i+1])
			case field.Element == "secret" && n.Content[i+1].Kind == yaml.SequenceNode:
				for _, inner := range n.Content[i+1].Content {
					visit(inner)
				}
			default:
				eachSecretNode(n.Content[i+1], field.Fields, visit)
			}
		}
	}
}

// secretReference returns where a secret is found, {env: NAME} or {file: PATH}.
func secretReference(n *yaml.Node) (kind, where string, ok bool) {
	if n.Kind != yaml.MappingNode || len(n.Content) != 2 || n.Content[1].Kind != yaml.ScalarNode {
		return "", "", false
	}
	kind, where = n.Content[0].Value, n.Content[1].Value
	return kind, where, (kind == "env" || kind == "file") && where != ""
}

// readSecrets replaces references to secrets by the secrets: the hub takes them by value,
// and cannot read what is on this machine.
func (d *sinkDefinition) readSecrets() error {
	var failed []string
	eachSecretNode(d.root, sinkFields(), func(n *yaml.Node) {
		kind, where, ok := secretReference(n)
		if !ok {
			return
		}
		secret := config.SecretFromFile(where)
		if kind == "env" {
			secret = config.SecretFromEnv(where)
		}
		value, err := secret.Reveal()
		if err != nil {
			failed = append(failed, d.place(n)+err.Error())
			return
		}
		n.Content = secretValue(value).Content
		n.Style = 0
		d.changed = true
	})
	if len(failed) > 0 {
		return errors.New(strings.Join(failed, "\n"))
	}
	return nil
}

// place returns where a node comes from, with a colon and a space behind it, "" if that is
// not known.
func (d *sinkDefinition) place(n *yaml.Node) string {
	switch flag := d.from[n]; {
	case flag != "":
		return flag + ": "
	case d.file != "" && n.Line > 0:
		return fmt.Sprintf("%s:%d:%d: ", d.file, n.Line, n.Column)
	case d.file != "":
		return d.file + ": "
	}
	return ""
}

// encode returns the definition as it is sent. It is the text of the file as long as
// nothing else was said.
func (d *sinkDefinition) encode() ([]byte, error) {
	if !d.changed && d.text != nil {
		return d.text, nil
	}
	text, err := yaml.Marshal(inFlow(d.root))
	if err != nil {
		return nil, fmt.Errorf("encode the definition: %w", err)
	}
	return text, nil
}

// inFlow copies nodes without comments, in the style of JSON: there every node has a
// position of its own.
func inFlow(n *yaml.Node) *yaml.Node {
	c := &yaml.Node{Kind: n.Kind, Tag: n.Tag, Value: n.Value, Anchor: n.Anchor, Alias: n.Alias, Style: n.Style &^ (yaml.LiteralStyle | yaml.FoldedStyle)}
	switch n.Kind {
	case 0: // was made for a key, and nothing was put there
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}
	case yaml.MappingNode, yaml.SequenceNode:
		c.Style = yaml.FlowStyle
	case yaml.ScalarNode:
		if n.ShortTag() == "!!str" {
			c.Style = yaml.DoubleQuotedStyle
		}
	}
	for _, inner := range n.Content {
		c.Content = append(c.Content, inFlow(inner))
	}
	return c
}

// problemPlace is the position in what was sent, as the hub names it.
var problemPlace = regexp.MustCompile(`^definition(?::(\d+)(?::(\d+))?)?: `)

// problems is the error that says what the hub, or the check, has found wrong with the
// definition, each with where it comes from.
func (d *sinkDefinition) problems(texts []string) error {
	if !slices.ContainsFunc(texts, problemPlace.MatchString) {
		return errors.New(visible(strings.Join(texts, "; ")))
	}
	places := d.places()
	var b strings.Builder
	b.WriteString("the definition of the sink is not valid:")
	for _, text := range texts {
		text = strings.ReplaceAll(visible(text), "give it as {value: SECRET}", "give it again with --secret")
		if m := problemPlace.FindStringSubmatch(text); m != nil {
			text = places(m[1], m[2]) + text[len(m[0]):]
		}
		b.WriteString("\n" + text)
	}
	return errors.New(b.String())
}

// places returns what tells of positions of what was sent where that comes from.
func (d *sinkDefinition) places() func(line, column string) string {
	if !d.changed && d.text != nil {
		return func(line, column string) string {
			return strings.Join(slices.DeleteFunc([]string{d.file, line, column}, func(s string) bool { return s == "" }), ":") + ": "
		}
	}
	known := make(map[[2]string]string)
	var sent yaml.Node
	if text, err := d.encode(); err == nil && yaml.Unmarshal(text, &sent) == nil && len(sent.Content) == 1 {
		var walk func(ours, theirs *yaml.Node)
		walk = func(ours, theirs *yaml.Node) {
			known[[2]string{strconv.Itoa(theirs.Line), strconv.Itoa(theirs.Column)}] = d.place(ours)
			if len(ours.Content) == len(theirs.Content) {
				for i := range ours.Content {
					walk(ours.Content[i], theirs.Content[i])
				}
			}
		}
		walk(d.root, sent.Content[0])
	}
	return func(line, column string) string { return known[[2]string{line, column}] }
}
