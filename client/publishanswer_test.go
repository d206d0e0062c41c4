package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
)

// Every Publish is told which of its own events were refused, whoever publishes at the
// same time, and through all ways to refuse.
func TestRefused(t *testing.T) {
	for _, o := range []PublisherOptions{{}, {Connections: 3, MaxBatchEvents: 13}} {
		t.Run(fmt.Sprint(o.Connections), func(t *testing.T) {
			h := newPublishHub(t)
			h.refuse = func(e *event.Event) (code, message string) {
				if strings.HasSuffix(e.Path, "7") {
					return "denied", "type: not for you"
				}
				return "", ""
			}
			var told sync.Map
			var notices atomic.Int64
			o.Notify = func(n Notice) {
				if n.Kind == Refused {
					notices.Add(1)
					told.Store(n.Refusal.ID, n.Refusal)
					if !errors.Is(n.Err, ErrRefused) {
						t.Error(n.Err)
					}
				}
			}
			p := h.publisher(t, o)
			const publishers, each = 20, 50
			var group sync.WaitGroup
			for i := range publishers {
				group.Go(func() {
					var events []*event.Event
					var want []int
					for n := range each {
						number := i*each + n
						events = append(events, numbered(number))
						if number%10 == 7 {
							want = append(want, n)
						}
					}
					err := p.Publish(t.Context(), events...)
					var refused *RefusedError
					if !errors.As(err, &refused) || !errors.Is(err, ErrRefused) {
						t.Errorf("%v", err)
						return
					}
					var got []int
					for _, r := range refused.Refused {
						got = append(got, r.Index)
						e, err := event.ParseCloudEvent(r.Event)
						if err != nil || e.ID != r.ID || r.ID != events[r.Index].ID || r.Code != "denied" || r.Message != "type: not for you" {
							t.Errorf("%+v: %v", r, err)
						}
					}
					slices.Sort(got)
					if !slices.Equal(got, want) {
						t.Errorf("refused were %v, want %v", got, want)
					}
				})
			}
			group.Wait()
			s := p.Stats()
			checkSums(t, s)
			if n := publishers * each / 10; s.Refused != uint64(n) || int(notices.Load()) != n || h.count() != 9*n {
				t.Errorf("%d notices, %d stored, %+v", notices.Load(), h.count(), s)
			}
			if len(p.waiters) > 0 || len(p.flights) > 0 || len(p.barriers) > 0 {
				t.Error("something is left behind")
			}
		})
	}
}

// In a notice the index says which event of all it was.
func TestRefusalIndex(t *testing.T) {
	h := newPublishHub(t)
	h.refuse = func(e *event.Event) (string, string) {
		if e.ID == "id-000002" {
			return "invalid", "no"
		}
		return "", ""
	}
	refusals := make(chan *Refusal, 1)
	p := h.publisher(t, PublisherOptions{Notify: func(n Notice) { refusals <- n.Refusal }})
	for n := range 5 {
		if err := p.SendEvent(t.Context(), numbered(n)); err != nil {
			t.Fatal(err)
		}
	}
	if r := <-refusals; r.Index != 2 {
		t.Errorf("%+v", r)
	}
}

// Where the hub refuses a request as a whole, the events are tried in smaller ones, until
// it is known which it means.
func TestSplit(t *testing.T) {
	for name, hook := range map[string]func(w http.ResponseWriter, texts []json.RawMessage) bool{
		"413": func(w http.ResponseWriter, texts []json.RawMessage) bool {
			if len(texts) > 3 {
				http.Error(w, "too large for this proxy", http.StatusRequestEntityTooLarge)
			} else if strings.Contains(string(slices.Concat(texts...)), "id-000017") {
				sorry(w, http.StatusRequestEntityTooLarge, "the body is too large")
			} else {
				return false
			}
			return true
		},
		"400": func(w http.ResponseWriter, texts []json.RawMessage) bool {
			if !strings.Contains(string(slices.Concat(texts...)), "id-000017") {
				return false
			}
			sorry(w, http.StatusBadRequest, "the body is not understood")
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newPublishHub(t)
			h.setHook(func(_ int, w http.ResponseWriter, r *http.Request) bool {
				texts, body := tee(r)
				if hook(w, texts) {
					return true
				}
				r.Body = body
				return false
			})
			p := h.publisher(t, PublisherOptions{})
			err := p.Publish(t.Context(), numberedMany(40)...)
			var refused *RefusedError
			if !errors.As(err, &refused) || len(refused.Refused) != 1 || refused.Refused[0].Index != 17 || refused.Refused[0].Message == "" {
				t.Fatal(err)
			}
			if got := h.ids(); len(got) != 39 || !slices.IsSorted(got) {
				t.Errorf("%q", got)
			}
			checkSums(t, p.Stats())
		})
	}
}

// What is wrong with the request, and not with its events, is no reason to give them up.
func TestWrongRequest(t *testing.T) {
	h := newPublishHub(t)
	var wrong atomic.Bool
	wrong.Store(true)
	h.setHook(func(_ int, w http.ResponseWriter, r *http.Request) bool {
		if wrong.Load() {
			sorry(w, http.StatusBadRequest, "the namespace cannot be one")
		}
		return wrong.Load()
	})
	told := make(chan error, 100)
	p := h.publisher(t, PublisherOptions{Notify: func(n Notice) {
		if wrong.Load() {
			told <- n.Err
		}
	}})
	for n := range 3 {
		if err := p.SendEvent(t.Context(), numbered(n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-told; !errors.Is(err, ErrBadRequest) {
		t.Errorf("told %v", err)
	}
	wrong.Store(false)
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := p.Stats(); s.Refused != 0 || s.Acknowledged != 3 || len(h.ids()) != 3 {
		t.Errorf("%+v, stored %q", s, h.ids())
	}
}

// A request that is refused as a whole because of each of its events.
func TestRefusedAsAWhole(t *testing.T) {
	h := newPublishHub(t)
	h.setHook(func(_ int, w http.ResponseWriter, r *http.Request) bool {
		texts, _ := tee(r)
		var all []refusal
		for i := range texts {
			all = append(all, refusal{i, "", "denied", "type: no"})
		}
		answerJSON(w, http.StatusForbidden, map[string]any{"errors": []string{"permission denied"}, "refused": all})
		return true
	})
	p := h.publisher(t, PublisherOptions{})
	var refused *RefusedError
	if err := p.Publish(t.Context(), numberedMany(3)...); !errors.As(err, &refused) || len(refused.Refused) != 3 || refused.Refused[2].Code != "denied" {
		t.Error(err)
	}
}

// A token that is not valid any more loses nothing: it may be renewed.
func TestTokenRenewed(t *testing.T) {
	h := newPublishHub(t)
	h.setHook(func(_ int, w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("X-Vault-Token") == "new" {
			return false
		}
		sorry(w, http.StatusForbidden, "permission denied")
		return true
	})
	var token atomic.Pointer[string]
	notices := make(chan Notice, 100)
	p := h.publisher(t, PublisherOptions{
		TokenFunc: func(context.Context) (string, error) {
			if s := token.Load(); s != nil {
				return *s, nil
			}
			return "", errors.New("the file is not there")
		},
		Notify: func(n Notice) { notices <- n },
	})
	published := make(chan error)
	go func() { published <- p.Publish(t.Context(), numbered(1)) }()
	if n := <-notices; n.Kind != Disconnected || !strings.Contains(n.Err.Error(), "the file is not there") {
		t.Errorf("%+v", n)
	}
	old := "old"
	token.Store(&old)
	for n := range notices {
		if errors.Is(n.Err, ErrPermission) {
			break
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Flush(ctx); !errors.Is(err, context.Canceled) || !errors.Is(err, ErrPermission) {
		t.Error(err)
	}
	next := "new"
	token.Store(&next)
	if err := <-published; err != nil || h.count() != 1 {
		t.Error(err, h.count())
	}
}

// Publish that gives up leaves its events to be sent.
func TestPublishGivesUp(t *testing.T) {
	h := newPublishHub(t)
	release := blocked(h)
	defer release()
	p := h.publisher(t, PublisherOptions{})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := p.Publish(ctx, numbered(1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	release()
	if err := p.Publish(t.Context(), numbered(1)); err != nil { // the same again
		t.Error(err)
	}
	if s := p.Stats(); h.count() != 1 || s.Duplicates != 1 || len(p.waiters) != 0 {
		t.Errorf("%d stored, %+v", h.count(), s)
	}
}

// Retry-After is respected.
func TestRetryAfter(t *testing.T) {
	h := newPublishHub(t)
	h.setHook(func(n int, w http.ResponseWriter, r *http.Request) bool {
		if n > 0 {
			return false
		}
		w.Header().Set("Retry-After", "1")
		sorry(w, http.StatusServiceUnavailable, "journal is full")
		return true
	})
	p := h.publisher(t, PublisherOptions{})
	start := time.Now()
	if err := p.Publish(t.Context(), numbered(1)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < time.Second {
		t.Errorf("it was repeated after %v", took)
	}
	if s := p.Stats(); s.Retries != 1 || !errors.Is(s.LastError, ErrUnavailable) || !strings.Contains(s.LastError.Error(), "journal is full") {
		t.Errorf("%+v", s)
	}
}

// A hub that never answers is given up and tried again.
func TestSilentHub(t *testing.T) {
	h := newPublishHub(t)
	gate := make(chan struct{})
	defer close(gate)
	h.setHook(func(n int, _ http.ResponseWriter, _ *http.Request) bool {
		if n == 0 {
			<-gate
		}
		return false
	})
	timing := quickPublish
	timing.attempt = 20 * time.Millisecond
	p, err := newPublisher(PublisherOptions{Address: h.URL}, timing)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(t.Context())
	if err := p.Publish(t.Context(), numbered(1)); err != nil {
		t.Fatal(err)
	}
	if s := p.Stats(); s.Retries == 0 || !strings.Contains(s.LastError.Error(), "no answer within 20ms") {
		t.Errorf("%+v", s)
	}
}

// A redirect, as a standby answers it, is followed with the body, but not out of TLS.
func TestPublishRedirect(t *testing.T) {
	h := newPublishHub(t)
	standby := httptest.NewServer(http.RedirectHandler(h.URL+"/api/v1/events?partial=true", http.StatusTemporaryRedirect))
	defer standby.Close()
	p, err := newPublisher(PublisherOptions{Address: standby.URL}, quickPublish)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(t.Context())
	if err := p.Publish(t.Context(), numbered(1)); err != nil || h.count() != 1 {
		t.Error(err, h.count())
	}
}

func TestUnderstand(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		text   string
		events int
		want   string
	}{
		"all":              {200, `{"accepted":2,"duplicates":1}`, 3, "settled 2 1 0"},
		"some":             {207, `{"accepted":1,"duplicates":0,"refused":[{"index":1,"code":"invalid"}]}`, 2, "settled 1 0 1"},
		"none":             {207, `{"accepted":0,"duplicates":0,"refused":[{"index":0},{"index":1}]}`, 2, "settled 0 0 2"},
		"too few":          {200, `{"accepted":2,"duplicates":0}`, 3, "again"},
		"too many":         {200, `{"accepted":9223372036854775807,"duplicates":9223372036854775807}`, 3, "again"},
		"negative":         {200, `{"accepted":-1,"duplicates":4}`, 3, "again"},
		"index twice":      {207, `{"accepted":1,"refused":[{"index":1},{"index":1}]}`, 3, "again"},
		"index below":      {207, `{"accepted":1,"refused":[{"index":-1}]}`, 2, "again"},
		"index above":      {207, `{"accepted":1,"refused":[{"index":2}]}`, 2, "again"},
		"empty":            {200, ``, 1, "again"},
		"page":             {200, `<html>`, 1, "again"},
		"no content":       {204, ``, 1, "again"},
		"moved":            {301, ``, 1, "again"},
		"whole":            {400, `{"errors":["x"],"refused":[{"index":0},{"index":1}]}`, 2, "settled 0 0 2"},
		"whole, partly":    {400, `{"errors":["x"],"refused":[{"index":0}]}`, 2, "split"},
		"bad, many":        {400, `{"errors":["x"]}`, 2, "split"},
		"bad, one":         {400, `{"errors":["x"]}`, 1, "settled 0 0 1"},
		"bad, of a proxy":  {400, `The plain HTTP request was sent to HTTPS port`, 1, "again"},
		"large, many":      {413, ``, 2, "split"},
		"large, one":       {413, ``, 1, "settled 0 0 1"},
		"token":            {403, `{"errors":["permission denied"]}`, 2, "again"},
		"no token":         {401, ``, 1, "again"},
		"denied":           {403, `{"errors":["x"],"refused":[{"index":0,"code":"denied"}]}`, 1, "settled 0 0 1"},
		"no hub":           {404, ``, 1, "again"},
		"no such type":     {415, ``, 1, "again"},
		"full":             {503, `{"errors":["full"],"refused":[{"index":0}]}`, 1, "again"},
		"refused, not all": {413, `{"accepted":1,"refused":[{"index":0}]}`, 2, "split"},
	} {
		r := &http.Response{StatusCode: c.status, Header: http.Header{}}
		a := understand(r, []byte(c.text), c.events)
		got := fmt.Sprintf("settled %d %d %d", a.accepted, a.duplicates, len(a.refused))
		if a.split {
			got = "split"
		} else if a.err != nil {
			got = "again"
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s (%v)", name, got, c.want, a.err)
		}
	}
}

func FuzzUnderstand(f *testing.F) {
	f.Add(200, []byte(`{"accepted":2,"duplicates":1}`), 3)
	f.Add(207, []byte(`{"accepted":1,"refused":[{"index":1,"id":"x","code":"invalid","message":"m"}],"warnings":[{"index":0}]}`), 2)
	f.Add(400, []byte(`{"errors":["x"]}`), 1)
	f.Fuzz(func(t *testing.T, status int, text []byte, events int) {
		if events < 1 || events > 100 {
			return
		}
		a := understand(&http.Response{StatusCode: status, Header: http.Header{}}, text, events)
		if a.err == nil && a.accepted+a.duplicates+len(a.refused) != events {
			t.Errorf("%d of %d events are settled", a.accepted+a.duplicates+len(a.refused), events)
		}
		for i, r := range a.refused {
			if a.err == nil && (r.Index < 0 || r.Index >= events || i > 0 && r.Index <= a.refused[i-1].Index) {
				t.Errorf("index %d of %d events", r.Index, events)
			}
		}
		if a.split && events < 2 {
			t.Error("one event cannot be split")
		}
	})
}
