package websocket

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"
)

// Options say whom the handshake lets in.
type Options struct {
	// AllowedOrigins are patterns of [path.Match] for the host, with port, of the
	// Origin header; a pattern with "://" is matched with the scheme. A request
	// without Origin (no browser) and one whose Origin is the Host that it asks
	// are always allowed.
	AllowedOrigins []string
	// MaxMessageBytes bounds a data message of the client; 0 refuses them all.
	MaxMessageBytes int
}

// HandshakeError says why a request is not a valid opening handshake. Nothing was
// answered yet: the caller answers with Status and the fields of Header, which
// RFC 6455 section 4.2.2 and RFC 9110 section 15.5.22 require.
type HandshakeError struct {
	Status int
	Reason string
	Header map[string]string
}

func (e *HandshakeError) Error() string { return "websocket handshake: " + e.Reason }

// acceptGUID is the constant of RFC 6455 section 1.3.
const acceptGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

// handshakeTimeout bounds the writing of the answer.
const handshakeTimeout = 10 * time.Second

// Handshake is a valid request for a WebSocket that has not been answered yet.
type Handshake struct {
	accept     string
	maxMessage int
}

// Check validates the opening handshake of r (RFC 6455 section 4.2.1), in the
// order in which a client sees errors: 426 without the Upgrade headers, 405 if
// not GET, 400 for a wrong version or key, 403 for a foreign origin. The error
// is a [*HandshakeError]. Check has no effect; what has to be in place before
// the client is told that it is connected is done between Check and
// [Handshake.Accept].
func Check(r *http.Request, o Options) (*Handshake, error) {
	upgrade := map[string]string{"Connection": "Upgrade", "Upgrade": "websocket"}
	switch {
	case r.ProtoMajor != 1 || r.ProtoMinor < 1:
		return nil, &HandshakeError{http.StatusUpgradeRequired, "the request is " + r.Proto + ", it must be HTTP/1.1", upgrade}
	case !hasToken(r.Header, "Connection", "upgrade"):
		return nil, &HandshakeError{http.StatusUpgradeRequired,
			fmt.Sprintf("the header Connection is %q, it must contain Upgrade", r.Header.Get("Connection")), upgrade}
	case !hasToken(r.Header, "Upgrade", "websocket"):
		return nil, &HandshakeError{http.StatusUpgradeRequired,
			fmt.Sprintf("the header Upgrade is %q, it must contain websocket", r.Header.Get("Upgrade")), upgrade}
	case r.Method != http.MethodGet:
		return nil, &HandshakeError{http.StatusMethodNotAllowed,
			fmt.Sprintf("the method is %q, it must be GET", r.Method), map[string]string{"Allow": "GET"}}
	case r.ContentLength != 0:
		return nil, &HandshakeError{http.StatusBadRequest, "the request has a body", nil}
	case r.Header.Get("Sec-WebSocket-Version") != "13":
		return nil, &HandshakeError{http.StatusBadRequest,
			fmt.Sprintf("the header Sec-WebSocket-Version is %q, it must be 13", r.Header.Get("Sec-WebSocket-Version")),
			map[string]string{"Sec-WebSocket-Version": "13"}}
	}
	key, ok := handshakeKey(r.Header)
	if !ok {
		return nil, &HandshakeError{http.StatusBadRequest, "the header Sec-WebSocket-Key must be there once, with 16 bytes in base64", nil}
	}
	if err := checkOrigin(r, o.AllowedOrigins); err != nil {
		return nil, err
	}
	sum := sha1.Sum([]byte(key + acceptGUID))
	return &Handshake{base64.StdEncoding.EncodeToString(sum[:]), o.MaxMessageBytes}, nil
}

// Accept takes the connection over from net/http, answers 101 with the fields of
// w.Header(), and returns the connection, which is then the caller's: neither the
// server's timeouts nor its Shutdown apply to it, and the handler should return so
// that what net/http keeps for a request is freed.
func (h *Handshake) Accept(w http.ResponseWriter) (*Conn, error) {
	fields := w.Header()
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, fmt.Errorf("take the connection over: %w", err)
	}
	// A client must wait for the answer before it sends (section 4.1). A frame or
	// two sent too early do no harm.
	if n := buffered.Reader.Buffered(); n > len(Reader{}.buf) {
		conn.Close()
		return nil, fmt.Errorf("take the connection over: the client sent %d bytes before the handshake was answered", n)
	}
	var answer bytes.Buffer
	answer.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: ")
	answer.WriteString(h.accept)
	answer.WriteString("\r\nDate: " + time.Now().UTC().Format(http.TimeFormat) + "\r\n")
	fields.WriteSubset(&answer, map[string]bool{"Connection": true, "Upgrade": true, "Date": true, "Content-Type": true, "Content-Length": true})
	answer.WriteString("\r\n")
	conn.SetDeadline(time.Now().Add(handshakeTimeout))
	if _, err := conn.Write(answer.Bytes()); err != nil {
		conn.Close()
		return nil, fmt.Errorf("answer the handshake: %w", err)
	}
	conn.SetDeadline(time.Time{})
	early, _ := buffered.Reader.Peek(buffered.Reader.Buffered())
	return newConn(conn, early, h.maxMessage), nil
}

func handshakeKey(header http.Header) (string, bool) {
	keys := header.Values("Sec-WebSocket-Key")
	if len(keys) != 1 {
		return "", false
	}
	key := strings.TrimSpace(keys[0])
	raw, err := base64.StdEncoding.DecodeString(key)
	return key, err == nil && len(raw) == 16
}

// hasToken says whether a comma-separated header field has a token, in any case.
func hasToken(header http.Header, name, token string) bool {
	for _, value := range header.Values(name) {
		for part := range strings.SplitSeq(value, ",") {
			// A protocol may carry a version: websocket/13.
			part, _, _ = strings.Cut(strings.TrimSpace(part), "/")
			if strings.EqualFold(part, token) {
				return true
			}
		}
	}
	return false
}

// checkOrigin protects people whose browser holds credentials from foreign pages
// (section 10.2).
func checkOrigin(r *http.Request, allowed []string) error {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return nil
	}
	u, err := url.Parse(origin)
	if err == nil && u.Host != "" {
		host := strings.ToLower(u.Host)
		if host == strings.ToLower(r.Host) {
			return nil
		}
		for _, pattern := range allowed {
			subject := host
			if strings.Contains(pattern, "://") {
				subject = strings.ToLower(u.Scheme) + "://" + host
			}
			if ok, err := path.Match(strings.ToLower(pattern), subject); err == nil && ok {
				return nil
			}
		}
	}
	return &HandshakeError{http.StatusForbidden, fmt.Sprintf("the origin %q is not allowed for the host %q", origin, r.Host), nil}
}
