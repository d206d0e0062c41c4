package eventfields

import (
	"math"
	"net/netip"
	"strings"
	"time"
	"unsafe"

	"github.com/tocsin-events/tocsin/internal/jsontext"
	"github.com/tocsin-events/tocsin/internal/rule/field"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// Types of the events that are entries of audit logs, as internal/source/vaultaudit has them.
const (
	typeRequest  = "audit/request"
	typeResponse = "audit/response"
)

// auditFields are those of entries of audit logs. Their names are the places of an entry, as a
// server writes it, with "audit." before them; those that are judged by several places have names
// of their own.
func auditFields() []definition {
	const (
		text, number = sourceplugin.String, sourceplugin.Uint64
		truth        = sourceplugin.Bool
	)
	list := []definition{
		plain("audit.type", text, "The kind of the entry: request when the server begins, response when it is done. Mounts of some plugins write kmip-request and the like.", nil).at(auditType, "type"),
		plain("audit.time", sourceplugin.AbsTime, "When the entry was written, in nanoseconds since 1970.", nil).at(auditTime, "time"),
		auditText("audit.error", "The error of the server, or of a plugin of it. Whether a request has failed is for audit.outcome to say: many failures have no error here.", "error"),

		judged("audit.outcome", text, "How the request ended, in the words of the metric tocsin_audit_requests_total: ok, not_found, denied (a failed login, too), rejected, rate_limited or error. A request entry has it only with an error; others have not ended yet.",
			func(o string, q *query) []field.Element { return q.text(o) }),
		judged("audit.denied", truth, "Whether the outcome is denied: by a policy, because of a bad token, or a login that failed. A request entry has it only with an error.",
			func(o string, q *query) []field.Element { return q.truth(o == outcomeDenied) }),
		judged("audit.failed", truth, "Whether the outcome is other than ok. A request entry has it only with an error.",
			func(o string, q *query) []field.Element { return q.truth(o != outcomeOK) }),
		plain("audit.is_login", truth, "Whether it is a login: a request that asks an auth method for a token.", nil).at(auditLogin),
		duration("audit.duration", sourceplugin.RelTime, "How long the request took, in nanoseconds: from its request entry to this response entry. Not known if the request entry was not seen, or too long ago.", 1),
		duration("audit.duration.ms", number, "The same in milliseconds.", 1e6),

		plain("audit.client", text, "Who made the request, fit to tell clients apart: the id of its entity, or else the accessor of its token, the token, or the address that it came from. Accessors and tokens are hashed.", nil).at(auditClient),
		plain("audit.remote_address", sourceplugin.IPAddr, "The address that the request came from. Of a server behind a proxy it is that of the proxy, unless the server trusts it.", nil).at(auditAddress, "request", "remote_address"),
		auditNumber("audit.remote_port", "The port that the request came from.", "request", "remote_port"),
		either("audit.mount_point", "The path of the mount, with its namespace and a slash at its end, from wherever the entry has it.", "mount_point", false),
		either("audit.mount_type", "The type of the mount, such as kv, system or token, from wherever the entry has it.", "mount_type", false),
		either("audit.mount_accessor", "The accessor of the mount, from wherever the entry has it. Request entries often do not.", "mount_accessor", true),
	}
	list = append(list, authFields("audit.auth", "the caller", "auth")...)
	list = append(list,
		auditText("audit.request.id", "The id of the request, which its request entry and its response entry have in common.", "request", "id"),
		auditText("audit.request.operation", "What was asked for: create, update, read, list, delete, patch, help, renew, revoke, ...", "request", "operation"),
		auditText("audit.request.path", "The path of the request, without its namespace, for example secret/data/app.", "request", "path"),
		plain("audit.request.namespace", text, "The namespace of the request, with a slash at its end; empty for the root namespace.", nil).at(auditNamespace, "request", "namespace", "path"),
		auditText("audit.request.namespace.id", "The id of the namespace; root for the root namespace.", "request", "namespace", "id"),
		auditText("audit.request.mount_point", "The path of the mount, with its namespace and a slash at its end.", "request", "mount_point"),
		auditText("audit.request.mount_type", "The type of the mount.", "request", "mount_type"),
		auditText("audit.request.mount_class", "The class of the mount: secret or auth.", "request", "mount_class"),
		auditText("audit.request.mount_accessor", "The accessor of the mount.", "request", "mount_accessor"),
		auditText("audit.request.mount_running_version", "The version of the plugin of the mount.", "request", "mount_running_version"),
		auditText("audit.request.client_id", "A hash of the entity, or of the policies, of the caller.", "request", "client_id"),
		auditText("audit.request.client_token", "The token, hashed.", "request", "client_token"),
		auditText("audit.request.client_token_accessor", "The accessor of the token, hashed.", "request", "client_token_accessor"),
		auditText("audit.request.remote_address", "The address that the request came from, as the server wrote it.", "request", "remote_address"),
		auditNumber("audit.request.wrap_ttl", "For how long the answer was to be wrapped, in seconds.", "request", "wrap_ttl"),
		auditText("audit.request.request_uri", "The URI of the request, where it differs from the path.", "request", "request_uri"),
		auditText("audit.request.replication_cluster", "The cluster that the request was sent to.", "request", "replication_cluster"),
		auditText("audit.request.client_certificate_serial_number", "The serial number of the certificate of the client.", "request", "client_certificate_serial_number"),
		auditTruth("audit.request.policy_override", "Whether soft-mandatory policies were to be overridden.", "request", "policy_override"),
		auditData("audit.request.data", "The data of the request", "request", "data"),
		auditHeader("audit.request.header", "A header of the request that the server was told to log, by its name. Several values are joined with a comma.", "request", "headers"),

		auditText("audit.response.mount_point", "The path of the mount, with its namespace and a slash at its end.", "response", "mount_point"),
		auditText("audit.response.mount_type", "The type of the mount.", "response", "mount_type"),
		auditText("audit.response.mount_class", "The class of the mount: secret or auth.", "response", "mount_class"),
		auditText("audit.response.mount_accessor", "The accessor of the mount.", "response", "mount_accessor"),
		auditText("audit.response.mount_running_plugin_version", "The version of the plugin of the mount.", "response", "mount_running_plugin_version"),
		auditNumber("audit.response.status", "The HTTP status of the answer, where a plugin set it (http_status_code of the data).", "response", "data", "http_status_code"),
		auditData("audit.response.data", "The data of the answer", "response", "data"),
		auditText("audit.response.lease_id", "The id of the lease of the answer.", "response", "secret", "lease_id"),
		auditTexts("audit.response.warnings", "The warnings of the answer.", "response", "warnings"),
		auditText("audit.response.redirect", "Where the answer sent the client.", "response", "redirect"),
		auditHeader("audit.response.header", "A header of the answer, by its name. Several values are joined with a comma.", "response", "headers"),
		auditText("audit.response.wrap_info.token", "The token of a wrapped answer, hashed.", "response", "wrap_info", "token"),
		auditText("audit.response.wrap_info.accessor", "The accessor of that token, hashed.", "response", "wrap_info", "accessor"),
		auditText("audit.response.wrap_info.wrapped_accessor", "The accessor of the token that was wrapped, hashed.", "response", "wrap_info", "wrapped_accessor"),
		auditText("audit.response.wrap_info.creation_path", "The path whose answer was wrapped.", "response", "wrap_info", "creation_path"),
		auditNumber("audit.response.wrap_info.ttl", "For how long the answer is wrapped, in seconds.", "response", "wrap_info", "ttl"),
	)
	return append(list, authFields("audit.response.auth", "the token that was issued", "response", "auth")...)
}

// authFields are those of the caller, or of the token that was issued.
func authFields(prefix, whose string, path ...string) []definition {
	below := func(names ...string) []string { return append(path[:len(path):len(path)], names...) }
	metadata := auditText(prefix+".metadata", "A value of the metadata of "+whose+", by its key, for example "+prefix+".metadata[username].")
	metadata.Arg = sourceplugin.ArgRule{Required: true, Key: true}
	metadata.bind = func(r *Reader, q *query) {
		q.node = r.pick.want(0, below("metadata", q.arg)...)
		q.get = auditValue
	}
	list := []definition{
		auditText(prefix+".display_name", "The display name of "+whose+", for example userpass-alice.", below("display_name")...),
		auditText(prefix+".entity_id", "The id of the entity of "+whose+".", below("entity_id")...),
		auditText(prefix+".client_token", "The token, hashed.", below("client_token")...),
		auditText(prefix+".accessor", "The accessor of the token, hashed unless the audit device is configured otherwise. Batch tokens have none.", below("accessor")...),
		auditText(prefix+".token_type", "The type of the token: service, batch, or default where no token is known.", below("token_type")...),
		auditTexts(prefix+".policies", "All policies of "+whose+".", below("policies")...),
		auditTexts(prefix+".token_policies", "The policies that the token itself has.", below("token_policies")...),
		auditTexts(prefix+".identity_policies", "The policies that the token has by its entity and its groups.", below("identity_policies")...),
		plain(prefix+".is_root", sourceplugin.Bool, "Whether root is one of the policies.", nil).at(auditRoot, below("policies")...),
		auditNumber(prefix+".token_ttl", "For how long the token was valid when it was issued, in seconds. A root token has none, or 0.", below("token_ttl")...),
		auditText(prefix+".token_issue_time", "When the token was issued, as the server wrote it.", below("token_issue_time")...),
		auditNumber(prefix+".num_uses", "How often the token may be used.", below("num_uses")...),
		auditNumber(prefix+".remaining_uses", "How often the token may still be used.", below("remaining_uses")...),
		metadata,
	}
	if prefix == "audit.auth" {
		list = append(list,
			auditTruth(prefix+".allowed", "What the policies decided. It is not known of logins, and of tokens that are not valid.", below("policy_results", "allowed")...),
			plain(prefix+".granting_policies", sourceplugin.String, "The names of the policies that allowed it.", nil).at(auditGranting, below("policy_results", "granting_policies")...).list(),
		)
	}
	return list
}

// at has the definition answered from a place of the entry.
func (d definition) at(get func(*Reader, *query) []field.Element, path ...string) definition {
	d.bind = func(r *Reader, q *query) {
		if len(path) > 0 {
			q.node = r.pick.want(0, path...)
		}
		switch d.Name {
		case "audit.client":
			r.audit.wantClient(&r.pick)
		case "audit.is_login":
			r.audit.wantLogin(&r.pick)
		}
		q.get = func(r *Reader, q *query) []field.Element {
			if !r.audited(q) {
				return nil
			}
			return get(r, q)
		}
	}
	return d
}

func (d definition) list() definition {
	d.List = true
	return d
}

// audited says whether the event is an entry of an audit log, and reads it.
func (r *Reader) audited(q *query) bool {
	return (r.e.Type == typeResponse || r.e.Type == typeRequest) && r.read(q)
}

// textAt returns the text at a place; "" for what is none.
func (r *Reader) textAt(q *query, node int) string {
	raw := r.pick.only(node)
	if raw == "" || raw[0] != '"' {
		return ""
	}
	return q.unquoted(raw)
}

func auditText(name, description string, path ...string) definition {
	return plain(name, sourceplugin.String, description, nil).at(func(r *Reader, q *query) []field.Element {
		return q.filled(r.textAt(q, q.node))
	}, path...)
}

// auditValue answers with what is at a place, whatever it is.
func auditValue(r *Reader, q *query) []field.Element {
	if !r.audited(q) {
		return nil
	}
	return q.json(r.pick.only(q.node))
}

func auditNumber(name, description string, path ...string) definition {
	return plain(name, sourceplugin.Uint64, description, nil).at(func(r *Reader, q *query) []field.Element {
		n, ok := numberOf(r.pick.only(q.node))
		if !ok {
			return nil
		}
		return q.number(n)
	}, path...)
}

// numberOf returns a JSON number from 0 on that is written without fraction and exponent.
func numberOf(raw string) (n uint64, ok bool) {
	if raw == "" {
		return 0, false
	}
	for i := range len(raw) {
		d := uint64(raw[i] - '0')
		if d > 9 || n > (math.MaxUint64-d)/10 {
			return 0, false
		}
		n = n*10 + d
	}
	return n, true
}

func auditTruth(name, description string, path ...string) definition {
	return plain(name, sourceplugin.Bool, description, nil).at(func(r *Reader, q *query) []field.Element {
		switch r.pick.only(q.node) {
		case "true":
			return q.number(1)
		case "false":
			return q.number(0)
		}
		return nil
	}, path...)
}

func auditTexts(name, description string, path ...string) definition {
	return plain(name, sourceplugin.String, description, nil).at(func(r *Reader, q *query) []field.Element {
		q.list, q.buf = q.list[:0], q.buf[:0]
		for raw := range elements(r.pick.only(q.node)) {
			q.list = append(q.list, field.Element{Text: q.also(raw)})
		}
		return q.list
	}, path...).list()
}

// also returns the text that a JSON string stands for, or JSON that is none. What it returned
// before stays as it is.
func (q *query) also(raw string) string {
	begin := len(q.buf)
	switch {
	case raw[0] != '"':
		if isCompact(raw) {
			return raw
		}
		q.buf = appendCompact(q.buf, raw)
	case strings.IndexByte(raw, '\\') < 0:
		return raw[1 : len(raw)-1]
	default:
		q.buf = jsontext.AppendUnescaped(q.buf, raw[1:len(raw)-1])
	}
	return unsafe.String(unsafe.SliceData(q.buf[begin:]), len(q.buf)-begin)
}

// alsoText is also for what is a text, and "" for all else.
func (q *query) alsoText(raw string) string {
	if raw == "" || raw[0] != '"' {
		return ""
	}
	return q.also(raw)
}

func auditData(name, what string, path ...string) definition {
	d := plain(name, sourceplugin.String, what+": with an argument, the value at that place, a JSON pointer such as /options/version, whose first slash may be left out; without, all of it as JSON. Texts are hashed unless the mount is tuned otherwise; names, numbers and true and false are not.", nil)
	d.Arg = sourceplugin.ArgRule{Key: true}
	d.bind = func(r *Reader, q *query) {
		q.node = r.pick.want(0, path...)
		if q.argPresent {
			q.node = r.pick.want(q.node, pointer(q.arg)...)
		}
		q.get = auditValue
	}
	return d
}

func auditHeader(name, description string, path ...string) definition {
	d := plain(name, sourceplugin.String, description, nil)
	d.Arg = sourceplugin.ArgRule{Required: true, Key: true}
	d.bind = func(r *Reader, q *query) {
		q.node = r.pick.want(r.pick.want(0, path...), strings.ToLower(q.arg))
		q.get = func(r *Reader, q *query) []field.Element {
			if !r.audited(q) {
				return nil
			}
			raw := r.pick.only(q.node)
			if raw == "" || raw[0] != '[' {
				return q.json(raw)
			}
			q.buf = q.buf[:0]
			n := 0
			for value := range elements(raw) {
				if n++; n > 1 {
					q.buf = append(q.buf, ", "...)
				}
				if value[0] == '"' {
					q.buf = jsontext.AppendUnescaped(q.buf, value[1:len(value)-1])
				} else {
					q.buf = appendCompact(q.buf, value)
				}
			}
			if n == 0 {
				return nil
			}
			return q.bytes()
		}
	}
	return d
}

// elements yields the elements of a JSON array; nothing for other JSON.
func elements(raw string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		if raw == "" || raw[0] != '[' {
			return
		}
		for i := space(raw, 1); i < len(raw) && raw[i] != ']'; {
			end := skip(raw, i)
			if end < 0 || !yield(raw[i:end]) {
				return
			}
			if i = space(raw, end); i < len(raw) && raw[i] == ',' {
				i = space(raw, i+1)
			}
		}
	}
}

// either is a text of the mount that request and response have.
func either(name, description, member string, responseFirst bool) definition {
	d := plain(name, sourceplugin.String, description, nil)
	d.bind = func(r *Reader, q *query) {
		first, second := r.pick.want(0, "request", member), r.pick.want(0, "response", member)
		if responseFirst {
			first, second = second, first
		}
		q.get = func(r *Reader, q *query) []field.Element {
			if !r.audited(q) {
				return nil
			}
			if s := r.textAt(q, first); s != "" {
				return q.text(s)
			}
			return q.filled(r.textAt(q, second))
		}
	}
	return d
}

// auditType answers with the type, which a device may leave out.
func auditType(r *Reader, q *query) []field.Element {
	if s := r.textAt(q, q.node); s != "" {
		return q.text(s)
	}
	return q.text(r.e.Type[len("audit/"):])
}

func auditTime(r *Reader, q *query) []field.Element {
	t, err := time.Parse(time.RFC3339Nano, r.textAt(q, q.node))
	if err != nil {
		return nil
	}
	return q.number(uint64(nanosOf(t)))
}

func auditNamespace(r *Reader, q *query) []field.Element { return q.text(r.textAt(q, q.node)) }

func auditRoot(r *Reader, q *query) []field.Element {
	raw := r.pick.only(q.node)
	if raw == "" || raw[0] != '[' {
		return nil
	}
	for policy := range elements(raw) {
		if policy == `"root"` {
			return q.number(1)
		}
	}
	return q.number(0)
}

func auditGranting(r *Reader, q *query) []field.Element {
	q.list, q.buf = q.list[:0], q.buf[:0]
	for policy := range elements(r.pick.only(q.node)) {
		for name, value := range members(policy) {
			if name == "name" {
				q.list = append(q.list, field.Element{Text: q.also(value)})
				break
			}
		}
	}
	return q.list
}

// members yields the members of a JSON object, as JSON and without the quotes of the names;
// nothing for other JSON.
func members(raw string) func(yield func(name, value string) bool) {
	return func(yield func(name, value string) bool) {
		if raw == "" || raw[0] != '{' {
			return
		}
		for i := space(raw, 1); i < len(raw) && raw[i] == '"'; {
			end := skip(raw, i)
			if end < 0 {
				return
			}
			name := raw[i+1 : end-1]
			if strings.IndexByte(name, '\\') >= 0 {
				name = string(jsontext.AppendUnescaped(nil, name))
			}
			if i = space(raw, end); i >= len(raw) || raw[i] != ':' {
				return
			}
			i = space(raw, i+1)
			if end = skip(raw, i); end < 0 || !yield(name, raw[i:end]) {
				return
			}
			if i = space(raw, end); i < len(raw) && raw[i] == ',' {
				i = space(raw, i+1)
			}
		}
	}
}

func auditAddress(r *Reader, q *query) []field.Element {
	a, ok := addressOf(r.textAt(q, q.node))
	if !ok {
		return nil
	}
	if a.Is4() {
		b := a.As4()
		q.buf = append(q.buf[:0], b[:]...)
	} else {
		b := a.As16()
		q.buf = append(q.buf[:0], b[:]...)
	}
	return q.bytes()
}

// addressOf reads an address, with a port or not.
func addressOf(text string) (netip.Addr, bool) {
	if len(text) > 64 || text == "" {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		ap, err := netip.ParseAddrPort(text)
		if err != nil {
			return netip.Addr{}, false
		}
		a = ap.Addr()
	}
	return a.Unmap().WithZone(""), true
}
