package config

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// A definition of nothing but mistakes is answered soon.
func TestParseSinkOfMistakes(t *testing.T) {
	var keys, deep, headers strings.Builder
	for i := range 25_000 {
		fmt.Fprintf(&keys, "k%x: 1\n", i)
	}
	deep.WriteString("events: " + strings.Repeat("[", 9000) + strings.Repeat("]", 9000))
	headers.WriteString("type: webhook\nwebhook:\n  url: https://a.example\n  headers: [")
	for range 35_000 {
		headers.WriteString("{a: },")
	}
	headers.WriteString("]\n")
	var many strings.Builder
	many.WriteString("type: kafka\nkafka:\n  topic: a\n  brokers: [" + strings.Repeat("'/',", 60_000) + "]\n")
	var list strings.Builder
	list.WriteString("type: webhook\nwebhook:\n  url: https://a.example\n  signing_keys: [" + strings.Repeat("{},", 80_000) + "]\n")
	for name, text := range map[string]string{"unknown keys": keys.String(), "deep": deep.String(), "headers": headers.String(), "brokers": many.String(), "keys": list.String(),
		"pairs": "type: webhook\nwebhook: {url: 'https://a.example'}\nevents: {pairs: [" + strings.Repeat("'*a*:b*',", 25_000) + "]}\n", "aliases": "events: &a {types: [x]}\nbatch: *a\n",
		"types":  "type: webhook\nwebhook: {url: 'https://a.example'}\nevents: {types: [" + strings.Repeat("'*a*b*c*d*',", 20_000) + "]}\n",
		"filter": "type: webhook\nwebhook: {url: 'https://a.example'}\nevents: {filter: '" + strings.Repeat("(", 100_000) + "'}\n"} {
		begun := time.Now()
		_, err := ParseSink("a", []byte(text))
		took := time.Since(begun)
		t.Logf("%s: %v, %.100v", name, took, err)
		if took > 3*time.Second {
			t.Errorf("%s: took %v", name, took)
		}
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
