package cli

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/internal/address"
	"github.com/tocsin-events/tocsin/internal/app"
	"github.com/tocsin-events/tocsin/internal/vaultclient"
)

// run executes a command line that ends by itself.
func run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err strings.Builder
	code = Run(t.Context(), args, Streams{In: strings.NewReader(""), Out: &out, Err: &err})
	return code, out.String(), err.String()
}

func TestUsageErrors(t *testing.T) {
	for _, tc := range []struct {
		args string
		want string
	}{
		{"evnts", `unknown command "evnts"; did you mean "events"?`},
		{"frobnicate", `unknown command "frobnicate"; known are audit, capture, config, dev, events, login, logout, plugin, policy, rules, server, sink, status, token, version`},
		{"events subscrib", `unknown command "subscrib"; did you mean "subscribe"?`},
		{"events subscribe", `the event TYPE ("*" for all) is missing`},
		{"events subscribe a b", `unexpected argument "b"`},
		{"events subscribe --filtre x *", `unknown flag --filtre; did you mean --filter?`},
		{"events subscribe --zzz *", `unknown flag --zzz`},
		{"events subscribe -filtre=x *", `unknown flag --filtre; did you mean --filter?`},
		{"events subscribe -z *", `unknown flag -z`},
		{"events subscribe --count -5 *", `--count -5: the number of events cannot be negative`},
		{"events subscribe --count many *", `invalid argument "many"`},
		{"events subscribe --output xml *", `must be json or pretty`},
		{"events subscribe --format avro *", `must be vault or cloudevents`},
		{"events publish", `the event TYPE is missing`},
		{"events publish a/b c", `"c" is not KEY=VALUE`},
		{"events publish a/b =c", `"=c" is not KEY=VALUE`},
		{"events publish a/b path=x --path y", `--path is "y" and the metadata say path=x`},
		{"events publish a/b --content-type text/plain", `--content-type needs --data`},
		{"events publish a/b --wait soon", `"soon" is not a duration`},
		{"events publish --cloudevents a/b", `unexpected argument "a/b"`},
		{"events publish --cloudevents --source /x", `--source has no meaning with --cloudevents`},
		{"plugin run", `the LIBRARY or EXECUTABLE of the plugin is missing`},
		{"plugin run x y", `arguments of the plugin come after "--"`},
		{"plugin run x --listen 0.0.0.0:0", `"tocsin plugin run" only listens on loopback`},
		{"plugin run x --type database", `--type must be source, secret or auth`},
		{"plugin run x --login-policy p", `--login-policy is for auth plugins`},
		{"plugin run x --path a --path /a/", `--path a is given twice`},
		{"plugin run x --path a --open b", `--open is for source plugins, and --path for Vault plugins`},
		{"plugin run x.so --listen 127.0.0.1:0", `--listen is for Vault plugins, and this is a source plugin`},
		{"plugin run x --type secret --open b", `--open is for source plugins: --type source`},
		{"plugin inspect", `the LIBRARY or EXECUTABLE of the plugin is missing`},
		{"plugin inspect x y", `arguments of the plugin come after "--"`},
		{"plugin inspect -o xml x", `must be text or json`},
		{"plugin info kv", `the TYPE (secret or auth) and the NAME of the plugin is missing`},
		{"plugin info database x", `the type of a plugin is secret or auth`},
		{"plugin register secret kv", `give --sha256 or --file`},
		{"plugin reload", `give the NAME of a plugin, or --mount`},
		{"plugin reload a b", `unexpected argument "b"`},
		{"audit events", `the FILE is missing`},
		{"audit spans", `the FILE is missing`},
		{"audit spans -o xml x", `must be text, json or otlp`},
		{"audit spans --window 0s x", `--window must be more than 0`},
		{"audit events --kv-version secret/=3 x", `the version must be 1 or 2`},
		{"config check", `the configuration FILE is missing`},
		{"server", `--config FILE is missing`},
		{"dev --listen 0.0.0.0:0", `only listens on loopback`},
		{"dev --listen example.com:1", `only listens on loopback`},
		{"dev --listen 8280", `is not an address`},
		{"dev --log-level loud", `must be debug, info, warn or error`},
		{"dev extra", `unexpected argument "extra"`},
		{"policy write team", `the NAME of the policy and the FILE with it is missing`},
		{"policy fmt", `the FILE is missing`},
		{"rules fmt", `the FILES are missing`},
		{"rules fmt - -", `'-' is standard input`},
		{"policy read", `the NAME of the policy is missing`},
		{"policy list --format yaml", `must be text or json`},
		{"token create --ttl soon", `"soon" is not a duration`},
		{"token create --ttl 10ms", `"10ms" is less than a second`},
		{"token create --metadata a", `must be KEY=VALUE`},
		{"token create --use-limit -1", `--use-limit -1: the number of uses cannot be negative`},
		{"token create --field ttl", `--field ttl: must be token or accessor`},
		{"token capabilities", `the PATH is missing`},
		{"token revoke", `say which token ends`},
		{"token revoke --self --accessor a", `say which token ends`},
		{"token revoke --self --mode orphan", `needs the token itself`},
		{"token revoke --self --mode sideways", `the only mode is orphan`},
		{"token lookup --accessor a -", `use one of them`},
	} {
		t.Run(tc.args, func(t *testing.T) {
			code, stdout, stderr := run(t, strings.Fields(tc.args)...)
			if code != exitUsage || !strings.Contains(stderr, tc.want) || !strings.Contains(stderr, "--help") || stdout != "" {
				t.Errorf("exit %d\nstdout %q\nstderr %q", code, stdout, stderr)
			}
		})
	}
}

func TestEmptyType(t *testing.T) {
	if code, _, stderr := run(t, "events", "subscribe", ""); code != exitUsage || !strings.Contains(stderr, "'*' means all") {
		t.Errorf("exit %d, %s", code, stderr)
	}
}

func TestRootTokenMustFitIntoAHeader(t *testing.T) {
	if code, _, stderr := run(t, "dev", "--root-token", "a b"); code != exitUsage || !strings.Contains(stderr, "--root-token") {
		t.Errorf("exit %d, %s", code, stderr)
	}
}

// Every command has a help text with an example.
func TestHelp(t *testing.T) {
	for _, args := range []string{
		"", "dev", "server", "events", "events subscribe", "events publish", "events types", "events types show", "audit", "audit events", "audit spans", "config", "config show", "config check", "version",
		"rules fmt",
		"policy", "policy fmt", "policy test", "policy write", "policy read", "policy list", "policy delete",
		"token", "token create", "token list", "token lookup", "token renew", "token revoke", "token capabilities", "login", "logout", "status",
		"plugin", "plugin run", "plugin inspect", "plugin list", "plugin info", "plugin register", "plugin reload", "plugin deregister",
		"sink", "sink list", "sink show", "sink add", "sink set", "sink remove", "sink test", "sink pause", "sink disable", "sink resume", "sink attempts", "sink dlq", "sink dlq list",
		"sink dlq show", "sink dlq redrive", "sink dlq purge", "sink replay", "sink replays", "sink cancel", "sink kinds", "sink keygen", "sink verify",
	} {
		t.Run(args, func(t *testing.T) {
			code, stdout, stderr := run(t, append(strings.Fields(args), "--help")...)
			if code != exitOK || stderr != "" || !strings.Contains(stdout, "Usage:") {
				t.Errorf("exit %d\n%s%s", code, stdout, stderr)
			}
			if group := slices.Contains([]string{"events", "audit", "config", "policy", "token", "plugin", "sink", "sink dlq"}, args); !group && !strings.Contains(stdout, "Examples:\n") {
				t.Errorf("no example in\n%s", stdout)
			}
			for line := range strings.Lines(stdout) {
				if len(line) > 120 && !strings.Contains(line, "  -") {
					t.Errorf("long line %q", line)
				}
			}
		})
	}
}

func TestDoubleDashes(t *testing.T) {
	root := newRoot(&Streams{})
	for args, want := range map[string]string{
		"events subscribe -namespaces=* -filter x -since=1h kv": "events subscribe --namespaces=* --filter x --since=1h kv",
		"events subscribe -namespaces * --filter=-x kv":         "events subscribe --namespaces * --filter=-x kv",
		"events subscribe -n 5 -o json -h -unknown":             "events subscribe -n 5 -o json -h -unknown",
		"events subscribe -- -filter":                           "events subscribe -- -filter",
		"audit events - -all":                                   "audit events - --all",
	} {
		if got := doubleDashes(root, strings.Fields(args)); !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%s\ngot  %q", args, got)
		}
	}
}

func TestConnectErrorsSayWhatToDo(t *testing.T) {
	refused := fmt.Errorf("connect: %w", &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)})
	for _, tc := range []struct {
		name  string
		err   error
		token bool
		want  string
	}{
		{"refused", refused, true, "Is the hub running?"},
		{"unknown host", fmt.Errorf("x: %w", &net.DNSError{Err: "no such host"}), true, "Check --address"},
		{"no token", &client.StatusError{StatusCode: 403}, false, `Give a token: "tocsin login"`},
		{"wrong token", &client.StatusError{StatusCode: 403}, true, "The token from $TOCSIN_TOKEN is not valid at http://h"},
		{"ended", fmt.Errorf("x: %w", &client.EndedError{Reason: "token revoked"}), true, `With another token, "tocsin login"`},
		{"not a hub", &client.StatusError{StatusCode: 404}, true, "Is http://h a Tocsin hub?"},
		{"something else", vaultclient.ErrNoAnswer, true, "Is http://h a Tocsin hub?"},
		{"TLS to plain", errors.New("http: server gave HTTP response to HTTPS client"), true, "use http://"},
		{"plain to TLS", errors.New("malformed HTTP response"), true, "use https://"},
		{"plain to Go's TLS", &client.StatusError{StatusCode: 400, Messages: []string{"Client sent an HTTP request to an HTTPS server."}}, true, "use https://"},
		{"private authority", fmt.Errorf("x: %w", x509.UnknownAuthorityError{}), true, "--ca-cert"},
		{"other name", fmt.Errorf("x: %w", x509.HostnameError{Certificate: &x509.Certificate{}, Host: "h"}), true, "--tls-server-name"},
		{"no certificate", errors.New("remote error: tls: certificate required"), true, "--client-cert and --client-key"},
		{"reset", &net.OpError{Op: "write", Err: os.NewSyscallError("write", syscall.ECONNRESET)}, true, "--client-cert and --client-key"},
		{"ended before HTTP/2", errors.New("http2: client conn could not be established"), true, "--client-cert and --client-key"},
		{"other", errors.New("boom"), true, "boom"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := &connection{address: "http://h"}
			if tc.token {
				c.token, c.source = "s3cret", "$TOCSIN_TOKEN"
			}
			c.url = &url.URL{Scheme: "https", Host: "h"}
			err := c.advise(tc.err)
			if !errors.Is(err, tc.err) && err.Error() == tc.err.Error() || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func parsed(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := address.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestDevToken(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	remove, err := writeDevToken("127.0.0.1:8280", "secret-1")
	if err != nil {
		t.Fatal(err)
	}
	path, _ := devTokenFile("127.0.0.1:8280")
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file %v, %v", info.Mode(), err)
	}
	if dir, err := os.Stat(filepath.Dir(path)); err != nil || dir.Mode().Perm() != 0o700 {
		t.Errorf("directory %v, %v", dir.Mode(), err)
	}
	for text, want := range map[string]string{
		"http://127.0.0.1:8280": "secret-1", "127.0.0.1:8280": "secret-1", "http://localhost:8280": "secret-1",
		"http://127.0.0.1:8281": "", "https://127.0.0.1:8280": "", "http://example.com:8280": "", "http://[::1]:8280": "",
	} {
		if got := devToken(parsed(t, text)); got != want {
			t.Errorf("%s: token %q", text, got)
		}
	}
	// A second hub has taken the address over: the first leaves its token alone.
	remove2, err := writeDevToken("127.0.0.1:8280", "secret-2")
	if err != nil {
		t.Fatal(err)
	}
	remove()
	if got := devToken(parsed(t, "http://127.0.0.1:8280")); got != "secret-2" {
		t.Errorf("token %q", got)
	}
	remove2()
	if got := devToken(parsed(t, "http://127.0.0.1:8280")); got != "" {
		t.Errorf("after its end: token %q", got)
	}
	if _, err := writeDevToken("192.0.2.1:8280", "x"); err == nil {
		t.Error("a token is left for an address that is not loopback")
	}
}

func TestTokenSources(t *testing.T) {
	cleanEnvironment(t)
	remove, err := writeDevToken("127.0.0.1:8280", "from-dev")
	if err != nil {
		t.Fatal(err)
	}
	defer remove()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	check := func(f connectFlags, wantAddress, wantToken, wantSource string) {
		t.Helper()
		c, err := f.resolve()
		if err != nil || c.address != wantAddress || c.token != wantToken || c.source != wantSource {
			t.Errorf("%+v: %+v, %v", f, c, err)
		}
	}
	check(connectFlags{}, defaultAddress, "from-dev", `the running "tocsin dev"`)
	check(connectFlags{address: "http://other:1"}, "http://other:1", "", "")
	if _, err := storeToken(parsed(t, defaultAddress), "from-login"); err != nil {
		t.Fatal(err)
	}
	check(connectFlags{}, defaultAddress, "from-login", `"tocsin login"`)
	check(connectFlags{address: "http://other:1"}, "http://other:1", "", "")
	t.Setenv(tokenEnv, "from-env")
	t.Setenv(addressEnv, "http://env:1")
	check(connectFlags{}, "http://env:1", "from-env", "$TOCSIN_TOKEN")
	check(connectFlags{tokenFile: file, address: "http://flag:1"}, "http://flag:1", "from-file", file)
	if _, err := (&connectFlags{tokenFile: file + "x"}).resolve(); err == nil {
		t.Error("a missing token file is no error")
	}
	if _, err := (&connectFlags{address: "http://u:s3cret@h"}).resolve(); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("an address with a password: %v", err)
	}
}

// A hub with new data knows no token of an earlier one at its address.
func TestDevForgetsLogins(t *testing.T) {
	cleanEnvironment(t)
	for _, a := range []string{"http://127.0.0.1:8280", "http://localhost:8280", "http://127.0.0.1:8281", "https://127.0.0.1:8280"} {
		if _, err := storeToken(parsed(t, a), "old"); err != nil {
			t.Fatal(err)
		}
	}
	if err := forgetDevLogins("127.0.0.1:8280"); err != nil {
		t.Fatal(err)
	}
	for a, want := range map[string]string{"http://127.0.0.1:8280": "", "http://localhost:8280": "", "http://127.0.0.1:8281": "old", "https://127.0.0.1:8280": "old"} {
		if got, err := storedToken(parsed(t, a)); got != want || err != nil {
			t.Errorf("%s: %q, %v", a, got, err)
		}
	}
}

// cleanEnvironment gives a test an environment and a home of its own.
func cleanEnvironment(t *testing.T) {
	t.Helper()
	for _, name := range []string{addressEnv, tokenEnv, namespaceEnv, caCertEnv, clientCertEnv, clientKeyEnv, serverNameEnv} {
		t.Setenv(name, "")
	}
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CACHE_HOME", filepath.Join(home, "cache"))
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(home, "config"))
}

func TestStatusLine(t *testing.T) {
	before := app.Stats{Lines: 100, Events: 200, Delivered: 10}
	now := app.Stats{Lines: 120, Events: 230, Delivered: 20, Subscribers: 2, Healthy: true}
	if got, want := statusLine(before, now, 2*time.Second), "10/s lines · 15/s events · 230 in all · 2 subscribers · 5/s delivered"; got != want {
		t.Errorf("got %q", got)
	}
	now.Healthy, now.Quarantined = false, 3
	if got := fit("10/s lines · 15/s", 13); got != "10/s lines ·" {
		t.Errorf("cut to %q", got)
	}
	if got := fit("10/s", 5); got != "10/s" {
		t.Errorf("cut to %q", got)
	}
	if got := statusLine(before, now, time.Second); !strings.HasSuffix(got, "3 not understood · NOT HEALTHY") {
		t.Errorf("got %q", got)
	}
}

func TestSinceAllowsDays(t *testing.T) {
	for v, want := range map[string]string{"7d": "168h0m0s", "1h": "1h0m0s", "": "", "2026-01-01T00:00:00Z": "2026-01-01T00:00:00Z", "pos": "pos"} {
		if got := sinceValue(v); got != want {
			t.Errorf("%q: %q", v, got)
		}
	}
}

func TestColoursAndTerminals(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if isTerminal(null) || isTerminal(&strings.Builder{}) {
		t.Error("taken for a terminal")
	}
	if tty, err := os.Open("/dev/ptmx"); err == nil {
		defer tty.Close()
		t.Setenv("TERM", "xterm")
		t.Setenv("NO_COLOR", "")
		if !colours(tty) {
			t.Error("no colours on a terminal")
		}
		t.Setenv("NO_COLOR", "1")
		if colours(tty) {
			t.Error("colours in spite of NO_COLOR")
		}
	}
}

type closedPipe struct{}

func (closedPipe) Write([]byte) (int, error) {
	return 0, &os.PathError{Op: "write", Path: "|1", Err: syscall.EPIPE}
}

func TestClosedOutputEndsQuietly(t *testing.T) {
	var stderr strings.Builder
	code := Run(t.Context(), []string{"config", "show"}, Streams{In: strings.NewReader(""), Out: closedPipe{}, Err: &stderr})
	if code != exitOK || stderr.String() != "" {
		t.Errorf("exit %d, %s", code, stderr.String())
	}
}

// A connection to a hub can break with the same error as a pipe to "head", and that is no
// success.
func TestBrokenConnectionIsAnError(t *testing.T) {
	broken := os.NewSyscallError("write", syscall.EPIPE)
	if !isClosedOutput(fmt.Errorf("print: %w", &os.PathError{Op: "write", Path: "|1", Err: syscall.EPIPE})) {
		t.Error("a closed output is an error")
	}
	if isClosedOutput(fmt.Errorf("connect: %w", &url.Error{Op: "Get", URL: "https://h", Err: &net.OpError{Op: "write", Net: "tcp", Err: broken}})) {
		t.Error("a broken connection is none")
	}
}

// What is printed for scripts is asked for in one way by all commands.
func TestOutputFlag(t *testing.T) {
	t.Parallel()
	root := newRoot(&Streams{In: strings.NewReader(""), Out: io.Discard, Err: io.Discard})
	found := 0
	var look func(c *cobra.Command)
	look = func(c *cobra.Command) {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if _, ok := f.Value.(*answerFlag); !ok {
				return
			}
			found++
			if f.Name != "output" && (f.Name != "format" || !f.Hidden) || c.Flags().Lookup("output").Shorthand != "o" || c.Flags().Lookup("output").Hidden {
				t.Errorf("%s has --%s", c.CommandPath(), f.Name)
			}
		})
		for _, sub := range c.Commands() {
			look(sub)
		}
	}
	look(root)
	if found < 50 {
		t.Errorf("%d flags", found)
	}
}
