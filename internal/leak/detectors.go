package leak

import (
	"encoding/base64"
	"strings"
)

// Detector is a kind of secret.
type Detector struct {
	// Name is what it is called in the configuration, in errors and in what stands where
	// a secret was.
	Name string
	// Finds is what it finds, to be read behind "looks like".
	Finds string
	// Form is what that looks like, for the documentation.
	Form  string
	forms []form
}

// form is one of the looks of a secret: a start, which is at the beginning of a word where
// it begins with a letter or digit, and what has to follow it.
type form struct {
	start string
	rest  func(text string, at int) bool // at: behind the start
}

// NameDetector is the detector that goes by the names of fields; see [secretName].
const NameDetector = "secret-name"

// Detectors is the table of all that is found. docs/publishing-rules.md has it too.
var Detectors = []Detector{
	{"vault-token", "a token of Vault or OpenBao",
		"`hvs.`, `hvb.` or `hvr.` and 20 or more of `A-Za-z0-9_-`; `s.` or `r.` and 24 letters and digits; `b.` and 60 or more of `A-Za-z0-9_-`",
		[]form{
			{"hvs.", atLeast(20, base64URL)}, {"hvb.", atLeast(20, base64URL)}, {"hvr.", atLeast(20, base64URL)},
			{"s.", both(exactly(24, alphanumeric), mixedCase(24))}, {"r.", both(exactly(24, alphanumeric), mixedCase(24))},
			{"b.", both(atLeast(60, base64URL), mixedCase(60))},
		}},
	{"tocsin-token", "a token of Tocsin",
		"`tcs.` and 24 or more letters and digits",
		[]form{{"tcs.", atLeast(24, alphanumeric)}}},
	{"jwt", "a JSON Web Token",
		"`eyJ...`, `.`, `eyJ...`, `.`",
		[]form{{".eyJ", isJWT}}},
	{"private-key", "a private key",
		"`-----BEGIN ... PRIVATE KEY` (PEM, also of PGP and SSH, also in JSON), `AGE-SECRET-KEY-1`, `PuTTY-User-Key-File-`",
		[]form{{"-----BEGIN ", isPrivateKey}, {"AGE-SECRET-KEY-1", atLeast(20, alphanumeric)}, {"PuTTY-User-Key-File-", anything}}},
	{"aws-key", "an access key of AWS",
		"`AKIA`, `ASIA`, `ABIA` or `ACCA` and 16 capital letters and digits. Secret keys have no form; they are found by their names",
		[]form{{"AKIA", exactly(16, upperDigits)}, {"ASIA", exactly(16, upperDigits)}, {"ABIA", exactly(16, upperDigits)}, {"ACCA", exactly(16, upperDigits)}}},
	{"google-key", "a key of Google Cloud",
		"`AIza` and 35 of `A-Za-z0-9_-`, `ya29.`, `GOCSPX-`. Keys of service accounts are found as private keys",
		[]form{{"AIza", atLeast(35, base64URL)}, {"ya29.", atLeast(20, base64URL)}, {"GOCSPX-", atLeast(20, base64URL)}}},
	{"azure-key", "a key of Azure",
		"`AccountKey=` or `SharedAccessKey=` and 40 or more of base64",
		[]form{{"AccountKey=", atLeast(40, base64Std)}, {"SharedAccessKey=", atLeast(40, base64Std)}}},
	{"github-token", "a token of GitHub",
		"`ghp_`, `gho_`, `ghu_`, `ghs_` or `ghr_` and 36 letters and digits; `github_pat_` and 40 or more",
		[]form{
			{"ghp_", atLeast(36, alphanumeric)}, {"gho_", atLeast(36, alphanumeric)}, {"ghu_", atLeast(36, alphanumeric)},
			{"ghs_", atLeast(36, alphanumeric)}, {"ghr_", atLeast(36, alphanumeric)}, {"github_pat_", atLeast(40, base64URL)},
		}},
	{"gitlab-token", "a token of GitLab",
		"`glpat-`, `gldt-`, `glrt-`, `glcbt-`, `glptt-`, `glft-`, `glimt-`, `glagent-`, `glsoat-` or `gloas-` and 20 or more of `A-Za-z0-9_-`",
		[]form{
			{"glpat-", atLeast(20, base64URL)}, {"gldt-", atLeast(20, base64URL)}, {"glrt-", atLeast(20, base64URL)},
			{"glcbt-", atLeast(20, base64URL)}, {"glptt-", atLeast(20, base64URL)}, {"glft-", atLeast(20, base64URL)},
			{"glimt-", atLeast(20, base64URL)}, {"glagent-", atLeast(20, base64URL)}, {"glsoat-", atLeast(20, base64URL)},
			{"gloas-", atLeast(20, base64URL)},
		}},
	{"slack-token", "a token of Slack",
		"`xoxb-`, `xoxp-` and the like, `xapp-`; `hooks.slack.com/services/`",
		[]form{
			{"xoxa-", atLeast(10, base64URL)}, {"xoxb-", atLeast(10, base64URL)}, {"xoxc-", atLeast(10, base64URL)},
			{"xoxd-", atLeast(10, base64URL)}, {"xoxe-", atLeast(10, base64URL)}, {"xoxe.", atLeast(10, base64URL)},
			{"xoxo-", atLeast(10, base64URL)}, {"xoxp-", atLeast(10, base64URL)}, {"xoxr-", atLeast(10, base64URL)},
			{"xoxs-", atLeast(10, base64URL)}, {"xapp-", atLeast(10, base64URL)}, {"hooks.slack.com/services/", atLeast(8, alphanumeric)},
		}},
	{"stripe-key", "a key of Stripe",
		"`sk_live_`, `sk_test_`, `rk_live_`, `rk_test_` or `whsec_` and 16 or more letters and digits",
		[]form{
			{"sk_live_", atLeast(16, alphanumeric)}, {"sk_test_", atLeast(16, alphanumeric)},
			{"rk_live_", atLeast(16, alphanumeric)}, {"rk_test_", atLeast(16, alphanumeric)}, {"whsec_", atLeast(16, alphanumeric)},
		}},
	{"registry-token", "a token of a package registry",
		"`npm_` and 36 letters and digits, `pypi-AgE`, `dckr_pat_`",
		[]form{{"npm_", atLeast(36, alphanumeric)}, {"pypi-AgE", atLeast(30, base64URL)}, {"dckr_pat_", atLeast(20, base64URL)}}},
	{"service-token", "a token of a cloud service",
		"of DigitalOcean (`dop_v1_`, `doo_v1_`), SendGrid (`SG.`), Anthropic (`sk-ant-`), OpenAI (`sk-proj-`), Hugging Face (`hf_`), Shopify (`shpat_`), Databricks (`dapi`), Terraform Cloud (`.atlasv1.`)",
		[]form{
			{"dop_v1_", atLeast(64, alphanumeric)}, {"doo_v1_", atLeast(64, alphanumeric)}, {"SG.", isSendGrid},
			{"sk-ant-", atLeast(24, base64URL)}, {"sk-proj-", atLeast(24, base64URL)}, {"hf_", both(atLeast(34, alphanumeric), mixedCase(34))},
			{"shpat_", atLeast(32, alphanumeric)}, {"dapi", exactly(32, lowerHex)}, {".atlasv1.", atLeast(60, base64URL)},
		}},
	{"authorization", "the value of an Authorization header",
		"`Bearer` and 20 or more of base64 that have a digit or both cases; `Basic` and base64 of `user:password`",
		[]form{
			{"Bearer ", isBearer}, {"bearer ", isBearer}, {"BEARER ", isBearer},
			{"Basic ", isBasic}, {"basic ", isBasic}, {"BASIC ", isBasic},
		}},
	{"url-password", "a URL with a password",
		"`://user:password@host`",
		[]form{{"://", hasPassword}}},
	{NameDetector, "a secret by its name",
		"a field whose name says so; see below", nil},
}

// shortest is the least length of a text with one of the forms.
const shortest = len("://:0@")

// charset is a set of bytes.
type charset [256]bool

func set(bytes string) *charset {
	var s charset
	for _, c := range []byte(bytes) {
		s[c] = true
	}
	return &s
}

const (
	lower  = "abcdefghijklmnopqrstuvwxyz"
	upper  = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits = "0123456789"
)

var (
	alphanumeric = set(lower + upper + digits)
	upperDigits  = set(upper + digits)
	lowerHex     = set("abcdef" + digits)
	base64URL    = set(lower + upper + digits + "_-")
	base64Std    = set(lower + upper + digits + "+/")
	space        = set(" ")
	// token68 is that of RFC 9110 section 11.2, without the padding.
	token68 = set(lower + upper + digits + "-._~+/")
)

// run returns how many bytes of a set follow, at most that many.
func run(text string, at, most int, s *charset) int {
	n := 0
	for n < most && at+n < len(text) && s[text[at+n]] {
		n++
	}
	return n
}

// What follows a start. None of these looks further than it has to: a text that has many
// starts and no secret takes a time that is linear in its length.

func anything(string, int) bool { return true }

func atLeast(n int, s *charset) func(string, int) bool {
	return func(text string, at int) bool { return run(text, at, n, s) == n }
}

func exactly(n int, s *charset) func(string, int) bool {
	return func(text string, at int) bool { return run(text, at, n+1, s) == n }
}

// mixedCase wants lower and upper case among the next n bytes: names of hosts and fields
// hardly have both, and random texts of this length hardly ever have not.
func mixedCase(n int) func(string, int) bool {
	return func(text string, at int) bool {
		next := text[at:min(len(text), at+n)]
		return strings.ContainsAny(next, lower) && strings.ContainsAny(next, upper)
	}
}

func both(a, b func(string, int) bool) func(string, int) bool {
	return func(text string, at int) bool { return a(text, at) && b(text, at) }
}

// isJWT is behind ".eyJ", which begins the claims of a token: before it is the header,
// which begins in the same way, and behind it another part.
func isJWT(text string, at int) bool {
	const least = 8
	dot := at - len(".eyJ")
	begin := dot
	for begin > 0 && base64URL[text[begin-1]] {
		begin--
	}
	if header := strings.Index(text[begin:dot], "eyJ"); header < 0 || dot-begin-header < least {
		return false
	}
	end := at + run(text, at, len(text), base64URL)
	return end-at >= least-len("eyJ") && end < len(text) && text[end] == '.'
}

func isPrivateKey(text string, at int) bool {
	const longestKind = 20 // "ENCRYPTED ", "OPENSSH ", "PGP ", ...
	return strings.Contains(text[at:min(len(text), at+longestKind+len("PRIVATE KEY"))], "PRIVATE KEY")
}

// isSendGrid is behind "SG.": two parts of a fixed length.
func isSendGrid(text string, at int) bool {
	const first, second = 22, 43
	return run(text, at, first+1, base64URL) == first && at+first < len(text) && text[at+first] == '.' &&
		run(text, at+first+1, second, base64URL) == second
}

// isBearer wants more than a long word of a sentence.
func isBearer(text string, at int) bool {
	const least = 20
	at += run(text, at, 8, space)
	return run(text, at, least, token68) == least &&
		(strings.ContainsAny(text[at:at+least], digits) || mixedCase(least)(text, at))
}

func isBasic(text string, at int) bool {
	const most = 512
	at += run(text, at, 8, space)
	n := run(text, at, most, base64Std) &^ 3 // the last bytes do not matter
	decoded, err := base64.StdEncoding.DecodeString(text[at : at+n])
	if err != nil {
		return false
	}
	user, _, ok := strings.Cut(string(decoded), ":")
	return ok && !strings.ContainsFunc(user, func(r rune) bool { return r < ' ' || r == '\uFFFD' })
}

// hasPassword is behind "://": the authority of a URL, RFC 3986 section 3.2.
func hasPassword(text string, at int) bool {
	end := at
	for end < len(text) && text[end] > ' ' && !strings.ContainsRune(`/?#"'<>\`, rune(text[end])) {
		end++
	}
	host := strings.LastIndexByte(text[at:end], '@')
	if host < 0 {
		return false
	}
	_, password, ok := strings.Cut(text[at:at+host], ":")
	return ok && password != "" && !placeholder(password)
}
