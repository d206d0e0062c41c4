package outbound

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
)

// sending is the body of a request on its way. The transport may read it more than once, and
// still after it has returned. It is a bytes.Reader and nothing else because the transport
// knows those: it sends what it does not know in packets of their own, behind the headers.
type sending struct {
	bytes   []byte
	reader  bytes.Reader
	trace   httptrace.ClientTrace
	opened  atomic.Int32 // how often it was given to the transport
	written atomic.Int32 // how often the transport was done with it
	whole   atomic.Bool  // at least once with all of it
}

var errReplays = errors.New("the connection was closed again and again")

func newSending(b []byte) *sending {
	s := &sending{bytes: b}
	s.trace.WroteRequest = s.wrote
	return s
}

func (s *sending) wrote(info httptrace.WroteRequestInfo) {
	if info.Err == nil {
		s.whole.Store(true)
	}
	s.written.Add(1)
}

// attach makes it the body of a request.
func (s *sending) attach(r *http.Request) {
	s.opened.Add(1)
	r.Body, r.ContentLength = http.NoBody, int64(len(s.bytes))
	if len(s.bytes) > 0 {
		s.reader.Reset(s.bytes)
		r.Body, r.GetBody = io.NopCloser(&s.reader), s.again
	}
}

// again is what the transport calls to send the request over another connection.
func (s *sending) again() (io.ReadCloser, error) {
	if s.opened.Add(1) > 1+replays {
		return nil, errReplays
	}
	return io.NopCloser(bytes.NewReader(s.bytes)), nil
}

// sent says whether all of it went to a connection at least once.
func (s *sending) sent() bool { return s.whole.Load() }

// done says whether it is certain that nobody reads it any more.
func (s *sending) done() bool { return s.opened.Load() == s.written.Load() }
