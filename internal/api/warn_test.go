package api

import (
	"log/slog"
	"strings"
	"sync"
	"testing"
)

// lines counts what is logged.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// Somebody without a token cannot fill the log while the tokens of others cannot be
// validated: those requests are no failed authentications and not limited.
func TestWarningsAreFew(t *testing.T) {
	log := new(lines)
	n := startNode(t, func(o *Options) {
		o.Logins = logins(&issuer{})
		o.Logger = slog.New(slog.NewTextHandler(log, nil))
	}, &issuer{})
	for range 20 {
		if status, _ := n.do(ask{method: "GET", path: "/v1/auth/token/lookup-self", token: "jwt.down"}); status != 503 {
			t.Fatal(status)
		}
		if status, _ := n.do(ask{method: "POST", path: "/v1/auth/jwt/login", token: "-", body: `{"jwt":"jwt.down"}`}); status != 503 {
			t.Fatal(status)
		}
	}
	log.mu.Lock()
	defer log.mu.Unlock()
	if got := strings.Count(log.text.String(), "level=WARN"); got != 1 {
		t.Errorf("%d warnings:\n%s", got, log.text.String())
	}
}
