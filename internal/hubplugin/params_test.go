package hubplugin

import (
	"strings"
	"testing"
)

func TestParamsAreChecked(t *testing.T) {
	t.Parallel()
	base := Config{Address: "http://127.0.0.1:8280"}
	for params, want := range map[string]string{
		`{"since":"1h"}`:                                    "",
		` {"since":"1h"} `:                                  "",
		`{"since":"1h"}}`:                                   "behind the JSON object",
		`{"since":"1h"}]`:                                   "behind the JSON object",
		`{"since":"1h"} {}`:                                 "behind the JSON object",
		`{"since":"1h"`:                                     "ends too early",
		`{"max_event_bytes":1024}`:                          "",
		`{"max_event_bytes":1023}`:                          "must be from 1024 to 268435456",
		`{"max_event_bytes":-1}`:                            "must be from 1024 to 268435456",
		`{"max_event_bytes":1000000000000}`:                 "must be from 1024 to 268435456",
		`{"token":"s3cret","token_file":"/nowhere/s3cret"}`: "cannot both be given",
		`{"token":s3cret}`:                                  "not JSON",
		`{"token":["s3cret"]}`:                              "must be a string",
		`http://127.0.0.1:1?token=s3cret`:                   "does not belong into a URL",
		`s3cret`:                                            "write JSON such as",
	} {
		c, _, err := parseParams(params, base)
		if err == nil {
			_, err = c.subscription()
		}
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", params, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v instead of %q", params, err, want)
		case err != nil && strings.Contains(err.Error(), "s3cret"):
			t.Errorf("%s: the secret is in the error: %v", params, err)
		}
	}
}
