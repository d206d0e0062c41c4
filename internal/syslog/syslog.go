// Package syslog takes audit entries out of the syslog messages that they travel in:
// as Vault and OpenBao write them to the local socket, and as relays pass them on
// (RFC 3164, RFC 5424, with or without a priority, a host name, structured data, a
// byte order mark or an @cee cookie), in datagrams and in streams with octet counts
// or line feeds (RFC 6587).
//
// Of a header only its end matters: who sent an entry and when stands in the entry.
// The bytes behind the header are given out as they came. Whether they are an audit
// entry, and whether a relay has cut one short, is for package auditlog to say.
package syslog

import (
	"bytes"
	"sync"

	syslog "github.com/leodido/go-syslog/v4"
	"github.com/leodido/go-syslog/v4/rfc3164"
	"github.com/leodido/go-syslog/v4/rfc5424"
)

// maxHeaderBytes is the longest header that is recognised. RFC 5424 sets no limit
// for structured data; relays add a few hundred bytes.
const maxHeaderBytes = 16 << 10

// maxBraces is how many braces a header may have.
const maxBraces = 32

// maxKnownHeader is the longest header that a Parser remembers.
const maxKnownHeader = 512

// Parser finds the end of headers. It remembers the last one, because most messages
// of one sender within a second begin with the same bytes. A Parser is not safe for
// concurrent use; the zero value is ready for use.
type Parser struct {
	bsd  syslog.Machine // RFC 3164
	ietf syslog.Machine // RFC 5424

	known []byte // the last header, up to the first brace behind it
	body  int    // where in known the message begins
}

// Body returns what a syslog message carries: the message without header, byte order
// mark, @cee cookie, the spaces around these, and line ends and NUL bytes at its end.
// A message without a header, or with one that is in no known format, comes back as
// it is; package auditlog skips a text before the entry anyhow. The result shares the
// memory of message.
func (p *Parser) Body(message []byte) []byte {
	message = trimEnd(message)
	body := message[p.header(message):]
	body = bytes.TrimLeft(body, " ")
	body = bytes.TrimPrefix(body, byteOrderMark)
	if rest, ok := bytes.CutPrefix(body, cookie); ok {
		body = bytes.TrimLeft(rest, " ")
	}
	return body[:len(body):len(body)]
}

var (
	byteOrderMark = []byte("\xef\xbb\xbf")
	cookie        = []byte("@cee:")
)

var parsers = sync.Pool{New: func() any { return new(Parser) }}

// Body is [Parser.Body] for datagrams of any sender. It is safe for concurrent use.
func Body(datagram []byte) []byte {
	p := parsers.Get().(*Parser)
	defer parsers.Put(p)
	return p.Body(datagram)
}

// trimEnd removes what framing leaves behind a message: line ends, and the NUL byte
// that some senders end messages with.
func trimEnd(b []byte) []byte {
	n := len(b)
	for n > 0 && (b[n-1] == '\n' || b[n-1] == '\r' || b[n-1] == 0) {
		n--
	}
	return b[:n]
}

// header returns the length of the header of a message, 0 if it has none that is
// known. Only the bytes up to the first brace are parsed, or, as structured data may
// have braces, up to the first one with which they are a header.
func (p *Parser) header(message []byte) int {
	pri := priority(message)
	if pri == 0 {
		return 0
	}
	if n := len(p.known); n > 0 && bytes.HasPrefix(message, p.known) {
		return p.body
	}
	head := message[:min(len(message), maxHeaderBytes)]
	ietf := isIETF(head[pri:])
	for end, braces := 0, 0; braces < maxBraces; braces++ {
		if i := bytes.IndexByte(head[end:], '{'); i >= 0 {
			end += i + 1
		} else if braces == 0 {
			end = min(len(head), maxKnownHeader) // jsonx, or no audit entry
		} else {
			break
		}
		if n, ok := p.parse(head[:end], ietf); ok {
			p.remember(head[:end], n)
			return n
		}
		if !ietf || end == len(head) {
			break
		}
	}
	return pri
}

// parse returns where in the beginning of a message the header ends.
func (p *Parser) parse(head []byte, ietf bool) (int, bool) {
	if ietf && p.ietf == nil {
		p.ietf = rfc5424.NewMachine()
	} else if !ietf && p.bsd == nil {
		p.bsd = rfc3164.NewMachine(rfc3164.WithRFC3339(), rfc3164.WithLenientDay(), rfc3164.WithSecondFractions())
	}
	machine := p.bsd
	if ietf {
		machine = p.ietf
	}
	// For some input the machines give neither a message nor an error.
	var text *string
	m, _ := machine.Parse(head)
	switch m := m.(type) {
	case *rfc5424.SyslogMessage:
		text = m.Message
	case *rfc3164.SyslogMessage:
		text = m.Message
	}
	// The text is the end of head, behind a space. Anything else is not trusted: in
	// "vault[1] {", for example, the text would be "1] {".
	if text == nil || !bytes.HasSuffix(head, []byte(*text)) {
		return 0, false
	}
	n := len(head) - len(*text)
	return n, head[n-1] == ' '
}

// remember keeps a header that ends in a brace, so that no message that goes on in
// another way has it as its beginning.
func (p *Parser) remember(head []byte, body int) {
	if len(head) <= maxKnownHeader && head[len(head)-1] == '{' {
		p.known, p.body = append(p.known[:0], head...), body
	}
}

// priority returns the length of "<PRI>" at the beginning of a message, else 0.
func priority(b []byte) int {
	if len(b) == 0 || b[0] != '<' {
		return 0
	}
	for i := 1; i < len(b) && i <= 4; i++ {
		switch {
		case b[i] == '>' && i > 1:
			return i + 1
		case b[i] < '0' || b[i] > '9':
			return 0
		}
	}
	return 0
}

// isIETF reports whether what stands behind the priority is the version of RFC 5424
// and a space.
func isIETF(b []byte) bool {
	n := 0
	for n < len(b) && n < 3 && b[n] >= '0' && b[n] <= '9' {
		n++
	}
	return n > 0 && b[0] != '0' && n < len(b) && b[n] == ' '
}
