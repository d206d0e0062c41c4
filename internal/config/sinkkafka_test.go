package config

import (
	"strings"
	"testing"
)

func TestKafkaProblems(t *testing.T) {
	const key = "sinks[0].kafka"
	sink := func(fields string) string {
		return "sinks: [{name: a, type: kafka, kafka: {" + fields + "}}]\n"
	}
	good := func(fields string) string { return sink("brokers: [kafka.example.com:9092], topic: audit, " + fields) }
	const password = "username: alice, password: {env: P}"
	for name, test := range map[string]struct{ text, want string }{
		"least":              {sink("brokers: [kafka], topic: audit"), ""},
		"placeholders":       {sink("brokers: ['[::1]:9092', 10.0.0.1], topic: 'x-{type}_{source}.y'"), ""},
		"scram":              {good("sasl: {mechanism: scram-sha-512, " + password + "}"), ""},
		"plain over TLS":     {good("use_tls: true, sasl: {mechanism: plain, " + password + "}"), ""},
		"plain with a CA":    {good("tls: {ca: {file: /ca}}, sasl: {mechanism: plain, " + password + "}"), ""},
		"plain at home":      {sink("brokers: ['localhost:1', '127.0.0.1'], topic: a, sasl: {mechanism: plain, " + password + "}"), ""},
		"plain if one must":  {good("insecure_allow_plain: true, sasl: {mechanism: plain, " + password + "}"), ""},
		"registry":           {good("encoding: avro, schema_registry: {url: 'https://r:8081/api', " + password + ", register: false}"), ""},
		"no brokers":         {sink("topic: a"), key + ".brokers: must name at least one broker, as [kafka.example.com:9092]"},
		"URL as broker":      {sink("brokers: ['kafka://a:1'], topic: a"), key + `.brokers: "kafka://a:1" is no address of a broker`},
		"port":               {sink("brokers: ['a:0'], topic: a"), `"a:0" is no address`},
		"large port":         {sink("brokers: ['a:65536'], topic: a"), `"a:65536" is no address`},
		"many brokers":       {sink("brokers: [" + strings.Repeat("a,", 65) + "], topic: a"), "has 65 elements"},
		"no topic":           {sink("brokers: [a]"), key + ".topic: must name a topic"},
		"topic":              {sink("brokers: [a], topic: a/b"), key + `.topic: "a/b" is no topic`},
		"topic of dots":      {sink("brokers: [a], topic: '..'"), `".." is no topic`},
		"placeholder":        {sink("brokers: [a], topic: '{path}'"), `"{path}" is no topic`},
		"long topic":         {sink("brokers: [a], topic: " + strings.Repeat("a", 250)), "is no topic"},
		"encoding":           {good("encoding: avor"), `did you mean "avro"?`},
		"size":               {good("max_message_bytes: 100B"), key + ".max_message_bytes"},
		"login without":      {good("sasl: {" + password + "}"), key + ".sasl.mechanism: is none, but there is a username"},
		"half a login":       {good("sasl: {mechanism: plain, username: alice}"), key + ".sasl: needs both username and password"},
		"plain in the open":  {good("sasl: {mechanism: plain, " + password + "}"), "plain sends the password readable for everybody on the way to kafka.example.com:9092"},
		"half a certificate": {good("tls: {cert: {file: /c}}"), key + ".tls: needs both cert and key"},
		"registry for JSON":  {good("schema_registry: {url: 'http://r'}"), key + ".schema_registry: is for the encodings avro"},
		"no URL":             {good("encoding: avro, schema_registry: {subject: x}"), key + ".schema_registry.url: is missing"},
		"a user in the URL":  {good("encoding: avro, schema_registry: {url: 'http://u:hunter2@r'}"), key + ".schema_registry.url: has a user in it"},
		"a query":            {good("encoding: avro, schema_registry: {url: 'http://r?x'}"), "has a query"},
		"no http":            {good("encoding: avro, schema_registry: {url: 'ftp://r'}"), "is no URL of a schema registry"},
		"password by http":   {good("encoding: avro, schema_registry: {url: 'http://r', " + password + "}"), "the password would be readable"},
		"half of the login":  {good("encoding: avro, schema_registry: {url: 'https://r', username: a}"), key + ".schema_registry: needs both username and password"},
		"password by value":  {good("sasl: {mechanism: plain, username: alice, password: {value: hunter2}}"), "secrets are not written into the configuration"},
	} {
		_, err := Parse("t.yaml", []byte(test.text))
		switch {
		case test.want == "":
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		case err == nil:
			t.Errorf("%s: accepted", name)
		case !strings.Contains(err.Error(), test.want):
			t.Errorf("%s: got\n%s\nwant\n%s", name, err, test.want)
		case strings.Contains(err.Error(), "hunter2"):
			t.Errorf("%s: a secret is in the message: %v", name, err)
		}
	}
}
