package eventfields

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/auditlog"
	"github.com/tocsin-events/tocsin/internal/rule/field"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// texts are for tests: what auditlog makes of an entry, as the elements of each field.
type texts map[string][]string

func (m texts) text(name, value string) {
	if value != "" {
		m[name] = []string{value}
	}
}

func (m texts) number(name string, v auditlog.Value) {
	if n, ok := v.Int(); ok && n >= 0 {
		m[name] = []string{fmt.Sprint(n)}
	}
}

func (m texts) list(name string, v auditlog.Value) {
	for e := range v.Elements() {
		m[name] = append(m[name], anyText(e))
	}
}

// anyText is a value as a text without its quotes, or what is no text as JSON.
func anyText(v auditlog.Value) string {
	if s, ok := v.Text(); ok {
		return s
	}
	var b strings.Builder
	if v.Kind() == auditlog.Object || v.Kind() == auditlog.Array {
		in := false
		for i := 0; i < len(v.Raw()); i++ {
			switch c := v.Raw()[i]; {
			case c == '"':
				in = !in
				b.WriteByte(c)
			case c == '\\':
				b.WriteString(v.Raw()[i : i+2])
				i++
			case in || !strings.ContainsRune(" \t\r\n", rune(c)):
				b.WriteByte(c)
			}
		}
		return b.String()
	}
	return v.Raw()
}

func (m texts) any(name string, v auditlog.Value) {
	if v.Present() {
		m[name] = []string{anyText(v)}
	}
}

func (m texts) auth(prefix string, a *auditlog.Auth) {
	m.text(prefix+".display_name", a.DisplayName)
	m.text(prefix+".entity_id", a.EntityID)
	m.text(prefix+".client_token", a.ClientToken)
	m.text(prefix+".accessor", a.Accessor)
	m.text(prefix+".token_type", a.TokenType)
	m.text(prefix+".token_issue_time", a.IssueTime)
	m.number(prefix+".token_ttl", a.TokenTTL)
	m.list(prefix+".policies", a.Policies)
	m.any(prefix+".metadata[username]", a.Metadata.Get("username"))
	if a.Policies.Kind() == auditlog.Array {
		root := slices.Contains(slices.Collect(func(yield func(string) bool) {
			for p := range a.Policies.Elements() {
				if s, ok := p.Text(); ok && !yield(s) {
					return
				}
			}
		}), "root")
		m[prefix+".is_root"] = []string{fmt.Sprint(root)}
	}
}

// expected returns what an entry has, by what auditlog says.
func expected(e *auditlog.Entry) texts {
	m := texts{"audit.request.namespace": {e.Request.NamespacePath}}
	m.text("audit.type", e.Type)
	m.text("audit.error", e.Error)
	if e.TimeText != "" {
		m["audit.time"] = []string{time.Unix(0, nanosOf(e.Time)).UTC().Format(time.RFC3339Nano)}
	}
	m.auth("audit.auth", &e.Auth)
	if allowed, ok := e.Auth.PolicyResults.Get("allowed").Bool(); ok {
		m["audit.auth.allowed"] = []string{fmt.Sprint(allowed)}
	}
	for p := range e.Auth.PolicyResults.Get("granting_policies").Elements() {
		for name, v := range p.Members() {
			if name == "name" {
				m["audit.auth.granting_policies"] = append(m["audit.auth.granting_policies"], anyText(v))
				break
			}
		}
	}
	q := &e.Request
	m.text("audit.request.id", q.ID)
	m.text("audit.request.client_id", q.ClientID)
	m.text("audit.request.operation", q.Operation)
	m.text("audit.request.path", q.Path)
	m.text("audit.request.mount_point", q.MountPoint)
	m.text("audit.request.mount_type", q.MountType)
	m.text("audit.request.mount_class", q.MountClass)
	m.text("audit.request.mount_accessor", q.MountAccessor)
	m.text("audit.request.mount_running_version", q.MountRunningVersion)
	m.text("audit.request.client_token", q.ClientToken)
	m.text("audit.request.client_token_accessor", q.ClientTokenAccessor)
	m.text("audit.request.namespace.id", q.NamespaceID)
	m.text("audit.request.remote_address", q.RemoteAddress)
	m.number("audit.remote_port", q.RemotePort)
	m.number("audit.request.wrap_ttl", q.WrapTTL)
	m.any("audit.request.data", q.Data.Value)
	m.any("audit.request.data[/ttl]", q.Data.Get("ttl"))
	m.any("audit.request.data[type]", q.Data.Get("type"))
	m.any("audit.request.data[/options/cas]", q.Data.Get("options").Get("cas"))
	if values := q.Headers.Get("x-op-seq"); values.Kind() == auditlog.Array {
		var list []string
		for v := range values.Elements() {
			if s, ok := v.Text(); ok {
				list = append(list, s)
			} else {
				list = append(list, v.Raw())
			}
		}
		if list != nil {
			m["audit.request.header[X-Op-Seq]"] = []string{strings.Join(list, ", ")}
		}
	} else {
		m.any("audit.request.header[X-Op-Seq]", values)
	}
	if a, ok := addressOf(q.RemoteAddress); ok {
		m["audit.remote_address"] = []string{a.String()}
	}
	p := &e.Response
	m.text("audit.response.mount_point", p.MountPoint)
	m.text("audit.response.mount_type", p.MountType)
	m.text("audit.response.mount_class", p.MountClass)
	m.text("audit.response.mount_accessor", p.MountAccessor)
	m.text("audit.response.mount_running_plugin_version", p.MountVersion)
	m.text("audit.response.lease_id", p.LeaseID)
	m.text("audit.response.redirect", p.Redirect)
	m.text("audit.response.wrap_info.token", p.Wrap.Token)
	m.text("audit.response.wrap_info.accessor", p.Wrap.Accessor)
	m.text("audit.response.wrap_info.wrapped_accessor", p.Wrap.WrappedAccessor)
	m.text("audit.response.wrap_info.creation_path", p.Wrap.CreationPath)
	m.number("audit.response.wrap_info.ttl", p.Wrap.TTL)
	m.list("audit.response.warnings", p.Warnings)
	m.any("audit.response.data", p.Data.Value)
	m.any("audit.response.data[/version]", p.Data.Get("version"))
	m.any("audit.response.data[/metadata/version]", p.Data.Get("metadata").Get("version"))
	m.number("audit.response.status", p.Data.Get("http_status_code"))
	m.auth("audit.response.auth", &p.Auth)
	m.text("audit.mount_point", e.MountPoint())
	m.text("audit.mount_type", e.MountType())
	m.text("audit.mount_accessor", e.MountAccessor())
	for _, s := range []string{e.Auth.EntityID, e.Auth.Accessor, e.Auth.ClientToken, q.RemoteAddress} {
		if s != "" {
			m.text("audit.client", s)
			break
		}
	}
	if o := e.Outcome(); o != auditlog.Unanswered {
		m["audit.failed"] = []string{fmt.Sprint(o.Failed())}
	}
	return m
}

// compared are the fields that the test compares.
func compared() []string {
	list := []string{
		"audit.auth.metadata[username]", "audit.response.auth.metadata[username]", "audit.request.data[/ttl]", "audit.request.data[type]",
		"audit.request.data[/options/cas]", "audit.request.header[X-Op-Seq]", "audit.response.data[/version]", "audit.response.data[/metadata/version]",
	}
	// What auditlog does not know is in other tests.
	others := []string{
		"audit.outcome", "audit.denied", "audit.is_login", "audit.duration", "audit.duration.ms", "token_policies", "identity_policies", "num_uses",
		"remaining_uses", "request_uri", "replication_cluster", "client_certificate_serial_number", "policy_override",
	}
	for _, f := range auditFields() {
		if !f.Arg.Required && !slices.ContainsFunc(others, func(s string) bool { return strings.HasSuffix(f.Name, s) }) {
			list = append(list, f.Name)
		}
	}
	return list
}

// shown returns a value as people write it.
func shown(f *field.Field, elements []field.Element) (list []string) {
	for _, e := range elements {
		switch f.Type {
		case sourceplugin.String, sourceplugin.IPNet:
			list = append(list, e.Text)
		case sourceplugin.IPAddr:
			a, _ := netip.AddrFromSlice([]byte(e.Text))
			list = append(list, a.String())
		case sourceplugin.Bool:
			list = append(list, fmt.Sprint(e.Number != 0))
		case sourceplugin.AbsTime:
			list = append(list, time.Unix(0, int64(e.Number)).UTC().Format(time.RFC3339Nano))
		default:
			list = append(list, fmt.Sprint(e.Number))
		}
	}
	return list
}

// differ looks for fields that are not what auditlog makes of an entry.
func differ(t *testing.T, r *Reader, names []string, list []*field.Field, e *auditlog.Entry, line []byte) {
	out := &event.Event{Type: typeRequest, Time: e.Time, Data: line, DataContentType: "application/json"}
	if e.IsResponse {
		out.Type = typeResponse
	}
	r.Event(t.Context(), out)
	want := expected(e)
	for i, name := range names {
		if got := shown(list[i], r.Values(i)); !slices.Equal(got, want[name]) {
			t.Errorf("%s is %q instead of %q in\n%s", name, got, want[name], line)
		}
	}
}

// comparison returns a Reader of the fields that are compared.
func comparison(t testing.TB) (*Reader, []string, []*field.Field) {
	names := compared()
	q := field.NewRequests(Fields("tocsin"))
	var list []*field.Field
	for _, name := range names {
		add(t, q, name)
		list = append(list, q.List()[len(q.List())-1].Field)
	}
	r, err := NewReader("tocsin", q.List(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r, names, list
}

// All fields of all entries that were recorded are what auditlog says.
func TestAuditFieldsAreThoseOfAuditlog(t *testing.T) {
	t.Parallel()
	r, names, list := comparison(t)
	lines := recorded(t)
	b, err := os.ReadFile("../auditlog/testdata/openbao-option-variants.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var v struct{ Entry json.RawMessage }
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, v.Entry)
	}
	lines = append(lines, strange()...)
	seen := make(texts)
	for _, line := range lines {
		var p auditlog.Parser
		e, err := p.Parse(line)
		if err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		differ(t, r, names, list, e, e.Line())
		for name := range expected(e) {
			seen[name] = nil
		}
	}
	for _, name := range names {
		if _, ok := seen[name]; !ok {
			t.Errorf("no entry has the field %s", name)
		}
	}
}

// strange are entries that no server was seen to write, but that auditlog reads.
func strange() (lines [][]byte) {
	for _, s := range []string{
		`{"type":"response","time":"2026-11-27T12:00:00+02:00","error":"","auth":null,"request":null,"response":null}`,
		`{"request":{"id":"\u0061b\n","oper\u0061tion":"read","path":"a\"b\\c","remote_address":"[::1]:80","remote_port":4294967296,"namespace":{"id":"x","path":"a/b/"}},"type":"request"}`,
		`{"type":"response","request":{"data":{"x":1,"x":2,"ttl":"a","ttl":"b","type":[1, {"a" : " "}],"options":{"cas":0}}},"response":{"data":{"error":"no"},"redirect":"http://x","wrap_info":{"ttl":-1},"secret":{"lease_id":"a/b/c"}}}`,
		`{"type":"response","response":{"data":{"error":null}}}`,
		`{"type":"response","response":{"data":{"error":"x","data":null}}}`,
		`{"type":"response","response":{"data":{"error":"x","more":null}}}`,
		`{"type":"response","response":{"secret":{},"data":{"error":"x"}}}`,
		`{"type":"response","response":{"secret":null,"data":{"\u0065rror":"x"}}}`,
		`{"type":"response","response":{"data":{"http_status_code":404},"warnings":["a","\ud800",1,null,[2, 3]],"headers":{}}}`,
		`{"type":"response","response":{"data":{"http_status_code":99999999999999999999}}}`,
		`{"type":"response","response":{"data":{"http_status_code":"404"}}}`,
		`{"type":"response","auth":{"policies":null,"metadata":{"username":{"a":1}},"token_ttl":18446744073709551616},"response":{"auth":{"policies":["root"],"token_ttl":0,"entity_id":"e","token_issue_time":"t","metadata":{"username":"u"}}}}`,
		`{"type":"kmip-response","auth":{"policies":"root","policy_results":{"allowed":"yes","granting_policies":[{"name":"a\tb"},{},5,{"type":"acl","name":"b"}]}},"request":{"wrap_ttl":60,"headers":{"x-op-seq":["a","b\u0000",1]}},"response":{"wrap_info":{"ttl":60,"token":"t","accessor":"a","wrapped_accessor":"w","creation_path":"p"}}}`,
		`{"type":"request","request":{"headers":{"x-op-seq":[]},"data":{"type":[ ]}}}`,
		`{"type":"request","request":{"headers":{"x-op-seq":"one"},"remote_address":"fe80::1%eth0","data":"text"}}`,
		" \t{ \"type\" :\n\"request\" , \"request\" : { \"path\" : \"p\" , \"data\" : { } } } ",
	} {
		lines = append(lines, []byte(s))
	}
	return lines
}

// FuzzAudit: whatever is no entry does no harm, and what is one has the values that auditlog says.
func FuzzAudit(f *testing.F) {
	for i, line := range append(recorded(f), strange()...) {
		if i%40 == 0 || i > 900 {
			f.Add(line)
		}
	}
	r, names, list := comparison(f)
	f.Fuzz(func(t *testing.T, line []byte) {
		var p auditlog.Parser
		e, err := p.Parse(line)
		if err == nil {
			differ(t, r, names, list, e, e.Line())
			return
		}
		for _, eventType := range []string{typeRequest, typeResponse} {
			r.Event(t.Context(), &event.Event{Type: eventType, Data: line, DataContentType: "application/json"})
			for i := range names {
				r.Values(i)
			}
		}
	})
}
