package access

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/event"
)

func TestAuthenticate(t *testing.T) {
	a, err := NewAuthenticator("s3cret")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		url    string
		header http.Header
		want   error
	}{
		{"vault header", "/", http.Header{"X-Vault-Token": {"s3cret"}}, nil},
		{"bearer", "/", http.Header{"Authorization": {"Bearer s3cret"}}, nil},
		{"first bearer counts", "/", http.Header{"Authorization": {"Basic x", "Bearer s3cret", "Bearer other"}}, nil},
		{"vault header wins", "/", http.Header{"X-Vault-Token": {"s3cret"}, "Authorization": {"Bearer wrong"}}, nil},
		{"wrong vault header wins", "/", http.Header{"X-Vault-Token": {"wrong"}, "Authorization": {"Bearer s3cret"}}, ErrDenied},
		{"empty vault header", "/", http.Header{"X-Vault-Token": {""}, "Authorization": {"Bearer s3cret"}}, nil},
		{"none", "/", nil, ErrDenied},
		{"wrong", "/", http.Header{"X-Vault-Token": {"s3cres"}}, ErrDenied},
		{"prefix", "/", http.Header{"X-Vault-Token": {"s3cre"}}, ErrDenied},
		{"longer", "/", http.Header{"X-Vault-Token": {"s3cret "}}, ErrDenied},
		{"bearer in lower case", "/", http.Header{"Authorization": {"bearer s3cret"}}, ErrDenied},
		{"basic", "/", http.Header{"Authorization": {"Basic s3cret"}}, ErrDenied},
		{"in the URL", "/?token=s3cret", nil, ErrTokenInURL},
		{"in the URL too", "/?Access_Token=x", http.Header{"X-Vault-Token": {"s3cret"}}, ErrTokenInURL},
		{"other query", "/?tokens=1", http.Header{"X-Vault-Token": {"s3cret"}}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest("GET", tt.url, nil)
			r.Header = tt.header
			id, err := a.Authenticate(r)
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "s3cret") {
				t.Errorf("the error has the token: %v", err)
			}
			ok := tt.want == nil
			if id.Root() != ok || id.MayConnect("*") != ok || id.MaySee(new(event.Event)) != ok {
				t.Errorf("identity %+v for error %v", id, err)
			}
			if (id.Key() == Identity{}.Key()) == ok {
				t.Error("the key does not tell root and nobody apart")
			}
		})
	}
}

func TestEmptyRootToken(t *testing.T) {
	if _, err := NewAuthenticator(""); err == nil {
		t.Error("accepted: every request without a token would be root")
	}
}
