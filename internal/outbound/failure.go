package outbound

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/tocsin-events/tocsin/internal/deliver"
)

// Failure is why there is no answer. Its text has no secrets.
type Failure struct {
	place   string // empty: nothing was sent anywhere
	err     error
	timeout time.Duration
	tls     bool
	sent    bool // the whole request went to a connection
	secrets []string
}

// Error describes the failure in one line.
func (f *Failure) Error() string { return reason(f.secrets, f.describe()) }

// Unwrap returns the cause, whose text may have secrets.
func (f *Failure) Unwrap() error { return f.err }

// proxyError is a proxy that does not connect.
type proxyError struct{ status int }

func (e *proxyError) Error() string {
	return fmt.Sprintf("the proxy answered CONNECT with %d", e.status)
}

// Failed says what the error of [Client.Do] means. Without an answer nothing is held
// against events, with one exception: a receiver that has read the whole request and then
// hangs up may have died of it.
func Failed(ctx context.Context, err error) deliver.Result {
	if ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled) {
		return deliver.Result{Outcome: deliver.Retry, Reason: "interrupted"}
	}
	result := deliver.Result{Outcome: deliver.Retry, Reason: err.Error()}
	if f := (*Failure)(nil); errors.As(err, &f) && f.hungUp() {
		result.Outcome = deliver.Doubtful
	}
	return result
}

// hungUp says whether the receiver has ended the connection after it had the request.
func (f *Failure) hungUp() bool {
	return f.sent && (errors.Is(f.err, io.EOF) || errors.Is(f.err, io.ErrUnexpectedEOF) || errors.Is(f.err, syscall.ECONNRESET) ||
		errors.Is(f.err, syscall.EPIPE) || errors.Is(f.err, errReplays))
}

func (f *Failure) describe() string {
	var (
		denied    *Denied
		dns       *net.DNSError
		operation *net.OpError
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		record    tls.RecordHeaderError
		proxy     *proxyError
		timeout   net.Error
	)
	dialing := errors.As(f.err, &operation) && (operation.Op == "dial" || operation.Op == "proxyconnect")
	switch err := f.err; {
	case errors.As(err, &denied):
		return denied.Error()
	case errors.Is(err, errClosed):
		return err.Error()
	case errors.As(err, &dns) && dns.IsNotFound:
		return dns.Name + " is not known to DNS; check the url of the sink"
	case errors.As(err, &dns) && dns.IsTimeout:
		return "DNS does not answer when asked for " + dns.Name
	case errors.As(err, &dns):
		return "DNS cannot say where " + dns.Name + " is: " + dns.Err
	case errors.As(err, &proxy):
		return fmt.Sprintf("%v for %s", proxy, f.place)
	case errors.Is(err, syscall.ECONNREFUSED):
		return f.place + " refuses connections"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return f.place + " cannot be reached: there is no way to its network"
	case errors.As(err, &authority):
		return "the certificate of " + f.place + " is signed by an authority that is not known here; set tls.ca if it is yours"
	case errors.As(err, &hostname):
		return "the certificate of " + f.place + " is for another host; set tls.server_name if that is right"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "the certificate of " + f.place + " has expired, or is not valid yet"
	case errors.As(err, &record):
		return f.place + " does not speak TLS; is it http://?"
	case strings.Contains(err.Error(), "malformed HTTP response"), strings.Contains(err.Error(), "malformed HTTP version"):
		return f.place + " does not speak HTTP; is the port right?"
	case operation != nil && operation.Op == "remote error": // an alert of TLS
		switch text := operation.Err.Error(); {
		case strings.Contains(text, "certificate required"):
			return f.place + " wants a client certificate, or another one; set tls.cert and tls.key"
		case strings.Contains(text, "certificate"):
			return f.place + " wants a client certificate, or another one; it said " + text
		default:
			return f.place + " has ended the handshake (" + text + ")"
		}
	case errors.As(err, &timeout) && timeout.Timeout() && dialing:
		return "no connection to " + f.place + " in time"
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("no answer from %s within %v", f.place, f.timeout)
	case f.hungUp():
		return f.place + " has closed the connection without an answer"
	case closedEarly(err) && f.tls:
		return f.place + " has closed the connection before it had the request; it may be that it wants a client certificate, or another one"
	case closedEarly(err):
		return f.place + " has closed the connection before it had the request"
	}
	if f.place == "" {
		return f.err.Error()
	}
	return f.place + ": " + cut(hide(f.secrets, f.err.Error()), 2*maxQuoted)
}

// closedEarly says whether a connection has ended. HTTP/2 keeps the reason to itself.
func closedEarly(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		strings.Contains(err.Error(), "client conn could not be established")
}

const (
	// maxQuoted is how much of an answer is repeated.
	maxQuoted = 200
	// shortest is the length from which a text counts as a secret that could stand in an
	// answer. Anything shorter would make all texts unreadable.
	shortest = 4
	// longSegment is the length from which a part of a path does.
	longSegment = 16
	hidden      = "<secret>"
)

// urlSecrets are the parts of a URL that may be secrets, and that an answer may repeat:
// "Cannot POST /services/T0/B0/x".
func urlSecrets(u *url.URL) []string {
	var list []string
	for _, path := range []string{u.EscapedPath(), u.Path} {
		if len(path) > shortest {
			list = append(list, path)
		}
		for segment := range strings.SplitSeq(path, "/") {
			if len(segment) >= longSegment {
				list = append(list, segment)
			}
		}
	}
	if u.RawQuery == "" {
		return list
	}
	list = append(list, u.RawQuery)
	for pair := range strings.SplitSeq(u.RawQuery, "&") {
		_, value, _ := strings.Cut(pair, "=")
		list = append(list, value)
		if plain, err := url.QueryUnescape(value); err == nil {
			list = append(list, plain)
		}
	}
	return list
}

// quote repeats the beginning of the body of an answer.
func quote(body []byte, encoding string, secrets []string) string {
	if len(body) == 0 {
		return ""
	}
	if encoding != "" && !strings.EqualFold(encoding, "identity") {
		return "(compressed text of " + strconv.Itoa(len(body)) + " bytes)"
	}
	// First hidden, then cut: what is left of a secret at the cut would not be found.
	text := cut(clean(secrets, string(body)), maxQuoted)
	if text == "" {
		return ""
	}
	return `"` + text + `"`
}

// reason makes the text of a result: without secrets, on one line, and bounded.
func reason(secrets []string, text string) string {
	return cut(clean(secrets, text), deliver.MaxReasonBytes)
}

// clean makes one printable line of a text, without secrets: neither those that are in it, nor
// those that come about when characters are left out.
func clean(secrets []string, text string) string {
	return hide(secrets, printable(hide(secrets, text)))
}

// hide takes secrets out of a text.
func hide(secrets []string, text string) string {
	for _, s := range secrets {
		if len(s) >= shortest {
			text = strings.ReplaceAll(text, s, hidden)
		}
		if !strings.ContainsAny(s, " \t") {
			continue
		}
		for _, part := range strings.Fields(s) { // "Bearer xyz" is in two parts
			if len(part) >= shortest && !strings.EqualFold(part, "Bearer") && !strings.EqualFold(part, "Basic") {
				text = strings.ReplaceAll(text, part, hidden)
			}
		}
	}
	return text
}

// printable makes one line of a text from outside, of what can be printed.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r) || r == unicode.ReplacementChar:
			return -1
		}
		return r
	}, s)
	return strings.Join(strings.Fields(s), " ")
}

// cut shortens a text to at most limit bytes, between characters.
func cut(s string, limit int) string {
	const more = "..."
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit-len(more)], "") + more
}
