package jwt

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/access"
)

func TestRotation(t *testing.T) {
	i := newIssuer(t, public("1", rsaKey()))
	p, l := provider(t, i.config(t))
	first := sign("RS256", rsaKey(), head("RS256", "1"), claims(i.URL))
	second := sign("ES256", p256Key(), head("ES256", "2"), claims(i.URL))
	expect := func(token, want string) {
		t.Helper()
		if got := verdict(t, p, token); got != want {
			t.Errorf("got %s, want %s; log %s", got, want, l)
		}
	}
	expect(first, "accepted")
	expect(first, "accepted")
	if n := i.documents.Load(); n != 1 {
		t.Errorf("keys fetched %d times for two tokens", n)
	}
	expect(second, "denied")

	i.rotate(public("1", rsaKey()), public("2", p256Key()))
	expect(second, "denied") // asked too recently
	p.keys.interval = 0
	expect(second, "accepted")
	expect(first, "accepted")
	if n := i.documents.Load(); n != 2 {
		t.Errorf("keys fetched %d times, want 2", n)
	}

	i.rotate(public("2", p256Key()))
	expect(first, "accepted") // known until the keys are fetched again
	p.keys.refresh = 0
	expect(first, "denied")
	expect(second, "accepted")
}

func TestClientGoesAway(t *testing.T) {
	i := newIssuer(t, public("1", edKey()))
	arrived, release := make(chan struct{}), make(chan struct{})
	i.answer(func(http.ResponseWriter, *http.Request) {
		close(arrived)
		<-release
	})
	t.Cleanup(func() { close(release) })
	p, _ := provider(t, i.config(t))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	_, err := p.Authenticate(ctx, sign("EdDSA", edKey(), head("EdDSA", "1"), claims(i.URL)), "")
	if !errors.Is(err, access.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	p.Close() // ends the fetch, which would otherwise last for the whole timeout
	if _, err := p.keys.newest(t.Context()); !errors.Is(err, errClosed) {
		t.Errorf("got %v", err)
	}
}

// TestInventedKeys: tokens with invented key ids do not make the issuer be asked
// more often.
func TestInventedKeys(t *testing.T) {
	i := newIssuer(t, public("1", edKey()))
	p, _ := provider(t, i.config(t))
	for n := range 200 {
		if got := verdict(t, p, sign("EdDSA", edKey(), head("EdDSA", fmt.Sprint("invented-", n)), claims(i.URL))); got != "denied" {
			t.Fatal(got)
		}
	}
	if n := i.documents.Load(); n != 1 {
		t.Errorf("keys fetched %d times", n)
	}
	// Nor does a wrong signature by a key that is known.
	p.keys.interval = 0
	if got := verdict(t, p, sign("RS256", otherRSA(), head("RS256", "1"), claims(i.URL))); got != "denied" {
		t.Fatal(got)
	}
	if n := i.documents.Load(); n != 1 {
		t.Errorf("keys fetched %d times", n)
	}
	// And what is wrong anyway does not make it be asked at all.
	p, _ = provider(t, i.config(t))
	verdict(t, p, sign("EdDSA", edKey(), head("EdDSA", "1"), claims(i.URL, "exp", 1)))
	verdict(t, p, sign("EdDSA", edKey(), head("EdDSA", "1"), claims(i.URL, "aud", "other")))
	if n := i.documents.Load(); n != 1 {
		t.Errorf("keys fetched %d times", n)
	}
}

func TestIssuerIsAway(t *testing.T) {
	i := newIssuer(t, public("1", edKey()))
	token := sign("EdDSA", edKey(), head("EdDSA", "1"), claims(i.URL))
	other := sign("EdDSA", edKey(), head("EdDSA", "2"), claims(i.URL))
	known, l := provider(t, i.config(t))
	if got := verdict(t, known, token); got != "accepted" {
		t.Fatal(got)
	}
	fresh, fl := provider(t, i.config(t)) // made while the issuer is there, but used later
	i.answer(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "down", http.StatusBadGateway) })

	if got := verdict(t, fresh, token); got != "unavailable" {
		t.Errorf("keys not known: %s", got)
	}
	if !strings.Contains(fl.String(), "502") {
		t.Errorf("log %q", fl)
	}
	_, err := fresh.Authenticate(t.Context(), token, "")
	if err == nil || !strings.Contains(err.Error(), "corp") || strings.Contains(err.Error(), i.URL) {
		t.Errorf("error for the client: %v", err)
	}

	known.keys.refresh, known.keys.interval = 0, 0
	if got := verdict(t, known, token); got != "accepted" {
		t.Errorf("keys known: %s", got)
	}
	if got := verdict(t, known, other); got != "unavailable" {
		t.Errorf("key not known: %s", got)
	}
	if !strings.Contains(l.String(), "the old ones are used for now") {
		t.Errorf("log %q", l)
	}
	known.keys.patience = 0
	if got := verdict(t, known, token); got != "unavailable" {
		t.Errorf("keys too old: %s", got)
	}

	i.handler.Store(nil)
	if got := verdict(t, known, other); got != "denied" {
		t.Errorf("issuer is back, unknown key: %s", got)
	}
	known.keys.patience = time.Hour
	if got := verdict(t, known, token); got != "accepted" {
		t.Errorf("issuer is back: %s", got)
	}
	if !strings.Contains(l.String(), "can be read again") {
		t.Errorf("log %q", l)
	}
}
