package nats

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/internal/deliver"
)

// hostile is a server that says something after a client has said who it is, or before.
func hostile(t *testing.T, info string, config *tls.Config, say string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				fmt.Fprint(conn, info)
				if config != nil {
					conn = tls.Server(conn, config)
				}
				r := bufio.NewReader(conn)
				for {
					line, err := r.ReadString('\n')
					if err != nil {
						return
					}
					if strings.HasPrefix(line, "PING") {
						break
					}
				}
				fmt.Fprint(conn, "PONG\r\n"+say)
				_, _ = io.Copy(io.Discard, r)
			}()
		}
	}()
	return "nats://" + l.Addr().String()
}

const info = `INFO {"server_id":"x","version":"2.10.0","proto":1,"headers":true,"max_payload":1048576,"jetstream":true}` + "\r\n"

// A server that lies about how large a message is ends its connection, and not the program.
func TestHostileServer(t *testing.T) {
	for name, say := range map[string]string{
		"a message that no memory has":   "MSG _INBOX.x 1 9000000000000000000\r\nabc",
		"in small letters and with tabs": "msg\t_INBOX.x\t1\t9000000000000000000\r\nabc",
		"with headers":                   "HMSG _INBOX.x 1 12 9000000000000000000\r\nabc",
		"behind another":                 "MSG _INBOX.x 1 3\r\nabc\r\nMSG _INBOX.x 1 90000000000000\r\nabc",
		"behind an empty one":            "MSG _INBOX.x 1 0\r\n\r\nMSG _INBOX.x 1 90000000000000\r\nabc",
		"a line without end":             "INFO " + strings.Repeat("a", 4<<20),
	} {
		url := hostile(t, info, nil, say)
		s, err := New(Options{URLs: []string{url}, Subject: "a", Format: "cloudevents"})
		if err != nil {
			t.Fatal(err)
		}
		r := send(t, s, batch(0, 1))
		if r[0].Outcome == deliver.Delivered || !strings.Contains(r[0].Reason, "server says more than") {
			t.Errorf("%s: %+v", name, r[0])
		}
		_ = s.Close()
	}
}

// What a server repeats of a secret is in no reason.
func TestHostileServerRepeatsSecrets(t *testing.T) {
	const secret = "s3cr3t-token"
	s, err := New(Options{URLs: []string{hostile(t, info, nil, "-ERR 'no such token "+secret+"'\r\n")}, Subject: "a", Format: "cloudevents", Token: fixed(secret)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r := send(t, s, batch(0, 1))
	if r[0].Outcome == deliver.Delivered || strings.Contains(r[0].Reason, secret) || !strings.Contains(r[0].Reason, "no such token <secret>") {
		t.Errorf("%+v", r[0])
	}
}

// So does one behind TLS, and what somebody puts in before the connection is encrypted is not
// taken for what the server says.
func TestHostileServerWithTLS(t *testing.T) {
	a := newAuthority(t)
	cert, key := a.issue("nats", net.IPv4(127, 0, 0, 1))
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}}
	required := strings.Replace(info, "{", `{"tls_required":true,`, 1)
	for name, test := range map[string]struct{ info, say, want string }{
		"a message that no memory has": {required, "MSG _INBOX.x 1 9000000000000000000\r\nabc", "server says more than"},
		"something before":             {required + "PONG\r\n", "", "before the connection was encrypted"},
	} {
		s, err := New(Options{URLs: []string{hostile(t, test.info, config, test.say)}, Subject: "a", Format: "cloudevents", TLS: TLS{CA: fixed(a.pem)}})
		if err != nil {
			t.Fatal(err)
		}
		r := send(t, s, batch(0, 1))
		if r[0].Outcome == deliver.Delivered || !strings.Contains(r[0].Reason, test.want) {
			t.Errorf("%s: %+v", name, r[0])
		}
		_ = s.Close()
	}
}

// What a server says is judged in the same way however it comes in.
func FuzzLimiter(f *testing.F) {
	for _, s := range []string{info, "MSG a 1 3\r\nabc\r\nPING\r\n", "HMSG a 1 r 12 12\r\nNATS/1.0\r\n\r\n\r\n+OK\r\n", "MSG a 1 0\r\n\r\nmsg a 99999999999\r\n", "M\n", "-ERR 'x'\r\n"} {
		f.Add([]byte(s), uint8(1))
	}
	f.Fuzz(func(t *testing.T, b []byte, step uint8) {
		var whole, parts limiter
		want := whole.pass(b)
		var got error
		for rest := b; len(rest) > 0 && got == nil; {
			n := min(int(step)+1, len(rest))
			got = parts.pass(rest[:n])
			rest = rest[n:]
		}
		if (want == nil) != (got == nil) {
			t.Fatalf("whole: %v, in parts: %v", want, got)
		}
		if want == nil && (whole.skip != parts.skip || whole.rest != parts.rest || string(whole.line) != string(parts.line)) {
			t.Fatalf("whole: %+v, in parts: %+v", whole, parts)
		}
		if whole.skip > maxMessage+1 || len(whole.line) > maxLine {
			t.Fatalf("%+v", whole)
		}
	})
}
