package api

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/hub"
	"github.com/tocsin-events/tocsin/internal/trail"
)

// story is what the trail tells about one subscription: its begin and its end. It
// keeps nothing of the request.
type story struct {
	api    *API
	record trail.Record // what both have

	mu      sync.Mutex
	start   time.Time // zero: not begun, so it has no end either
	stop    func()    // stops following the identity
	isEnded bool
}

func newStory(a *API, id access.Identity, r *http.Request, namespace, typ string, request *hub.Request) *story {
	s := &story{api: a, record: trail.Record{Namespace: namespace, Path: subscribePath + typ, Operation: "subscribe", Who: who(id, r)}}
	f := &s.record.Fields
	f.Set("subscription_id", uuid.NewString())
	f.Set("event_type", typ)
	f.Set("namespaces", strings.Join(request.Selection.Namespaces, ","))
	if filter := request.Selection.Filter.String(); filter != "" {
		f.Set("filter", filter)
	}
	f.Set("format", request.Format.String())
	return s
}

// follow keeps what ends the following of the identity, and ends it if it is already
// needed no more.
func (s *story) follow(stop func()) {
	s.mu.Lock()
	isEnded := s.isEnded
	s.stop = stop
	s.mu.Unlock()
	if isEnded {
		stop()
	}
}

// began records the begin.
func (s *story) began() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.start = time.Now()
	r := s.record
	r.What = "subscription-start"
	s.api.trail.Record(r)
}

// ended is called by the hub when the subscription is over.
func (s *story) ended(delivered uint64, reason string) {
	s.mu.Lock()
	s.isEnded = true
	stop, start := s.stop, s.start
	s.mu.Unlock()
	if stop != nil {
		stop()
	}
	if start.IsZero() {
		return
	}
	r := s.record
	r.What = "subscription-end"
	r.Fields = r.Fields.Clone()
	r.Fields.Set("delivered", strconv.FormatUint(delivered, 10))
	r.Fields.Set("duration_seconds", strconv.FormatFloat(time.Since(start).Seconds(), 'f', 3, 64))
	r.Fields.Set("reason", reason)
	s.api.trail.Record(r)
}
