package leak

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit"
	"github.com/tocsin-events/tocsin/internal/token"
)

func rules(t testing.TB, o Options) *Rules {
	t.Helper()
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// joined keeps what looks like a token out of this file, where scanners would find it.
func joined(parts ...string) string { return strings.Join(parts, "") }

var (
	mixed24   = "AbCdEfGhIjKlMnOpQrStUvW1"
	long      = strings.Repeat("aB3dE6gH9jK1", 12)
	vaultTok  = joined("hv", "s.", mixed24)
	jwtTok    = joined("ey", "JhbGciOiJFUzI1NiJ9", ".", "ey", "JzdWIiOiJhcHAifQ", ".", "c2lnbmF0dXJl")
	pemKey    = joined("-----BEGIN ", "RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----")
	githubTok = joined("gh", "p_", long[:36])
)

// found are texts with a secret, and which detector finds it.
var found = []struct{ detector, text string }{
	{"vault-token", vaultTok},
	{"vault-token", joined("hv", "b.", long)},
	{"vault-token", joined("hv", "r.", mixed24)},
	{"vault-token", joined("hv", "s.CAESIJ", long)},
	{"vault-token", "s." + mixed24},
	{"vault-token", "s." + mixed24 + ".ns1id"},
	{"vault-token", "r." + mixed24},
	{"vault-token", "b." + long[:100]},
	{"vault-token", "use " + vaultTok + " to log in"},
	{"vault-token", "X-Vault-Token:" + vaultTok},
	{"vault-token", "token_" + vaultTok},
	{"tocsin-token", token.Prefix + long[:32]},
	{"jwt", jwtTok},
	{"jwt", "access-" + jwtTok},
	{"jwt", strings.TrimSuffix(jwtTok, "c2lnbmF0dXJl")}, // without a signature
	{"private-key", pemKey},
	{"private-key", joined("-----BEGIN ", "PRIVATE KEY-----")},
	{"private-key", joined("-----BEGIN ", "OPENSSH PRIVATE KEY-----")},
	{"private-key", joined("-----BEGIN ", "PGP PRIVATE KEY BLOCK-----")},
	{"private-key", joined(`{"private_key":"-----BEGIN `, `PRIVATE KEY-----\nMIIE`)},
	{"private-key", joined("AGE-SECRET", "-KEY-1", strings.ToUpper(long[:58]))},
	{"private-key", joined("PuTTY-User", "-Key-File-3: ssh-ed25519")},
	{"aws-key", joined("AK", "IAIOSFODNN7EXAMPLE")},
	{"aws-key", joined("key=AS", "IAIOSFODNN7EXAMPLE,")},
	{"google-key", joined("AI", "za", long[:35])},
	{"google-key", joined("ya", "29.", long[:40])},
	{"google-key", joined("GOC", "SPX-", long[:28])},
	{"azure-key", joined("DefaultEndpointsProtocol=https;Account", "Key=", long[:86], "==")},
	{"github-token", githubTok},
	{"github-token", joined("github", "_pat_", long[:22], "_", long[:59])},
	{"gitlab-token", joined("gl", "pat-", long[:20])},
	{"slack-token", joined("xo", "xb-123456789012-", long[:24])},
	{"slack-token", joined("https://hooks.slack", ".com/services/T00000000/B00000000/", long[:24])},
	{"stripe-key", joined("sk_", "live_", long[:24])},
	{"registry-token", joined("np", "m_", long[:36])},
	{"registry-token", joined("py", "pi-AgE", long[:40])},
	{"service-token", joined("dop", "_v1_", strings.Repeat("0123456789abcdef", 4))},
	{"service-token", joined("S", "G.", long[:22], ".", long[:43])},
	{"service-token", joined("sk", "-ant-api03-", long[:40])},
	{"service-token", joined(long[:14], ".atlas", "v1.", long[:64])},
	{"authorization", joined("Bear", "er ", long[:24])},
	{"authorization", joined("Authorization: bear", "er  ", long[:24])},
	{"authorization", joined("Bas", "ic dXNlcjpwYXNzd29yZA==")},
	{"url-password", "postgres://app:hunter2@db.example.com:5432/app"},
	{"url-password", "amqp://:hunter2@mq"},
	{"url-password", "see https://u:p%40ss@example.com/x and more"},
}

// clean are texts in which nothing may be found.
var clean = []string{
	"", "true", "3", "data-write", "secret/data/app/db", "kv-v2/data-write", "2026-11-21T01:49:30.738683955Z",
	"auth/token/create", "s.example.com", "s.aaaaaaaaaaaaaaaaaaaaaaaa", "r.internal", "b.c.d", "xs." + mixed24, "s." + mixed24 + "x", "s." + mixed24[:23],
	"hvs.", "hvs.short", "faa453be-60c8-57b3-9107-1fa218cd6262", "kv_9070cba3",
	"hmac-sha256:2e3d1b6c0f9a4e5d8c7b6a594837261504f3e2d1c0bfae9d8c7b6a5948372615",
	"database/creds/app/Zu9vPqXk7dTnW3RfHs2LmBcY", "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
	"-----BEGIN CERTIFICATE-----", "-----BEGIN PUBLIC KEY-----", "eyJhbGciOiJFUzI1NiJ9", "a.eyJ.b", "eyJ.eyJ.",
	"AKIASHORT", "AKIAIOSFODNN7EXAMPLEX", "https://example.com/a:b@c", "https://user@example.com", "https://user:@example.com",
	"https://user:xxxxx@example.com", "https://user:****@example.com", "https://user:<password>@example.com", "https://user:${PW}@example.com",
	"Bearer authentication is required", "Basic authentication", "bearer of good news in the house", "Basic dXNlcg==",
	"the token was renewed", "github.com/hashicorp/vault", "sk_test_short", "npm_install", "arn:aws:iam::123456789012:role/app",
	"mailto:someone@example.com", "default,team-a", "[1,2,3]", "vault://vault", "tocsin://hub-1", "€ und ß", "\x00\xff",
}

func TestTexts(t *testing.T) {
	r := rules(t, Options{})
	seen := make(map[string]bool)
	for _, tt := range found {
		got := ""
		if f := r.text(tt.text); f != nil {
			got = f.name
		}
		if got != tt.detector {
			t.Errorf("%.40q...: found by %q, want %q", tt.text, got, tt.detector)
		}
		seen[tt.detector] = true
	}
	for _, d := range Detectors {
		if !seen[d.Name] && d.Name != NameDetector {
			t.Errorf("no example of what %s finds", d.Name)
		}
	}
	for _, text := range clean {
		if f := r.text(text); f != nil {
			t.Errorf("%q: found by %s", text, f.name)
		}
	}
}

func TestNames(t *testing.T) {
	secret := strings.Fields(`password db_password DB_PASSWORD dbPassword passwd pwd user.pwd passphrase secret client_secret clientSecret secret_id secret_key
		token access_token auth-token tokenValue api_key apiKey apikey API-KEY x-api-key private_key privateKey aws_secret_access_key
		access_key_id credentials credential authorization cookie set_cookie password_old password2 unseal_key_1 connection_string clientsecret DBPassword AWSSecretKey HTTPAuthToken APIKey SSHPrivateKey userAPIKey DBPassword2
		a_b_c_d_e_f_g_h_i_j_k_l_m_n_o_p_q_password`)
	for _, name := range secret {
		if !secretName(name) {
			t.Errorf("%s is taken for harmless", name)
		}
	}
	harmless := strings.Fields(`path data_path operation modified current_version oldest_version deleted_versions name key keys primary_key public_key
		token_type secret_path secret_name policies token_policies accessor token_accessor target_accessor secret_id_accessor token_ttl password_policy
		password_changed secret_created token_count secretary tokenize broken passenger compass keyboard monkey author authored
		lease_id entity_id display_name request_id mount_accessor secret_url secret_arn credential_store access_key_age tokens secrets_engine DBPasswordChanged APIKeyID2Type KEYs`)
	for _, name := range append(harmless, "", "_", "€", "key_"+strings.Repeat("x_", 1000)) {
		if secretName(name) {
			t.Errorf("%.50q is taken for the name of a secret", name)
		}
	}
	for _, value := range []string{"", "a", "abc", "true", "false", "12345678", "-1.5", "none", "****", "xxxxxxxx", "<password>", "${DB_PASSWORD}", "{{ password }}",
		MaskOf("vault-token"), "service", "hmac-sha256:" + strings.Repeat("0a", 32)} {
		if f := rules(t, Options{}).value("password", value); f != nil {
			t.Errorf("%q is taken for a password", value)
		}
	}
	for _, value := range []string{"hunter2", "hunter", "1234-5678", "<hunter2", "correct horse", "hmac-sha256:hunter2", "a/b/c"} {
		if f := rules(t, Options{}).value("password", value); f == nil {
			t.Errorf("%q is not taken for a password", value)
		}
	}
}

func TestJSONValues(t *testing.T) {
	r := rules(t, Options{})
	for value, want := range map[string]string{
		`{"a":{"password":"hunter2"}}`:               NameDetector,
		`{"password":true,"b":"hunter2"}`:            "",
		`["a","` + vaultTok + `"]`:                   "vault-token",
		`{"` + vaultTok + `":1}`:                     "vault-token",
		`["\u0068vs.` + mixed24 + `"]`:               "vault-token",
		`{"p\u0061ssword":"hunter2"}`:                NameDetector,
		`{"passwords":["hunter2"]}`:                  "",
		`{"password":["hunter2"]}`:                   NameDetector,
		`[1,2,{"a":"b\"c"}]`:                         "",
		`17`:                                         "",
		`{"k":"-----BEGIN PRIVATE KEY-----\nMIIE"}`:  "private-key",
		`{"k":"https:\/\/user:hunter2@example.com"}`: "url-password",
	} {
		got := ""
		if f := r.field(&event.Field{Key: "a", Value: value, JSON: true}); f != nil {
			got = f.name
		}
		if got != want {
			t.Errorf("%s: found by %q, want %q", value, got, want)
		}
	}
	// Texts that are JSON, or not.
	for value, want := range map[string]string{
		`{"user":"a","password":"hunter2"}`:       NameDetector,
		`{ "user": "a", "password" : "hunter2" }`: NameDetector,
		`[{"body":"{\"password\":\"hunter2\"}"}]`: NameDetector,
		`{"user":"a","password":"****"}`:          "",
		`[INFO] the "password" of "a" is set`:     "",
		`{{ password }}`:                          "",
		`{"password"`:                             "",
		`{`:                                       "",
	} {
		got := ""
		if f := r.field(&event.Field{Key: "body", Value: value}); f != nil {
			got = f.name
		}
		if got != want {
			t.Errorf("text %s: found by %q, want %q", value, got, want)
		}
	}
	if f := r.field(&event.Field{Key: "password", Value: `["hunter2"]`, JSON: true}); f == nil {
		t.Error("a list under the name of a secret is not found")
	}
}

// TestRecordings: in the events that come out of recorded audit logs nothing is found. They
// are not checked, but a plugin sends the same.
func TestRecordings(t *testing.T) {
	r := rules(t, Options{})
	events := 0
	for _, name := range []string{"openbao", "kv025"} {
		text, err := os.ReadFile("../auditlog/testdata/" + name + "-audit-small.jsonl")
		if err != nil {
			t.Fatal(err)
		}
		translator := vaultaudit.NewTranslator(vaultaudit.TranslatorConfig{Name: "t"})
		for line := range strings.Lines(string(text)) {
			for _, e := range translator.Translate(nil, []byte(strings.TrimSuffix(line, "\n"))) {
				events++
				if err := r.Check(e); err != nil {
					t.Errorf("%s: %v", e.Type, err)
				}
			}
		}
	}
	if events < 100 {
		t.Errorf("only %d events", events)
	}
}

// everywhere has a secret in each attribute that is looked at, one at a time.
func everywhere(secret string) map[string]*event.Event {
	events := make(map[string]*event.Event)
	add := func(attribute string, change func(*event.Event)) {
		e := event.NewNotification("app/x", "path", "secret/a", "k", "v")
		e.Source = "app://a"
		change(e)
		events[attribute] = e
	}
	add(`metadata "k"`, func(e *event.Event) { e.Metadata.Set("k", secret) })
	add(`metadata "j"`, func(e *event.Event) { e.Metadata.SetJSON("j", `["`+secret+`"]`) })
	add(`metadata "data_path"`, func(e *event.Event) { e.Metadata.Set("data_path", secret) })
	add("a name in metadata", func(e *event.Event) { e.Metadata.Set(secret, "v") })
	add(`extension "x"`, func(e *event.Event) { e.Extensions.Set("x", secret) })
	add("note", func(e *event.Event) { e.Note = "a " + secret })
	add("entity_ids", func(e *event.Event) { e.EntityIDs = []string{"a", secret} })
	add("source", func(e *event.Event) { e.Source = "app://a/" + secret })
	add("dataref", func(e *event.Event) { e.DataRef = secret })
	add("dataschema", func(e *event.Event) { e.DataSchema = secret })
	add("path", func(e *event.Event) { e.Path = "a/" + secret; e.Metadata.Set("path", e.Path) })
	return events
}

// fixed are the attributes that cannot be masked.
var fixed = []string{"path", "source", "dataref", "dataschema", "a name in metadata"}

func TestRefuse(t *testing.T) {
	r := rules(t, Options{})
	for attribute, e := range everywhere(githubTok) {
		err := r.Check(e)
		refused, ok := errors.AsType[*Error](err)
		if !ok || refused.Attribute != attribute || refused.Detector != "github-token" {
			t.Errorf("%s: %#v", attribute, err)
			continue
		}
		for i := 0; i+6 <= len(githubTok); i++ { // also no part of it
			if strings.Contains(err.Error(), githubTok[i:i+6]) {
				t.Errorf("%s: the error has a part of the secret: %v", attribute, err)
			}
		}
	}
	e := event.NewNotification("app/x", "path", "a")
	e.Data, e.DataContentType = []byte(githubTok), "text/plain"
	e.ID = "app"
	if err := r.Check(e); err != nil {
		t.Errorf("the payload is looked at: %v", err)
	}
}

func TestMask(t *testing.T) {
	r := rules(t, Options{Action: Mask})
	for attribute, e := range everywhere(githubTok) {
		path := e.Path
		err := r.Check(e)
		if slices.Contains(fixed, attribute) {
			if err == nil {
				t.Errorf("%s was not refused", attribute)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", attribute, err)
		}
		text := fmt.Sprint(e.Metadata, e.Extensions, e.Note, e.EntityIDs)
		if !strings.Contains(text, "<masked:github-token>") || strings.Contains(text, githubTok[:10]) || e.Path != path {
			t.Errorf("%s: %s", attribute, text)
		}
		if err := rules(t, Options{}).Check(e); err != nil {
			t.Errorf("%s: what is masked is found again: %v", attribute, err)
		}
		e.Complete(time.Now())
		if err := event.DefaultLimits.Check(e); err != nil {
			t.Errorf("%s: what is masked is not valid: %v", attribute, err)
		}
	}
}

func TestActions(t *testing.T) {
	withKey := func(eventType, value string) *event.Event { return event.NewNotification(eventType, "k", value) }
	own := []Own{{Name: "acme", Pattern: `acme_[a-z0-9]{8}`, Action: Mask}, {Name: "staff", Pattern: `(?i)staff-\d+`}}
	tests := []struct {
		name    string
		options Options
		event   *event.Event
		refused string // the detector
		value   string // of k, after; empty: as before
	}{
		{"allowed", Options{Actions: map[string]Action{"github-token": Allow}}, withKey("a/b", githubTok), "", ""},
		{"all allowed", Options{Action: Allow}, withKey("a/b", githubTok), "", ""},
		{"all allowed but one", Options{Action: Allow, Actions: map[string]Action{"github-token": Refuse}}, withKey("a/b", githubTok), "github-token", ""},
		{"an allowed one hides no other", Options{Actions: map[string]Action{"github-token": Allow}}, withKey("a/b", githubTok+" "+vaultTok), "vault-token", ""},
		{"masked and others refused", Options{Actions: map[string]Action{"github-token": Mask}}, withKey("a/b", githubTok), "", "<masked:github-token>"},
		{"excepted", Options{Except: []string{"x/*", "a/*"}}, withKey("a/b", githubTok), "", ""},
		{"not excepted", Options{Except: []string{"x/*"}}, withKey("a/b", githubTok), "github-token", ""},
		{"own", Options{Own: own}, withKey("a/b", "see acme_12345678."), "", "<masked:acme>"},
		{"own, by default", Options{Own: own}, withKey("a/b", "STAFF-12"), "staff", ""},
		{"own, not", Options{Own: own}, withKey("a/b", "acme_1"), "", ""},
	}
	for _, tt := range tests {
		before, _ := tt.event.Metadata.Text("k")
		err := rules(t, tt.options).Check(tt.event)
		refused := ""
		if e, ok := errors.AsType[*Error](err); ok {
			refused = e.Detector
		}
		if tt.value == "" {
			tt.value = before
		}
		if after, _ := tt.event.Metadata.Text("k"); refused != tt.refused || after != tt.value {
			t.Errorf("%s: refused by %q, and the value is %q", tt.name, refused, after)
		}
	}
}

func TestOptionsErrors(t *testing.T) {
	for want, o := range map[string]Options{
		`"drop" is no action`:       {Action: "drop"},
		`no detector "nope"`:        {Actions: map[string]Action{"nope": Mask}},
		`detector jwt: "x" is no`:   {Actions: map[string]Action{"jwt": "x"}},
		`is taken by a built-in`:    {Own: []Own{{Name: "jwt", Pattern: "x"}}},
		`"a": the name is taken`:    {Own: []Own{{Name: "a", Pattern: "x"}, {Name: "a", Pattern: "y"}}},
		`1 to 40 lower-case`:        {Own: []Own{{Name: "A", Pattern: "x"}}},
		`1 to 1000 bytes`:           {Own: []Own{{Name: "a", Pattern: strings.Repeat("x", 1001)}}},
		`no regular expression`:     {Own: []Own{{Name: "a", Pattern: `(?=x)`}}},
		`expression nests too`:      {Own: []Own{{Name: "a", Pattern: strings.Repeat("(", 400) + strings.Repeat("x)", 300)}}},
		`fits the empty text`:       {Own: []Own{{Name: "a", Pattern: `x*`}}},
		`fits "<masked:vault-toke`:  {Own: []Own{{Name: "a", Pattern: `[a-z]+-token`}}},
		`fits "<masked:b>"`:         {Own: []Own{{Name: "b", Pattern: "zz"}, {Name: "a", Pattern: `:b>`}}},
		`33 detectors of one's own`: {Own: make([]Own, 33)},
	} {
		if want == `expression nests too` {
			want = "no regular expression"
		}
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", want, err)
		}
	}
}

func TestCounts(t *testing.T) {
	r := rules(t, Options{Actions: map[string]Action{"jwt": Mask, "aws-key": Allow}})
	for range 2 {
		r.Check(event.NewNotification("a/b", "k", jwtTok, "l", jwtTok))
	}
	r.Check(event.NewNotification("a/b", "k", vaultTok))
	var got []string
	for _, c := range r.Counts() {
		if c.Refused+c.Masked > 0 {
			got = append(got, fmt.Sprint(c))
		}
		if c.Detector == "aws-key" {
			t.Error("what is allowed is counted")
		}
	}
	if want := "{vault-token 1 0} {jwt 0 4}"; strings.Join(got, " ") != want {
		t.Errorf("%s, want %s", strings.Join(got, " "), want)
	}
}

// slow are the forms again, as regular expressions over the whole text, to compare with.
var slow = map[string]*regexp.Regexp{
	"vault-token": regexp.MustCompile(`(^|[^A-Za-z0-9])(hv[sbr]\.[A-Za-z0-9_-]{20}|[sr]\.[A-Za-z0-9]{24}($|[^A-Za-z0-9])|b\.[A-Za-z0-9_-]{60})`),
	"jwt":         regexp.MustCompile(`eyJ[A-Za-z0-9_-]{5,}\.eyJ[A-Za-z0-9_-]{5,}\.`),
	"github-token": regexp.MustCompile(
		`(^|[^A-Za-z0-9])(gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_-]{40})`),
	"aws-key":      regexp.MustCompile(`(^|[^A-Za-z0-9])(AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}($|[^A-Z0-9])`),
	"url-password": regexp.MustCompile(`://[^ /?#"'<>\\@:\x00-\x1f]*:[^ /?#"'<>\\\x00-\x1f]+@`),
	"private-key":  regexp.MustCompile(`-----BEGIN .{0,20}PRIVATE KEY`),
}

// TestAgainstExpressions puts random pieces together and compares with slow.
func TestAgainstExpressions(t *testing.T) {
	pieces := []string{"hvs.", "hvb.", "s.", "r.", "b.", "eyJ", ".", ".eyJ", "ghp_", "github_pat_", "AKIA", "://", ":", "@", "/", "-", "_", " ", "x", "9",
		"-----BEGIN ", "PRIVATE KEY", "RSA ", "AbCdEfGhIj", "0123456789", "ABCDEFGH", mixed24, long[:36], "é"}
	random := rand.New(rand.NewPCG(1, 2))
	hits := 0
	for range 200_000 {
		var b strings.Builder
		for range random.IntN(9) {
			b.WriteString(pieces[random.IntN(len(pieces))])
		}
		s := b.String()
		for name, re := range slow {
			only := onlyRules(t, name)
			got, want := only.text(s) != nil, re.MatchString(s)
			if name == "url-password" && want != got {
				continue // passwords that are placeholders, and other authorities: see TestTexts
			}
			if name == "private-key" && strings.Contains(s, "é") {
				continue // which counts as two bytes or as one character
			}
			if name == "vault-token" && want && !got {
				continue // of one case only
			}
			if got != want {
				t.Fatalf("%s: %q: found %v, want %v", name, s, got, want)
			}
			if got {
				hits++
			}
		}
	}
	if hits < 1000 {
		t.Errorf("only %d texts had something", hits)
	}
}

var onlyMemory = make(map[string]*Rules)

// onlyRules are those with one detector.
func onlyRules(t testing.TB, name string) *Rules {
	if onlyMemory[name] == nil {
		onlyMemory[name] = rules(t, Options{Action: Allow, Actions: map[string]Action{name: Refuse}})
	}
	return onlyMemory[name]
}

// TestLinear shows that texts made of many beginnings take no longer than others.
func TestLinear(t *testing.T) {
	r := rules(t, Options{})
	const size = 1 << 20
	for _, piece := range []string{"eyJ-", ".eyJ", "eyJ.", "eyJaaaaaaaa.eyJaaaaaaaa ", "hvs.", "s.Aa", "://", "://a:", "://a:b", "Basic ", "Basic QUFB", "Bearer A-", "-----BEGIN ", "a:", "AKIA-", "SG.", "_", "a", "s."} {
		s := strings.Repeat(piece, size/len(piece))
		begin := time.Now()
		r.text(s)
		r.json("password", `["`+s+`"]`)
		r.value("a", "["+s)
		r.value("a", "["+strings.Repeat(`"`+piece+`" `, size/len(piece)/4))
		secretName(s)
		if took := time.Since(begin); took > 30*time.Second {
			t.Errorf("%q takes %v for 1 MiB", piece, took)
		}
	}
}

func TestDocs(t *testing.T) {
	const page, begin, end = "../../docs/publishing-rules.md", "<!-- begin detectors -->\n", "<!-- end detectors -->\n"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(text), begin)
	have, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no table between %q and %q", page, begin, end)
	}
	var b strings.Builder
	b.WriteString("| detector | finds | which looks like |\n|---|---|---|\n")
	for _, d := range Detectors {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", d.Name, d.Finds, d.Form)
	}
	fmt.Fprintf(&b, "\nNames of secrets have one of these words: %s. Names that end in one of these are not: %s.\n",
		strings.Join(SecretWords, ", "), strings.Join(HarmlessLast, ", "))
	if have == b.String() {
		return
	}
	if os.Getenv("UPDATE_DOCS") == "" {
		t.Fatalf("%s has another table than the code; run UPDATE_DOCS=1 go test ./internal/leak -run TestDocs", page)
	}
	if err := os.WriteFile(page, []byte(before+begin+b.String()+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

func FuzzCheck(f *testing.F) {
	for _, tt := range found {
		f.Add("k", tt.text, tt.text, false)
	}
	for _, text := range clean {
		f.Add("password", text, text, false)
	}
	f.Add("a", `{"password":["x",{"b":"c\u0020"}]}`, "", true)
	f.Add("a", `["`, "", true)
	mask, refuse := rules(f, Options{Action: Mask}), rules(f, Options{})
	f.Fuzz(func(t *testing.T, key, value, note string, json bool) {
		e := &event.Event{Type: "a/b", Note: note, EntityIDs: []string{note},
			Metadata: event.Fields{{Key: key, Value: value, JSON: json}}, Extensions: event.Fields{{Key: "x", Value: value}}}
		if mask.Check(e) != nil {
			return // a name
		}
		if err := refuse.Check(e); err != nil {
			t.Errorf("what is masked is found again: %v", err)
		}
	})
}

// example is an event with five short clean metadata values.
func example() *event.Event {
	e := event.NewNotification("kv-v2/data-write", "path", "secret/data/app/db", "data_path", "secret/data/app/db", "operation", "data-write",
		"modified", "true", "current_version", "3")
	e.Source = "vault://vault"
	return e
}

func TestCleanEventAllocatesNothing(t *testing.T) {
	r, e := rules(t, Options{Except: []string{"a/*"}}), example()
	e.Metadata.Set("token_type", "service")
	if n := testing.AllocsPerRun(100, func() {
		if err := r.Check(e); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkCheck(b *testing.B) {
	r, e := rules(b, Options{}), example()
	b.ReportAllocs()
	for b.Loop() {
		if err := r.Check(e); err != nil {
			b.Fatal(err)
		}
	}
}

func TestMasked(t *testing.T) {
	r, err := New(Options{Action: Mask, Actions: map[string]Action{"jwt": Allow}})
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"":                    "",
		"secret/data/app":     "secret/data/app",
		"password for hvs.ab": "password for hvs.ab",
		"wrong token hvs.CAESIJ0123456789abcdefghijkl": "<masked:vault-token>",
		"eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.":         "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.",
	} {
		if got := r.Masked(text); got != want {
			t.Errorf("%q: %q", text, got)
		}
	}
	for _, c := range r.Counts() {
		if c.Masked+c.Refused > 0 {
			t.Errorf("%+v was counted", c)
		}
	}
}
