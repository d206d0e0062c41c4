package standardwebhooks

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Vectors: what other implementations of the specification make of these.
const (
	vectorID      = "msg_p5jXN8AQM9LWM0D4loKWxJek"
	vectorBody    = `{"test": 2432232314}`
	vectorSecret  = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	vectorHMAC    = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
	vectorPrivate = "whsk_VEVTVFNJR05JTkdLRVlET05PVFVTRVRISVNGT1JBTlk="
	vectorEd25519 = "v1a,tQ9V2XOqn7jL/DQenEFpqIugdBVtiMmER5mhSkXBNwM0mkATuDe6KYYUuxqtaiHeYGb7KaaBRdM5WqyeFiL8Ag=="
)

var vectorTime = time.Unix(1614265330, 0)

func parse(t testing.TB, text string) Key {
	t.Helper()
	k, err := ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestVectors(t *testing.T) {
	secret, private := parse(t, vectorSecret), parse(t, vectorPrivate)
	for _, tt := range []struct {
		keys []Key
		want string
	}{
		{nil, ""},
		{[]Key{secret}, vectorHMAC},
		{[]Key{private}, vectorEd25519},
		{[]Key{secret, private}, vectorHMAC + " " + vectorEd25519},
		{[]Key{private, {}, parse(t, private.Public()), secret}, vectorEd25519 + " " + vectorHMAC},
	} {
		for range 2 { // with memory that was used
			if got := AppendSignatures([]byte("x"), tt.keys, vectorID, vectorTime, []byte(vectorBody)); string(got) != "x"+tt.want {
				t.Errorf("%v: %s, want %s", tt.keys, got, tt.want)
			}
		}
	}
}

func request(id string, seconds any, signatures string) http.Header {
	return http.Header{HeaderID: {id}, HeaderTimestamp: {fmt.Sprint(seconds)}, HeaderSignature: {signatures}}
}

func TestVerify(t *testing.T) {
	secret, private := parse(t, vectorSecret), parse(t, vectorPrivate)
	public := parse(t, private.Public())
	other := parse(t, NewSecret())
	at := vectorTime.Unix()
	good := request(vectorID, at, vectorHMAC)
	tests := []struct {
		name      string
		keys      []Key
		header    http.Header
		body      string
		off       time.Duration
		tolerance time.Duration
		want      error
	}{
		{"hmac", []Key{secret}, good, vectorBody, 0, 0, nil},
		{"ed25519", []Key{public}, request(vectorID, at, vectorEd25519), vectorBody, 0, 0, nil},
		{"private key", []Key{private}, request(vectorID, at, vectorEd25519), vectorBody, 0, 0, nil},
		{"second key", []Key{other, secret}, good, vectorBody, 0, 0, nil},
		{"second signature", []Key{secret}, request(vectorID, at, "v1,AAAA v9,x "+vectorHMAC), vectorBody, 0, 0, nil},
		{"nearly too old", []Key{secret}, good, vectorBody, Tolerance, 0, nil},
		{"nearly too new", []Key{secret}, good, vectorBody, -Tolerance, 0, nil},
		{"any time", []Key{secret}, good, vectorBody, 1e6 * time.Hour, -1, nil},

		{"too old", []Key{secret}, good, vectorBody, Tolerance + time.Second, 0, ErrTimestamp},
		{"too new", []Key{secret}, good, vectorBody, -Tolerance - time.Second, 0, ErrTimestamp},
		{"own tolerance", []Key{secret}, good, vectorBody, 2 * time.Second, time.Second, ErrTimestamp},
		{"body", []Key{secret}, good, vectorBody + " ", 0, 0, ErrSignature},
		{"id", []Key{secret}, request("msg_other", at, vectorHMAC), vectorBody, 0, 0, ErrSignature},
		{"time", []Key{secret}, request(vectorID, at+1, vectorHMAC), vectorBody, 0, 0, ErrSignature},
		{"other key", []Key{other}, good, vectorBody, 0, 0, ErrSignature},
		{"no key", nil, good, vectorBody, 0, 0, ErrSignature},
		{"zero key", []Key{{}}, good, vectorBody, 0, 0, ErrSignature},
		{"version", []Key{secret}, request(vectorID, at, "v2"+vectorHMAC[2:]), vectorBody, 0, 0, ErrSignature},
		{"hmac as ed25519", []Key{secret, public}, request(vectorID, at, "v1a"+vectorHMAC[2:]), vectorBody, 0, 0, ErrSignature},
		{"public key is no secret", []Key{public}, request(vectorID, at, vectorHMAC), vectorBody, 0, 0, ErrSignature},
		{"too many", []Key{secret}, request(vectorID, at, strings.Repeat("v1,AAAA ", maxSignatures)+vectorHMAC), vectorBody, 0, 0, ErrSignature},
		{"partial", []Key{secret}, request(vectorID, at, "v1,"), vectorBody, 0, 0, ErrSignature},
		{"no signature", []Key{secret}, request(vectorID, at, ""), vectorBody, 0, 0, ErrHeaders},
		{"long", []Key{secret}, request(vectorID, at, strings.Repeat("x", maxHeader)+" "+vectorHMAC), vectorBody, 0, 0, ErrHeaders},
		{"no id", []Key{secret}, request("", at, vectorHMAC), vectorBody, 0, 0, ErrHeaders},
		{"a full stop in the id", []Key{secret}, request("a.b", at, vectorHMAC), vectorBody, 0, 0, ErrHeaders},
		{"no time", []Key{secret}, request(vectorID, "", vectorHMAC), vectorBody, 0, 0, ErrHeaders},
		{"negative time", []Key{secret}, request(vectorID, -1, vectorHMAC), vectorBody, 0, -1, ErrHeaders},
		{"time that overflows", []Key{secret}, request(vectorID, "9223372036854775807", vectorHMAC), vectorBody, 0, 0, ErrHeaders},
		{"time with fraction", []Key{secret}, request(vectorID, "1614265330.5", vectorHMAC), vectorBody, 0, 0, ErrHeaders},
		{"nothing", []Key{secret}, nil, vectorBody, 0, 0, ErrHeaders},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := Verify(tt.keys, tt.header, []byte(tt.body), vectorTime.Add(tt.off), tt.tolerance); !errors.Is(err, tt.want) || err != nil && tt.want == nil {
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}
}

func TestNewKeys(t *testing.T) {
	now := time.Now()
	private, public := NewKeyPair()
	for _, pair := range [][2]string{{private, public}, {NewSecret(), ""}} {
		k := parse(t, pair[0])
		if !k.CanSign() || k.Public() != pair[1] {
			t.Errorf("%v: signs %v, public key %s, want %s", k, k.CanSign(), k.Public(), pair[1])
		}
		verifier := k
		if pair[1] != "" {
			if verifier = parse(t, pair[1]); verifier.CanSign() {
				t.Error("a public key signs")
			}
		}
		h := request("1", now.Unix(), string(AppendSignatures(nil, []Key{k}, "1", now, []byte("body"))))
		if err := Verify([]Key{verifier}, h, []byte("body"), now, 0); err != nil {
			t.Error(err)
		}
	}
	if first, second := NewSecret(), NewSecret(); first == second {
		t.Error("secrets are not random")
	}
}

func TestKeyWithBothHalves(t *testing.T) {
	short := parse(t, vectorPrivate)
	long := parse(t, prefixPrivate+base64.StdEncoding.EncodeToString(short.key.private))
	if long.Public() != short.Public() {
		t.Error("the forms of one key differ")
	}
	wrong := append([]byte(nil), short.key.private...)
	wrong[63] ^= 1
	if _, err := ParseKey(prefixPrivate + base64.StdEncoding.EncodeToString(wrong)); err == nil {
		t.Error("halves that do not fit are a key")
	}
}

func TestBadKeys(t *testing.T) {
	encoded := func(n int) string { return base64.StdEncoding.EncodeToString([]byte(strings.Repeat("\xa7", n))) }
	for _, text := range []string{
		"", "whsec_", "whsec", "WHSEC_" + encoded(32), "whxx_" + encoded(32), encoded(32), " whsec_" + encoded(32),
		"whsec_" + encoded(23), "whsec_" + encoded(65), "whsec_!!!!" + encoded(32), "whsec_" + encoded(32) + "\n", "whsec_\n" + encoded(32),
		"whsec_" + strings.TrimRight(encoded(32), "="), "whsec_" + encoded(1000),
		"whsk_" + encoded(31), "whsk_" + encoded(33), "whsk_" + encoded(64), "whpk_" + encoded(31), "whpk_" + encoded(64),
	} {
		k, err := ParseKey(text)
		if err == nil {
			t.Errorf("%.40q is a key: %v", text, k)
		} else if strings.Contains(err.Error(), "p6en") { // the base64 of 0xa7
			t.Errorf("%q repeats the key", err)
		}
	}
}

func TestKeysAreNotShown(t *testing.T) {
	var log strings.Builder
	for _, text := range []string{vectorSecret, vectorPrivate} {
		k := parse(t, text)
		holder := struct {
			K  Key
			KS []Key
		}{k, []Key{k}}
		marshalled, _ := json.Marshal(holder)
		slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", k, "keys", holder)
		log.WriteString(fmt.Sprintf("%v %+v %#v %s %q %x %d", holder, holder, holder, k, k, k, k) + string(marshalled))
		for _, form := range []string{text[6:20], fmt.Sprintf("%x", k.key.secret), fmt.Sprint(k.key.secret), fmt.Sprint([]byte(k.key.private))} {
			if len(form) > 4 && strings.Contains(log.String(), form) {
				t.Errorf("%q is in %s", form, log.String())
			}
		}
	}
}

func TestCheckID(t *testing.T) {
	for id, good := range map[string]bool{
		"msg_1-2": true, "0196b1a4-7f3a-7000-8000-000000000000": true, strings.Repeat("x", maxID): true,
		"": false, "a.b": false, "a b": false, "a\nb": false, "ä": false, strings.Repeat("x", maxID+1): false,
	} {
		if err := CheckID(id); (err == nil) != good {
			t.Errorf("%.40q: %v", id, err)
		}
	}
}

func FuzzParseKey(f *testing.F) {
	for _, seed := range []string{vectorSecret, vectorPrivate, "whpk_AAAA", "whsec_", "x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		k, err := ParseKey(text)
		if err != nil {
			if len(text) > 12 && strings.Contains(err.Error(), text[6:]) {
				t.Fatalf("%q repeats the key", err)
			}
			return
		}
		if !k.CanSign() {
			if k.Public() != text {
				t.Fatalf("%q became %q", text, k.Public())
			}
			return
		}
		h := request("1", 1, string(AppendSignatures(nil, []Key{k}, "1", time.Unix(1, 0), nil)))
		if err := Verify([]Key{k}, h, nil, time.Unix(1, 0), 0); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzVerify(f *testing.F) {
	f.Add(vectorID, "1614265330", vectorHMAC, vectorBody)
	f.Add(vectorID, "1614265330", vectorEd25519+" "+vectorHMAC, vectorBody)
	f.Add("a.b", "-1", "v1,  ,v1a,", "")
	keys := []Key{parse(f, vectorSecret), parse(f, vectorPrivate)}
	f.Fuzz(func(t *testing.T, id, at, signatures, body string) {
		h := http.Header{HeaderID: {id}, HeaderTimestamp: {at}, HeaderSignature: {signatures}}
		if Verify(keys, h, []byte(body), vectorTime, -1) != nil {
			return
		}
		// Whatever was accepted, one of the signatures is what we would have made.
		seconds, err := strconv.ParseInt(at, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range keys {
			if strings.Contains(signatures, string(AppendSignatures(nil, []Key{k}, id, time.Unix(seconds, 0), []byte(body)))) {
				return
			}
		}
		t.Fatalf("%q was accepted", signatures)
	})
}

func BenchmarkSign(b *testing.B) {
	body := []byte(strings.Repeat("x", 700))
	private, _ := NewKeyPair()
	for name, text := range map[string]string{"hmac": NewSecret(), "ed25519": private} {
		keys, dst := []Key{parse(b, text)}, make([]byte, 0, 200)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				dst = AppendSignatures(dst[:0], keys, vectorID, vectorTime, body)
			}
		})
	}
}
