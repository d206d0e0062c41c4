package auditlog

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// variants are the recorded entries of three devices that saw the same requests.
func variants(tb testing.TB) map[string][][]byte {
	out := make(map[string][][]byte)
	for _, line := range recordedLines(tb, "openbao-option-variants.jsonl") {
		var v struct {
			Device string
			Entry  json.RawMessage
		}
		if err := json.Unmarshal(line, &v); err != nil {
			tb.Fatal(err)
		}
		out[v.Device] = append(out[v.Device], v.Entry)
	}
	return out
}

func TestRawRecorded(t *testing.T) {
	for device, lines := range variants(t) {
		streamIsRaw := false
		for i, line := range lines {
			e := parse(t, string(line))
			raw, sure := e.Raw(streamIsRaw)
			if sure {
				streamIsRaw = raw
			}
			if want := strings.Contains(device, "raw"); raw != want {
				t.Errorf("device %s, entry %d: raw = %v", device, i, raw)
			}
		}
	}
}

func TestRaw(t *testing.T) {
	hash := "hmac-sha256:" + strings.Repeat("0a", 32)
	tests := []struct {
		name, line      string
		stream          bool
		wantRaw, wantOK bool
	}{
		{"hashed token", entry(`"auth":{"client_token":"` + hash + `"},"request":{"data":{"a":"plain"}}`), false, false, true},
		{"plain token", entry(`"auth":{"client_token":"hvs.x"}`), false, true, true},
		{"plain token of the request", entry(`"request":{"client_token":"s.x"}`), false, true, true},
		{"plain token of a login", entry(`"response":{"auth":{"client_token":"hvs.x"}}`), false, true, true},
		{"plain wrapping token", entry(`"auth":{"client_token":"` + hash + `"},"response":{"wrap_info":{"token":"hvs.x"}}`), false, true, true},
		{"almost a hash", entry(`"auth":{"client_token":"hmac-sha256:00"}`), false, true, true},
		{"no token, nothing", entry(`"request":{"path":"sys/audit/test"}`), false, false, false},
		{"no token, nothing, raw stream", entry(`"request":{"path":"sys/audit/test"}`), true, true, false},
		{"login", entry(`"request":{"data":{"password":"x"}}`), false, true, false},
		{"login, hashed", entry(`"request":{"data":{"password":"` + hash + `"}}`), false, false, false},
		{"login with a field that looks hashed, raw stream", entry(`"request":{"data":{"password":"x","a":"` + hash + `"}}`), true, true, false},
		{"login, hashed header", entry(`"request":{"data":{"password":"x"},"headers":{"a":["` + hash + `"]}}`), false, true, false},
		{"login, the name of a hash", entry(`"request":{"data":{"password":"x","a":"hmac-sha256:"}}`), false, true, false},
		{"data that is a list", entry(`"request":{"data":["x"]}`), false, true, false},
		{"only a time", entry(`"request":{"data":{"a":"2026-01-01T00:00:00Z","n":1}}`), false, false, false},
	}
	for _, tt := range tests {
		e := parse(t, tt.line)
		if raw, sure := e.Raw(tt.stream); raw != tt.wantRaw || sure != tt.wantOK {
			t.Errorf("%s: raw %v, sure %v", tt.name, raw, sure)
		}
	}
}

// TestRedactRecorded compares a redacted raw entry with what the device without
// log_raw wrote for the same request: the same texts must be hashed.
func TestRedactRecorded(t *testing.T) {
	all := variants(t)
	var raw, normal [][]byte
	for device, lines := range all {
		switch {
		case strings.Contains(device, "raw"):
			raw = lines
		case device == "default":
			normal = lines
		}
	}
	if len(raw) == 0 || len(raw) != len(normal) {
		t.Fatalf("%d raw and %d normal entries", len(raw), len(normal))
	}
	r := NewRedactor([]byte("salt"))
	for i := range raw {
		var got, want any
		redacted := r.Redact(nil, parse(t, string(raw[i])))
		if err := json.Unmarshal(redacted, &got); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(normal[i], &want); err != nil {
			t.Fatal(err)
		}
		for _, diff := range differences("", got, want) {
			t.Errorf("entry %d: %s", i, diff)
		}
	}
}

// differences lists where two JSON values differ, hashes being equal, and times.
func differences(at string, got, want any) (out []string) {
	switch want := want.(type) {
	case map[string]any:
		g, _ := got.(map[string]any)
		if len(g) != len(want) {
			return []string{fmt.Sprintf("%s: %d members, want %d", at, len(g), len(want))}
		}
		for k, v := range want {
			out = append(out, differences(at+"."+k, g[k], v)...)
		}
		return out
	case []any:
		g, _ := got.([]any)
		if len(g) != len(want) {
			return []string{fmt.Sprintf("%s: %d elements, want %d", at, len(g), len(want))}
		}
		for i := range want {
			out = append(out, differences(fmt.Sprintf("%s[%d]", at, i), g[i], want[i])...)
		}
		return out
	case string:
		g, _ := got.(string)
		if IsHashed(g) && (IsHashed(want) || at == ".error") || isTime(g) && isTime(want) {
			return nil
		}
	}
	if got != want && !strings.HasPrefix(at, ".request.headers") {
		return []string{fmt.Sprintf("%s: %v, want %v", at, got, want)}
	}
	return nil
}

// TestRedactHidesSecrets plants secrets wherever a device hashes, in random
// entries, and finds none of them afterwards.
func TestRedactHidesSecrets(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var planted []string
		secret := func() string {
			s := fmt.Sprintf("%016x", rnd.Uint64())
			planted = append(planted, s)
			return "S3CR\u00e9T\"<" + s + ">\\"
		}
		var tree func(depth int) any
		tree = func(depth int) any {
			switch n := rnd.IntN(6); {
			case n == 0 && depth < 5:
				return map[string]any{"a": tree(depth + 1), "b c": tree(depth + 1), "": secret()}
			case n == 1 && depth < 5:
				return []any{tree(depth + 1), secret(), 5, nil, true}
			}
			return secret()
		}
		line, err := json.Marshal(map[string]any{
			"time": "2026-01-01T00:00:00Z", "type": "response", "error": secret(), "novel": tree(0),
			"auth": map[string]any{"client_token": secret(), "accessor": secret(), "display_name": "who", "novel": tree(0)},
			"request": map[string]any{"id": "i", "path": "secret/data/a", "client_token": secret(), "client_token_accessor": secret(),
				"data": map[string]any{"x": tree(0), "y": tree(0)}, "headers": map[string]any{"x-api-key": []any{secret()}}, "novel": tree(0)},
			"response": map[string]any{"auth": map[string]any{"client_token": secret(), "accessor": secret()},
				"wrap_info":               map[string]any{"token": secret(), "accessor": secret(), "wrapped_accessor": secret(), "ttl": 60},
				"data":                    map[string]any{"http_raw_body": secret(), "error": secret(), "data": tree(0)},
				"headers":                 map[string]any{"y": []any{secret()}},
				"supplemental_audit_data": tree(0)},
		})
		if err != nil {
			t.Fatal(err)
		}
		e := parse(t, string(line))
		if raw, _ := e.Raw(false); !raw {
			t.Fatal("not recognised as raw")
		}
		redacted := string(NewRedactor([]byte("salt")).Redact(nil, e))
		for _, s := range planted {
			if strings.Contains(redacted, s) {
				t.Fatalf("seed %d: %q shows in %s", seed, s, redacted)
			}
		}
		again := parse(t, redacted)
		if again.Request.Path != "secret/data/a" || again.Auth.DisplayName != "who" {
			t.Fatalf("seed %d: more was redacted than needed: %s", seed, redacted)
		}
	}
}

func TestRedactKeeps(t *testing.T) {
	line := entry(`"error":"1 error occurred:\n\t* permission denied\n\n", "auth" : {"client_token":"hvs.a","policies":["p"]},"request":{"path":"a","headers":{"Traceparent":["00-1"]},"data":{"t":"2026-01-01T00:00:00Z","n":5}}`)
	want := strings.Replace(line, `"hvs.a"`, `"`+string(NewRedactor(nil).Hash(nil, []byte("hvs.a")))+`"`, 1)
	if got := string(NewRedactor(nil).Redact(nil, parse(t, line))); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
