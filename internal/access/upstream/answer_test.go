package upstream

import (
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/policy"
)

func read(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func when(t testing.TB, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// TestRecorded decodes what a real server has answered; see testdata/README.md.
func TestRecorded(t *testing.T) {
	p, err := New(Config{Address: "https://vault.example.com", AllowRoot: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	asked := when(t, "2026-11-21T09:22:30Z") // when it was recorded
	header := http.Header{"Content-Type": {"application/json"}}
	for _, test := range []struct {
		file, token string
		status      int
		want        *access.External // nil: ErrDenied
	}{
		{"root.json", "root", 200, &access.External{
			DisplayName: "token", Policies: []string{"root"}, Root: true, Subject: policy.Subject{DisplayName: "token"},
		}},
		{"service.json", "recorded-service", 200, &access.External{
			DisplayName: "token-ann", Policies: []string{"default", "team-a"}, Renewable: true,
			Meta: map[string]string{"owner": "ann", "team": "a"},
			Subject: policy.Subject{
				DisplayName: "token-ann", TokenMetadata: map[string]string{"owner": "ann", "team": "a"},
			},
		}},
		{"batch.json", "recorded-batch", 200, &access.External{
			DisplayName: "token", Policies: []string{"default", "team-a"},
			Meta:    map[string]string{"team": "a"},
			Subject: policy.Subject{DisplayName: "token", TokenMetadata: map[string]string{"team": "a"}},
		}},
		{"periodic.json", "recorded-periodic", 200, &access.External{
			DisplayName: "token", Policies: []string{"default", "team-a"}, Renewable: true, Subject: policy.Subject{DisplayName: "token"},
		}},
		{"entity.json", "recorded-entity", 200, &access.External{
			DisplayName: "userpass-bob", Policies: []string{"default", "from-entity", "from-group", "team-b"}, Renewable: true,
			Meta: map[string]string{"username": "bob"},
			Subject: policy.Subject{
				DisplayName: "userpass-bob", EntityID: "ae09fd9b-ef0c-5fbc-f83e-8c66247d44d0",
				TokenMetadata: map[string]string{"username": "bob"},
			},
		}},
		{"uses.json", "recorded-uses", 200, nil},
		{"last-use.json", "recorded-last-use", 200, nil},
		{"bound.json", "recorded-bound", 200, nil},
		{"unknown.403.json", "junk", 403, nil},
		{"no-namespace.500.json", "a.b", 500, nil},
	} {
		t.Run(test.file, func(t *testing.T) {
			got, err := p.judge(test.status, header, read(t, test.file), test.token, asked)
			if test.want == nil {
				if !errors.Is(err, access.ErrDenied) {
					t.Errorf("got %+v, %v", got, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			a, err := decode(read(t, test.file))
			if err != nil {
				t.Fatal(err)
			}
			test.want.Provider = "upstream"
			test.want.Accessor = a.Accessor
			test.want.Created = time.Unix(a.CreationTime, 0)
			if a.ExpireTime != nil {
				test.want.Expires = *a.ExpireTime
			}
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("got  %+v\nwant %+v", got, test.want)
			}
		})
	}
	if _, err := p.judge(503, header, read(t, "sealed.503.json"), "root", asked); !errors.Is(err, access.ErrUnavailable) {
		t.Errorf("sealed: %v", err)
	}
}

func TestExpiry(t *testing.T) {
	asked := when(t, "2026-11-21T09:00:00Z")
	for _, test := range []struct {
		name       string
		ttl        int64
		expireTime string // "": null
		want       string // "": never; "now"
	}{
		{"never", 0, "", ""},
		{"clocks agree", 3599, "2026-11-21T09:59:59.7Z", "2026-11-21T09:59:59.7Z"},
		{"another time zone", 3600, "2026-11-21T11:00:00.5+01:00", "2026-11-21T10:00:00.5Z"},
		{"server is ahead", 3600, "2026-11-21T10:10:00Z", "2026-11-21T10:00:00Z"},
		{"server is behind", 3600, "2026-11-21T09:50:00Z", "2026-11-21T10:00:00Z"},
		{"server is far behind", 60, "2026-11-20T09:01:00Z", "2026-11-21T09:01:00Z"},
		{"less than a second", 0, "2026-11-21T09:00:00.4Z", "2026-11-21T09:00:00.4Z"},
		{"just over", 0, "2026-11-21T08:59:59.9Z", "now"},
		{"long over", 0, "2026-11-20T09:00:00Z", "now"},
		{"negative", -5, "2026-11-20T09:00:00Z", "now"},
		{"only ttl", 60, "", "2026-11-21T09:01:00Z"},
		{"absurd", 1 << 62, "9999-12-31T23:59:59Z", "2126-10-28T09:00:00Z"},
	} {
		a := &answer{TTL: &test.ttl}
		if test.expireTime != "" {
			at := when(t, test.expireTime)
			a.ExpireTime = &at
		}
		got, ok := expiry(a, asked)
		text := "now"
		if ok {
			text = ""
			if !got.IsZero() {
				text = got.UTC().Format(time.RFC3339Nano)
			}
		}
		if text != test.want {
			t.Errorf("%s: got %q, want %q", test.name, text, test.want)
		}
	}
}

// FuzzAnswer feeds bodies of any content. Whatever is accepted must be safe to use.
func FuzzAnswer(f *testing.F) {
	entries, err := os.ReadDir("testdata")
	if err != nil {
		f.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".json") {
			f.Add(200, read(f, e.Name()), "recorded-"+strings.TrimSuffix(e.Name(), ".json"))
			f.Add(403, read(f, e.Name()), "root")
		}
	}
	p, err := New(Config{Address: "https://vault.example.com", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	header := http.Header{"Content-Type": {"application/json"}}
	f.Fuzz(func(t *testing.T, status int, body []byte, token string) {
		x, err := p.judge(status, header, body, token, time.Now())
		if err != nil {
			if x != nil || errors.Is(err, access.ErrDenied) == errors.Is(err, access.ErrUnavailable) {
				t.Fatalf("%v, %v", x, err)
			}
			if len(token) > 8 && !strings.Contains(p.unavailable("").Error(), token) && strings.Contains(err.Error(), token) {
				t.Fatalf("token in error %v", err)
			}
			return
		}
		if status != 200 || x.Root || slices.Contains(x.Policies, "root") || slices.Contains(x.Policies, "") || !slices.IsSorted(x.Policies) {
			t.Fatalf("accepted %+v", x)
		}
		if !x.Expires.IsZero() && time.Until(x.Expires) < -time.Minute {
			t.Fatalf("accepted although expired at %s", x.Expires)
		}
	})
}
