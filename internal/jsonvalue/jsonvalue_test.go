package jsonvalue

import (
	"encoding/json"
	"fmt"
	"math/big"
	"testing"
)

func TestNumbers(t *testing.T) {
	for text, want := range map[string]string{
		"1": "int64 1", "-0": "int64 0", "1.0": "float64 1", "0.1": "float64 0.1", "1e3": "float64 1000", "12345678901234567890": "json.Number 12345678901234567890",
		"0.12345678901234567890": "json.Number 0.12345678901234567890", "1e400": "json.Number 1e400", "1e-400": "json.Number 1e-400",
		"1e99999999999": "json.Number 1e99999999999", "0e5": "float64 0", "100000000000000000000000.0": "float64 1e+23", "9007199254740993.0": "json.Number 9007199254740993.0",
	} {
		v, err := Decode([]byte(text))
		if got := fmt.Sprintf("%T %v", v, v); err != nil || got != want {
			t.Errorf("%s: %s, want %s, %v", text, got, want, err)
		}
		if b, err := json.Marshal(v); err != nil || !json.Valid(b) {
			t.Errorf("%s: %s, %v", text, b, err)
		}
	}
	for _, text := range []string{"", "1 2", "{", "nul", "[1,]"} {
		if v, err := Decode([]byte(text)); err == nil {
			t.Errorf("%s: %v", text, v)
		}
	}
}

// FuzzDecode: numbers are exact, and all JSON is read.
func FuzzDecode(f *testing.F) {
	for _, text := range []string{"1.5", "-0.0", "1e3", "9007199254740993.0", `{"a":[null,{"b":1}]}`, "0.1e-7", "123456789012345678901"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := Decode(b)
		if (err == nil) != json.Valid(b) {
			t.Fatalf("%q: %v", b, err)
		}
		var n json.Number
		if err != nil || json.Unmarshal(b, &n) != nil || len(n) > 200 || len(n) > 0 && b[0] == '"' {
			return
		}
		switch v := v.(type) {
		case int64:
			if want, ok := new(big.Int).SetString(string(n), 10); !ok || !want.IsInt64() || want.Int64() != v {
				t.Errorf("%s: %d", n, v)
			}
		case float64:
			again, err := Decode(fmt.Appendf(nil, "%v", v))
			if f, ok := again.(float64); err == nil && ok && f != v {
				t.Errorf("%s: %v, %v", n, v, f)
			}
		}
	})
}
