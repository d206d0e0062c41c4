package auditlog

import (
	"bytes"
	"strings"
	"time"
)

// maxPrefixBytes is how far into a line its object may begin.
const maxPrefixBytes = 1 << 10

// Parser reads audit entries. The zero value is ready for use. A Parser is not
// safe for concurrent use.
type Parser struct {
	scan  scanner
	entry Entry
	known [2][]member // indexed members of request.data and response.data
}

// Parse reads one line of an audit log, with or without its newline. The Entry is
// valid until the next call of Parse. What it hands out stays valid and shares the
// memory of the line, which must not be written again. A line that is no entry
// gives a [*SyntaxError].
func (p *Parser) Parse(line []byte) (*Entry, error) {
	start, object, err := findObject(line)
	if err != nil {
		return nil, err
	}
	e := &p.entry
	*e = Entry{line: object[:len(object):len(object)]}
	p.scan.reset(e.text())
	if !p.envelope(e) {
		p.scan.err.Offset += start
		return nil, p.scan.err
	}
	return e, nil
}

// findObject returns the JSON object of the line and where it begins.
func findObject(line []byte) (start int, object []byte, err error) {
	// A file that was truncated below its writer begins with a run of NUL bytes.
	trimmed := bytes.TrimLeft(line, " \t\r\n\x00")
	start = len(line) - len(trimmed)
	object = bytes.TrimRight(trimmed, " \t\r\n")
	if len(object) == 0 {
		if start > 0 && bytes.IndexByte(line, 0) >= 0 {
			return 0, nil, &SyntaxError{Reason: ReasonNotJSON, Detail: "the line holds only NUL bytes"}
		}
		return 0, nil, &SyntaxError{Reason: ReasonEmpty, Detail: "the line is empty"}
	}
	if object[0] == '{' {
		return start, object, nil
	}
	head := object[:min(len(object), maxPrefixBytes)]
	if bytes.Contains(head, []byte("<json:")) {
		return 0, nil, &SyntaxError{Reason: ReasonXML, Detail: "the audit device writes format=jsonx; set format=json", Offset: start}
	}
	brace := bytes.IndexByte(head, '{')
	if brace < 0 {
		return 0, nil, &SyntaxError{Reason: ReasonNotJSON, Detail: "no JSON object in the line", Offset: start}
	}
	return start + brace, object[brace:], nil
}

func (p *Parser) envelope(e *Entry) bool {
	c := &p.scan
	var seen mask
	for c.open(); ; {
		name, ok := c.member()
		if !ok {
			break
		}
		switch name {
		case "time":
			ok = seen.once(c, 0) && p.str(&e.TimeText)
		case "type":
			ok = seen.once(c, 1) && p.str(&e.Type)
		case "error":
			ok = seen.once(c, 2) && p.str(&e.Error)
		case "auth":
			ok = seen.once(c, 3) && p.auth(&e.Auth)
		case "request":
			ok = seen.once(c, 4) && p.request(&e.Request)
		case "response":
			ok = seen.once(c, 5) && p.response(&e.Response)
		default:
			_, ok = c.skip()
		}
		if !ok {
			return false
		}
	}
	if c.err != nil {
		return false
	}
	if c.peek(); c.i != len(c.s) {
		return c.fail(ReasonNotJSON, "something stands behind the object")
	}
	return p.check(e)
}

// check tells an audit entry from other JSON.
func (p *Parser) check(e *Entry) bool {
	c := &p.scan
	c.i = 0
	switch {
	case e.Type == "request" || strings.HasSuffix(e.Type, "-request"):
	case e.Type == "response" || strings.HasSuffix(e.Type, "-response"):
		e.IsResponse = true
	case e.Type == "" && e.Request.Present: // left out by the device's field exclusion
		e.IsResponse = e.Response.Present
		e.Type = "request"
		if e.IsResponse {
			e.Type = "response"
		}
	default:
		return c.fail(ReasonSchema, "the type is neither request nor response")
	}
	if e.TimeText != "" {
		t, err := time.Parse(time.RFC3339Nano, e.TimeText)
		if err != nil {
			return c.fail(ReasonTime, "time is not RFC 3339")
		}
		e.Time = t
	}
	e.tokenless = e.Auth.ClientToken == "" && e.Request.ClientToken == "" &&
		e.Response.Auth.ClientToken == "" && e.Response.Wrap.Token == ""
	return true
}

// mask notes which of up to 64 members were seen.
type mask uint64

func (m *mask) once(c *scanner, bit uint) bool {
	if *m&(1<<bit) != 0 {
		return c.fail(ReasonDuplicate, "a member occurs twice")
	}
	*m |= 1 << bit
	return true
}

// str reads a text; null is the empty text.
func (p *Parser) str(to *string) bool {
	c := &p.scan
	switch c.peek() {
	case '"':
		raw, escaped, ok := c.text()
		if escaped && ok {
			raw = unescape(raw)
		}
		*to = raw
		return ok
	case 'n':
		return c.literal("null")
	case 0:
		return c.unexpected("a text")
	}
	return c.fail(ReasonSchema, "a member that should be a text is not")
}

// value reads any value; null counts as absent.
func (p *Parser) value(to *Value) bool {
	raw, ok := p.scan.skip()
	if raw != "null" {
		to.raw = raw
	}
	return ok
}

// object enters an object; null is an absent one.
func (p *Parser) object(present *bool) (enter, ok bool) {
	c := &p.scan
	switch c.peek() {
	case '{':
		*present = true
		return true, c.open()
	case 'n':
		return false, c.literal("null")
	case 0:
		return false, c.unexpected("an object")
	}
	return false, c.fail(ReasonSchema, "a member that should be an object is not")
}

func (p *Parser) auth(a *Auth) bool {
	c := &p.scan
	enter, ok := p.object(&a.Present)
	if !enter {
		return ok
	}
	var seen mask
	for {
		name, ok := c.member()
		if !ok {
			return c.err == nil
		}
		switch name {
		case "client_token":
			ok = seen.once(c, 0) && p.str(&a.ClientToken)
		case "accessor":
			ok = seen.once(c, 1) && p.str(&a.Accessor)
		case "display_name":
			ok = seen.once(c, 2) && p.str(&a.DisplayName)
		case "entity_id":
			ok = seen.once(c, 3) && p.str(&a.EntityID)
		case "token_type":
			ok = seen.once(c, 4) && p.str(&a.TokenType)
		case "policies":
			ok = seen.once(c, 5) && p.value(&a.Policies)
		case "metadata":
			ok = seen.once(c, 6) && p.value(&a.Metadata)
		case "token_ttl":
			ok = seen.once(c, 7) && p.value(&a.TokenTTL)
		case "token_issue_time":
			ok = seen.once(c, 8) && p.str(&a.IssueTime)
		case "policy_results":
			ok = seen.once(c, 9) && p.value(&a.PolicyResults)
		default:
			_, ok = c.skip()
		}
		if !ok {
			return false
		}
	}
}

func (p *Parser) request(r *Request) bool {
	c := &p.scan
	enter, ok := p.object(&r.Present)
	if !enter {
		return ok
	}
	var seen mask
	for {
		name, ok := c.member()
		if !ok {
			return c.err == nil
		}
		switch name {
		case "id":
			ok = seen.once(c, 0) && p.str(&r.ID)
		case "client_id":
			ok = seen.once(c, 1) && p.str(&r.ClientID)
		case "operation":
			ok = seen.once(c, 2) && p.str(&r.Operation)
		case "path":
			ok = seen.once(c, 3) && p.str(&r.Path)
		case "mount_point":
			ok = seen.once(c, 4) && p.str(&r.MountPoint)
		case "mount_type":
			ok = seen.once(c, 5) && p.str(&r.MountType)
		case "mount_accessor":
			ok = seen.once(c, 6) && p.str(&r.MountAccessor)
		case "mount_class":
			ok = seen.once(c, 7) && p.str(&r.MountClass)
		case "mount_running_version":
			ok = seen.once(c, 8) && p.str(&r.MountRunningVersion)
		case "client_token":
			ok = seen.once(c, 9) && p.str(&r.ClientToken)
		case "client_token_accessor":
			ok = seen.once(c, 10) && p.str(&r.ClientTokenAccessor)
		case "namespace":
			ok = seen.once(c, 11) && p.namespace(r)
		case "remote_address":
			ok = seen.once(c, 12) && p.str(&r.RemoteAddress)
		case "remote_port":
			ok = seen.once(c, 13) && p.value(&r.RemotePort)
		case "wrap_ttl":
			ok = seen.once(c, 14) && p.value(&r.WrapTTL)
		case "headers":
			ok = seen.once(c, 15) && p.value(&r.Headers)
		case "data":
			ok = seen.once(c, 16) && p.data(&r.Data, 0)
		default:
			_, ok = c.skip()
		}
		if !ok {
			return false
		}
	}
}

func (p *Parser) namespace(r *Request) bool {
	c := &p.scan
	var present bool
	enter, ok := p.object(&present)
	if !enter {
		return ok
	}
	var seen mask
	for {
		name, ok := c.member()
		if !ok {
			return c.err == nil
		}
		switch name {
		case "id":
			ok = seen.once(c, 0) && p.str(&r.NamespaceID)
		case "path":
			ok = seen.once(c, 1) && p.str(&r.NamespacePath)
		default:
			_, ok = c.skip()
		}
		if !ok {
			return false
		}
	}
}

func (p *Parser) response(r *Response) bool {
	c := &p.scan
	enter, ok := p.object(&r.Present)
	if !enter {
		return ok
	}
	var seen mask
	for {
		name, ok := c.member()
		if !ok {
			return c.err == nil
		}
		switch name {
		case "mount_point":
			ok = seen.once(c, 0) && p.str(&r.MountPoint)
		case "mount_type":
			ok = seen.once(c, 1) && p.str(&r.MountType)
		case "mount_accessor":
			ok = seen.once(c, 2) && p.str(&r.MountAccessor)
		case "mount_class":
			ok = seen.once(c, 3) && p.str(&r.MountClass)
		case "mount_running_plugin_version":
			ok = seen.once(c, 4) && p.str(&r.MountVersion)
		case "auth":
			ok = seen.once(c, 5) && p.auth(&r.Auth)
		case "secret":
			ok = seen.once(c, 6) && p.secret(r)
		case "data":
			ok = seen.once(c, 7) && p.data(&r.Data, 1)
		case "wrap_info":
			ok = seen.once(c, 8) && p.wrap(&r.Wrap)
		case "warnings":
			ok = seen.once(c, 9) && p.value(&r.Warnings)
		case "redirect":
			ok = seen.once(c, 10) && p.str(&r.Redirect)
		case "headers":
			ok = seen.once(c, 11) && p.value(&r.Headers)
		default:
			_, ok = c.skip()
		}
		if !ok {
			return false
		}
	}
}

func (p *Parser) secret(r *Response) bool {
	c := &p.scan
	enter, ok := p.object(&r.HasSecret)
	if !enter {
		return ok
	}
	var seen mask
	for {
		name, ok := c.member()
		if !ok {
			return c.err == nil
		}
		if name == "lease_id" {
			ok = seen.once(c, 0) && p.str(&r.LeaseID)
		} else {
			_, ok = c.skip()
		}
		if !ok {
			return false
		}
	}
}

func (p *Parser) wrap(w *WrapInfo) bool {
	c := &p.scan
	enter, ok := p.object(&w.Present)
	if !enter {
		return ok
	}
	var seen mask
	for {
		name, ok := c.member()
		if !ok {
			return c.err == nil
		}
		switch name {
		case "token":
			ok = seen.once(c, 0) && p.str(&w.Token)
		case "accessor":
			ok = seen.once(c, 1) && p.str(&w.Accessor)
		case "wrapped_accessor":
			ok = seen.once(c, 2) && p.str(&w.WrappedAccessor)
		case "creation_path":
			ok = seen.once(c, 3) && p.str(&w.CreationPath)
		case "ttl":
			ok = seen.once(c, 4) && p.value(&w.TTL)
		default:
			_, ok = c.skip()
		}
		if !ok {
			return false
		}
	}
}

// data reads a data object and indexes the members that decide something. Data
// that is not an object is kept as it is, without members.
func (p *Parser) data(d *Data, slot int) bool {
	c := &p.scan
	if b := c.peek(); b != '{' {
		return p.value(&d.Value)
	}
	known := p.known[slot]
	clear(known[:cap(known)]) // so as not to hold on to an earlier line
	known = known[:0]
	start := c.i
	for c.open(); ; {
		name, ok := c.member()
		if !ok {
			break
		}
		at := c.i
		raw, ok := c.skip()
		if !ok {
			return false
		}
		d.n++
		if !isKnownData(name) {
			continue
		}
		for i := range known {
			if known[i].name == name {
				c.i = at
				return c.fail(ReasonDuplicate, "a member of data occurs twice")
			}
		}
		known = append(known, member{name, Value{raw}})
	}
	if c.err != nil {
		return false
	}
	p.known[slot] = known
	d.known = known
	d.raw = c.s[start:c.i]
	return true
}
