package api

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/tocsin-events/tocsin/internal/access"
)

// Payloads has the bytes that were too large for an event. The error wraps
// fs.ErrNotExist for a name that there is not.
type Payloads interface {
	Open(ctx context.Context, name string) (*Payload, error)
}

// Payload is an open payload; whoever has it closes Body.
type Payload struct {
	Body        io.ReadCloser
	Size        int64 // in bytes; negative: not known
	ContentType string
}

// payload serves the bytes of one payload.
func (a *API) payload(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	id, refused := a.authenticate(r, "")
	if refused == nil {
		refused = a.use(r, id)
	}
	if refused == nil && !id.Root() {
		refused = permissionDenied()
	}
	if refused != nil {
		a.recordRefusal(attempt{what: "request-denied", operation: "read", id: id, request: r, shown: "/api/v1/payloads/" + name}, refused)
		a.requests.Refused(refused.reason()).Inc()
		refused.answer(w)
		return
	}
	ctx, stop := a.whileRoot(w, r, id)
	defer stop()
	p, err := a.payloads.Open(ctx, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		fail(w, http.StatusNotFound, "there is no payload "+strconv.Quote(name)+"; retention may have removed it")
		return
	case err != nil:
		a.log.Warn("cannot read payload", "name", name, "error", err)
		unavailable(w, "the payload cannot be read at the moment")
		return
	}
	defer p.Body.Close()
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	if p.ContentType != "" {
		h.Set("Content-Type", p.ContentType)
	}
	h.Set("X-Content-Type-Options", "nosniff")
	if p.Size >= 0 {
		h.Set("Content-Length", strconv.FormatInt(p.Size, 10))
	}
	if r.Method == http.MethodHead {
		return
	}
	if _, err := io.Copy(w, p.Body); err != nil {
		a.log.Debug("payload was not sent completely", "name", name, "error", err)
		panic(http.ErrAbortHandler) // so that the client does not take it for whole
	}
}

// whileRoot returns a context that ends, together with what is being sent, when the
// identity may not do everything any more: a large payload can take its time. stop must be called
// before the request is over.
func (a *API) whileRoot(w http.ResponseWriter, r *http.Request, id access.Identity) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(r.Context())
	var mu sync.Mutex
	over := false // the connection may serve another request
	end := func() {
		mu.Lock()
		defer mu.Unlock()
		cancel()
		if !over {
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now())
		}
	}
	unfollow := a.authority.Follow(id, func() {
		if !id.Root() {
			end()
		}
	}, func(access.Ended) { end() })
	return ctx, func() {
		unfollow()
		mu.Lock()
		defer mu.Unlock()
		over = true
		cancel()
	}
}
