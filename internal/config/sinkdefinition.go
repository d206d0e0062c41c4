package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	// definitionFile and definitionKey are how problems of a sink's definition name it.
	definitionFile = "definition"
	definitionKey  = "sink"

	// MaxDefinitionBytes bounds the text of a sink's definition.
	MaxDefinitionBytes = 256 << 10
)

// ParseSink checks the definition of a sink that is added while the hub runs, YAML or JSON,
// and returns it on top of [DefaultSink]. It has the keys of an element of "sinks" in the
// file, with these differences, because who gives it is not who runs the hub: secrets are
// given by value, as {value: SECRET}, or as "<secret>" to keep the one that there is (see
// [Sink.KeepSecrets]), and what concerns the machine of the hub is refused. The name is that
// of the sink; the text may repeat it. An empty name must be in the text.
//
// The error is an [Error], of a file that is called "definition".
func ParseSink(name string, text []byte) (Sink, error) {
	if len(text) > MaxDefinitionBytes {
		return Sink{}, Error{{File: definitionFile, Message: fmt.Sprintf("is larger than the limit of %s", Size(MaxDefinitionBytes))}}
	}
	s := DefaultSink()
	s.Name = name
	d := newDecoder(definitionFile)
	d.values = true
	d.document(text, definitionKey, reflect.ValueOf(&s).Elem())
	if d.unread {
		return Sink{}, sorted(d.problems)
	}
	v := validator{}
	v.ranges(definitionKey, reflect.ValueOf(s), "")
	v.sink(definitionKey, &s)
	v.remote(definitionKey, &s)
	if name != "" && s.Name != name {
		v.report(definitionKey+".name", "%q is not the name %q under which the sink is written; leave it out", shorten(s.Name), name)
	}
	for _, p := range v.problems {
		if !d.wrong[p.Key] {
			p.Message = strings.ReplaceAll(p.Message, "{env: NAME} or {file: PATH}", "{value: SECRET}")
			d.problems = append(d.problems, d.locate(p))
		}
	}
	if len(d.problems) > 0 {
		return Sink{}, sorted(d.problems)
	}
	return s, nil
}

// remote refuses what only the configuration file may say.
func (v *validator) remote(key string, s *Sink) {
	const only = "only the configuration file of the hub can say that; "
	if s.Type == SinkTypeStdout {
		v.report(key+".type", only+"sinks of type stdout cannot be added while the hub runs")
	}
	const allow = only + "have the address put into delivery.allow there"
	if len(s.Webhook.Allow) > 0 {
		v.report(key+".webhook.allow", allow)
	}
	if len(s.Template.Allow) > 0 {
		v.report(key+".template.allow", allow)
	}
}

// document returns the settings that concern the type of the sink, without any secret.
func (s Sink) document() *yaml.Node {
	n := node(reflect.ValueOf(s))
	omitUnrelated(n, reflect.ValueOf(s))
	withoutComments(n)
	redact(n, reflect.ValueOf(s))
	return n
}

// redact replaces every secret by [Redacted], also the reference to one, which is nobody's
// business outside of the machine.
func redact(n *yaml.Node, v reflect.Value) {
	switch {
	case v.Type() == secretType:
		if v.Interface().(Secret).IsSet() {
			*n = yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: Redacted}
		}
	case v.Kind() == reflect.Struct:
		keys := fieldKeys(v.Type())
		for i := 0; i+1 < len(n.Content); i += 2 {
			redact(n.Content[i+1], v.Field(slices.Index(keys, n.Content[i].Value)))
		}
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			redact(n.Content[i], v.Index(i))
		}
	}
}

// YAML returns the definition of the sink as [ParseSink] reads it, with "<secret>" in the
// place of secrets.
func (s Sink) YAML() []byte {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(s.document()); err != nil {
		panic("config: " + err.Error()) // it is made of texts and numbers
	}
	return b.Bytes()
}

// JSON is [Sink.YAML] as a JSON object.
func (s Sink) JSON() json.RawMessage { return appendJSON(nil, s.document()) }

// appendJSON appends a node of texts, numbers, lists and mappings.
func appendJSON(dst []byte, n *yaml.Node) []byte {
	list := func(open, end byte, each int, one func(dst []byte, i int) []byte) []byte {
		dst = append(dst, open)
		for i := 0; i+each <= len(n.Content); i += each {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = one(dst, i)
		}
		return append(dst, end)
	}
	switch n.Kind {
	case yaml.MappingNode:
		return list('{', '}', 2, func(dst []byte, i int) []byte {
			dst = append(appendText(dst, n.Content[i].Value), ':')
			return appendJSON(dst, n.Content[i+1])
		})
	case yaml.SequenceNode:
		return list('[', ']', 1, func(dst []byte, i int) []byte { return appendJSON(dst, n.Content[i]) })
	}
	switch n.ShortTag() {
	case "!!int", "!!bool", "!!null":
		if json.Valid([]byte(n.Value)) {
			return append(dst, n.Value...)
		}
	}
	return appendText(dst, n.Value)
}

func appendText(dst []byte, s string) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // of a text never fails
	return append(dst, bytes.TrimSuffix(b.Bytes(), []byte("\n"))...)
}

// Secrets returns the values of the secrets of the sink that are given by value, by their
// dotted keys: webhook.signing_keys[0]. They are secret: [Sink.SetSecrets] puts them
// back into what [Sink.YAML] wrote.
func (s Sink) Secrets() map[string]string {
	all := make(map[string]string)
	eachSecret("", reflect.ValueOf(&s).Elem(), func(key string, v reflect.Value) {
		if s := v.Interface().(Secret); s.literal != nil && !s.kept() {
			all[key] = *s.literal
		}
	})
	return all
}

// SetSecrets gives the secrets that are "<secret>" their values. The error names one that
// has none.
func (s *Sink) SetSecrets(values map[string]string) error {
	var missing []string
	eachSecret("", reflect.ValueOf(s).Elem(), func(key string, v reflect.Value) {
		if !v.Interface().(Secret).kept() {
			return
		}
		value, ok := values[key]
		if !ok {
			missing = append(missing, key)
			return
		}
		v.Set(reflect.ValueOf(SecretValue(value)))
	})
	if len(missing) > 0 {
		return fmt.Errorf("the secret %s is missing", missing[0])
	}
	return nil
}

// kept says whether the secret is to be what it was.
func (s Secret) kept() bool { return s.literal != nil && *s.literal == Redacted }

// same says whether two secrets are given by the same value, or both are none.
func (s Secret) same(other Secret) bool {
	if s.literal == nil || other.literal == nil {
		return s == other
	}
	return *s.literal == *other.literal
}

// KeepSecrets gives the secrets that are "<secret>" the values that they have in old, the
// definition before, so that what was read can be changed and written back. It is
// refused where it is not sure what is meant, and where the secret would be sent to another
// place than the one it was given for: who may change a sink must not learn its secrets by
// that. The error is an [Error]. A nil old has no secrets.
func (s *Sink) KeepSecrets(old *Sink) error {
	var problems Error
	refuse := func(key, format string, args ...any) {
		problems = append(problems, Problem{File: definitionFile, Key: definitionKey + "." + key,
			Message: fmt.Sprintf("is "+Redacted+", but "+format+"; give it as {value: SECRET}", args...)})
	}
	var before map[string]string
	moved := ""
	if old != nil {
		before = keptKeys(old)
		moved = movedTo(s, old)
	}
	eachSecret("", reflect.ValueOf(s).Elem(), func(key string, v reflect.Value) {
		if !v.Interface().(Secret).kept() {
			return
		}
		value, known := before[stableKey(s, key)]
		switch {
		case old == nil:
			refuse(key, "there is no sink yet that has one")
		case !known:
			refuse(key, "the sink has none there, or not as many as now")
		case moved != "":
			refuse(key, "%s has changed, and a secret is kept only for the place it was given for", moved)
		case key == "template.routing_key" && !slices.Equal(templates(s), templates(old)):
			refuse(key, "the templates have changed, which can tell it")
		default:
			v.Set(reflect.ValueOf(SecretValue(value)))
		}
	})
	if len(problems) > 0 {
		return problems
	}
	return nil
}

// keptKeys returns the secrets of a sink by [stableKey].
func keptKeys(s *Sink) map[string]string {
	values := make(map[string]string)
	for key, value := range s.Secrets() {
		values[stableKey(s, key)] = value
	}
	return values
}

// stableKey returns a key that is the same only for what must be the same secret: the
// index of a header is replaced by its name, and the index in another list gets the length
// of the list.
func stableKey(s *Sink, key string) string {
	open := strings.IndexByte(key, '[')
	if open < 0 {
		return key
	}
	list := field(reflect.ValueOf(*s), key[:open])
	var i int
	_, _ = fmt.Sscanf(key[open:], "[%d]", &i)
	if headers, ok := list.Interface().([]SinkHeader); ok && i < len(headers) {
		same := 0
		for _, h := range headers {
			if strings.EqualFold(h.Name, headers[i].Name) {
				same++
			}
		}
		if same == 1 {
			return key[:open] + "[" + strings.ToLower(headers[i].Name) + "]"
		}
	}
	return fmt.Sprintf("%s of %d", key, list.Len())
}

// field returns the field of a dotted key without lists.
func field(v reflect.Value, key string) reflect.Value {
	for name := range strings.SplitSeq(key, ".") {
		v = v.Field(slices.Index(fieldKeys(v.Type()), name))
	}
	return v
}

// movedTo returns the key of a setting that has changed and says where secrets are sent to,
// "" if none has.
func movedTo(s, old *Sink) string {
	if s.Type != old.Type {
		return definitionKey + ".type"
	}
	where := func(s *Sink, trust func(of func(*Sink) SinkTLS) any) map[string]any {
		return map[string]any{
			"webhook.url":               s.Webhook.URL,
			"webhook.tls":               trust(func(s *Sink) SinkTLS { return s.Webhook.TLS }),
			"webhook.headers":           virtualHost(s.Webhook.Headers, old.Webhook.Headers),
			"template.url":              s.Template.URL,
			"template.headers":          virtualHost(s.Template.Headers, old.Template.Headers),
			"template.tls":              trust(func(s *Sink) SinkTLS { return s.Template.TLS }),
			"template.preset":           s.Template.Preset,
			"kafka.brokers":             s.Kafka.Brokers,
			"kafka.use_tls":             s.Kafka.UseTLS,
			"kafka.tls":                 trust(func(s *Sink) SinkTLS { return s.Kafka.TLS }),
			"kafka.sasl.mechanism":      s.Kafka.SASL.Mechanism,
			"kafka.schema_registry.url": s.Kafka.Registry.URL,
			"kafka.schema_registry.tls": trust(func(s *Sink) SinkTLS { return s.Kafka.Registry.TLS }),
			"nats.urls":                 s.NATS.URLs,
			"nats.tls":                  trust(func(s *Sink) SinkTLS { return s.NATS.TLS }),
			"otlp_logs.headers":         virtualHost(s.OTLPLogs.Headers, old.OTLPLogs.Headers),
			"otlp_logs.url":             s.OTLPLogs.URL,
			"otlp_logs.protocol":        s.OTLPLogs.Protocol,
			"otlp_logs.tls":             trust(func(s *Sink) SinkTLS { return s.OTLPLogs.TLS }),
		}
	}
	before := where(old, func(of func(*Sink) SinkTLS) any { return trusted(of(old).CA, of(old)) })
	now := where(s, func(of func(*Sink) SinkTLS) any {
		if of(s).CA.kept() {
			return trusted(of(old).CA, of(s))
		}
		return trusted(of(s).CA, of(s))
	})
	if u := s.Template.SecretURL; !u.kept() && !u.same(old.Template.SecretURL) {
		return definitionKey + ".template.secret_url"
	}
	for _, key := range slices.Sorted(maps.Keys(now)) {
		if !reflect.DeepEqual(now[key], before[key]) {
			return definitionKey + "." + key
		}
	}
	return ""
}

// virtualHost returns the value of the header Host, which decides who behind an address
// gets a request: on one that many share, it can be anybody. One that is kept is that of the
// headers before.
func virtualHost(headers, before []SinkHeader) string {
	for _, h := range headers {
		if !strings.EqualFold(h.Name, "Host") {
			continue
		}
		switch {
		case h.Secret.kept():
			return virtualHost(before, nil)
		case h.Secret.literal != nil:
			return *h.Secret.literal
		}
		return h.Value
	}
	return ""
}

// templates returns everything that is a template. All of them have the routing key, and one
// that fails, or not, by what the key is would tell it to who gave the template.
func templates(s *Sink) []string {
	t := &s.Template
	list := []string{t.URL, t.Method, t.Body, strconv.FormatBool(t.Text)}
	for _, h := range t.Headers {
		list = append(list, h.Name, h.Value)
	}
	return list
}

// trusted is what decides to whom a TLS connection speaks.
func trusted(ca Secret, t SinkTLS) any {
	text := ""
	if ca.literal != nil {
		text = *ca.literal
	}
	return [2]string{t.ServerName, text}
}

// eachSecret calls visit with every field of v that is a secret.
func eachSecret(key string, v reflect.Value, visit func(key string, v reflect.Value)) {
	switch {
	case v.Type() == secretType:
		visit(key, v)
	case v.Kind() == reflect.Struct:
		for i, name := range fieldKeys(v.Type()) {
			eachSecret(join(key, name), v.Field(i), visit)
		}
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			eachSecret(fmt.Sprintf("%s[%d]", key, i), v.Index(i), visit)
		}
	}
}
