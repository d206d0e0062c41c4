package derivation

import (
	"strings"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/auditlog"
)

// compiled is a rule that is ready to be matched.
type compiled struct {
	*Rule
	elements   []string
	operations []string
	verb       string // metadata "operation"
}

// ruleIndex finds rules by mount type and first path element.
var ruleIndex = compileRules()

func compileRules() map[string]map[string][]*compiled {
	index := make(map[string]map[string][]*compiled)
	for i := range Rules {
		r := &Rules[i]
		c := &compiled{Rule: r, elements: strings.Split(r.Path, "/"), operations: strings.Fields(r.Operations)}
		_, c.verb, _ = strings.Cut(r.Type, "/")
		for mount := range strings.FieldsSeq(r.Mounts) {
			if index[mount] == nil {
				index[mount] = make(map[string][]*compiled)
			}
			index[mount][c.elements[0]] = append(index[mount][c.elements[0]], c)
		}
	}
	return index
}

// capture is a name in a path pattern and what stands there.
type capture struct{ name, value string }

// match compares a path below the mount with the pattern.
func (c *compiled) match(rel string, captures []capture) ([]capture, bool) {
	rel = strings.TrimSuffix(rel, "/")
	for i, pattern := range c.elements {
		if name, ok := strings.CutSuffix(pattern, "...}"); ok {
			// The rest, up to the elements of the pattern that follow.
			rest := rel
			for _, tail := range c.elements[i+1:] {
				if rest, ok = strings.CutSuffix(rest, "/"+tail); !ok {
					return nil, false
				}
			}
			return append(captures, capture{name[1:], rest}), rest != ""
		}
		element, rest, more := strings.Cut(rel, "/")
		switch {
		case pattern[0] == '{' && element != "":
			captures = append(captures, capture{pattern[1 : len(pattern)-1], element})
		case pattern != element:
			return nil, false
		}
		if last := i == len(c.elements)-1; last == more {
			return nil, false
		}
		rel = rest
	}
	return captures, true
}

// fits is true for a request of the right operation, mount class and moment.
func (c *compiled) fits(operation, class string, when When) bool {
	if c.When != when || c.Class != "" && c.Class != class {
		return false
	}
	for _, o := range c.operations {
		if o == operation || o == "write" && (isWrite(operation) || operation == "patch") {
			return true
		}
	}
	return false
}

// applyRules sends the events that do not come from the state of kv keys.
func (d *Deriver) applyRules(e *auditlog.Entry) {
	when, ok := moment(e)
	if !ok {
		return
	}
	at := whereIs(e)
	found := d.applyTable(e, at, when)
	if when == OnSuccess && e.Response.LeaseID != "" && at.kind != "system" && at.kind != "ns_system" {
		d.sendRule(e, at, "lease/issued", "issued", true, nil, "lease")
	}
	if found {
		return
	}
	switch {
	case when == OnSuccess && isLogin(e, at):
		d.sendRule(e, at, "auth/login", "login", true, nil, "method issued")
	case when == OnFailure && e.Says("permission denied"):
		reason := "token"
		if e.Auth.Denied() {
			reason = "policy"
		}
		d.sendRule(e, at, "request/denied", "denied", false,
			[]capture{{"request_operation", e.Request.Operation}, {"reason", reason}}, "")
	case when == OnRefusal && e.OverQuota():
		d.sendRule(e, at, "request/rate-limited", "rate-limited", false,
			[]capture{{"request_operation", e.Request.Operation}}, "")
	}
}

// moment tells when in its request an entry is, and whether it can give an event
// of the rules at all.
func moment(e *auditlog.Entry) (When, bool) {
	failed := e.Outcome().Failed()
	switch operation := e.Request.Operation; {
	case !e.IsResponse && failed:
		return OnRefusal, true
	case !e.IsResponse:
		return OnRequest, operation == "update" && strings.HasPrefix(e.Request.Path, "sys/s")
	case failed:
		return OnFailure, true
	case operation == "list" || operation == "scan" || operation == "help" || operation == "header":
		return OnSuccess, false
	default:
		return OnSuccess, true
	}
}

// isLogin is true for a response of an auth method that issues a token.
func isLogin(e *auditlog.Entry, at place) bool {
	return e.Response.Auth.Present && e.Request.Operation != "renew" && at.class == "auth" &&
		at.kind != "token" && at.kind != "ns_token"
}

// place is where a request of any mount went.
type place struct {
	kind  string // mount type
	class string
	path  string // of the mount without namespace; empty when it is not known
	rel   string
}

// wellKnown are the mounts that every server has, for entries without mount_type
// or mount_point.
var wellKnown = [...]place{
	{"system", "secret", "sys/", ""},
	{"token", "auth", "auth/token/", ""},
	{"identity", "secret", "identity/", ""},
	{"cubbyhole", "secret", "cubbyhole/", ""},
}

func whereIs(e *auditlog.Entry) place {
	r := &e.Request
	at := place{kind: e.MountType(), class: r.MountClass, rel: r.Path}
	if point := e.MountPoint(); point != "" {
		path, _ := strings.CutPrefix(point, Namespace(r.NamespacePath))
		if rel, ok := strings.CutPrefix(r.Path, path); ok {
			at.path, at.rel = path, rel
		}
	}
	if at.path == "" || at.kind == "" {
		for _, known := range wellKnown {
			if rel, ok := strings.CutPrefix(r.Path, known.path); ok {
				at.path, at.rel = known.path, rel
				if at.kind == "" {
					at.kind = known.kind
				}
				break
			}
		}
	}
	if at.path == "" && at.kind != "" { // Vault before 1.14: the usual depth of mounts
		cut := strings.IndexByte(r.Path, '/') + 1
		if r.Path[:cut] == "auth/" {
			cut += strings.IndexByte(r.Path[cut:], '/') + 1
		}
		at.path, at.rel = r.Path[:cut], r.Path[cut:]
	}
	if at.class == "" && at.path != "" {
		at.class = "secret"
		if strings.HasPrefix(at.path, "auth/") {
			at.class = "auth"
		}
	}
	return at
}

func (d *Deriver) applyTable(e *auditlog.Entry, at place, when When) bool {
	first, _, _ := strings.Cut(at.rel, "/")
	var memory [4]capture
	for _, kind := range [...]string{at.kind, "*"} {
		for _, c := range ruleIndex[kind][first] {
			if !c.fits(e.Request.Operation, at.class, when) {
				continue
			}
			if captures, ok := c.match(at.rel, memory[:0]); ok {
				d.sendRule(e, at, c.Type, c.verb, !c.Unmodified, captures, c.Extra)
				return true
			}
		}
	}
	return false
}

// sendRule sends an event of the rules.
func (d *Deriver) sendRule(e *auditlog.Entry, at place, kind, verb string, modified bool, captures []capture, extra string) {
	m := make(event.Fields, 0, 8)
	for _, c := range captures {
		if c.name != "_" {
			m.Set(c.name, c.value)
		}
	}
	m.Set(event.MetadataModified, "false")
	if modified {
		m.Set(event.MetadataModified, "true")
	}
	m.Set(event.MetadataOperation, verb)
	m.Set(event.MetadataPath, strings.TrimSuffix(e.Request.Path, "/"))
	for name := range strings.FieldsSeq(extra) {
		extraMetadata(&m, e, at, name)
	}
	var plugin *event.PluginInfo
	if at.kind != "" && at.path != "" {
		plugin = pluginInfo(e, at)
	}
	d.send(e, draft{kind: kind, metadata: m, plugin: plugin})
}

// extraMetadata adds what a rule has under Extra:
//
//	issued  of the token that the response issues: display_name, entity_id, policies
//	        (separated by commas) and token_type
//	lease   lease_id of the lease that the response has
//	method  the type of the auth method
func extraMetadata(m *event.Fields, e *auditlog.Entry, at place, name string) {
	set := func(key, value string) {
		if value != "" {
			m.Set(key, value)
		}
	}
	switch name {
	case "issued":
		a := &e.Response.Auth
		set("display_name", a.DisplayName)
		set("entity_id", a.EntityID)
		set("token_type", a.TokenType)
		var policies []string
		for p := range a.Policies.Elements() {
			if text, ok := p.Text(); ok {
				policies = append(policies, text)
			}
		}
		set("policies", strings.Join(policies, ","))
	case "lease":
		set("lease_id", e.Response.LeaseID)
	case "method":
		set("method", at.kind)
	}
}
