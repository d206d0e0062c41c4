package config

import (
	"strings"
	"testing"
)

func TestSinkFileAndNATSProblems(t *testing.T) {
	file := func(fields string) string { return "sinks: [{name: a, type: file, file: {" + fields + "}}]\n" }
	nats := func(fields string) string { return "sinks: [{name: a, type: nats, nats: {" + fields + "}}]\n" }
	const server = "urls: ['nats://127.0.0.1:4222'], "
	const far = "urls: ['nats://nats.example.com'], "
	for text, want := range map[string]string{
		file(""):                                                  `sinks[0].file.path: is missing`,
		file("path: /a/"):                                         `"/a/" is a directory; name a file in it`,
		file(`path: "/a\tb"`):                                     `has characters that are not printable`,
		file("path: /a, mode: '0850'"):                            `file.mode: "0850" must be permissions in octal`,
		file("path: /a, mode: '0440'"):                            `with that to write for the owner`,
		file("path: /a, mode: '1640'"):                            `must be permissions`,
		file("path: /a, sync: sometimes"):                         `is not one of progress, always, never`,
		file("path: /a, format: pretty"):                          `is not one of cloudevents, vault, raw, flipt`,
		file("path: /a, rotate_bytes: 1"):                         `file.rotate_bytes:`,
		file("path: /a, keep: 3"):                                 `file.keep: is for files that the hub moves away; set rotate_bytes or rotate_age`,
		file("path: /a, keep_age: 3d"):                            `file.keep_age: is for files`,
		file("path: /a, gzip: true"):                              `file.gzip: is for files`,
		file("path: /a, gzip: true, rotate_age: 1d"):              "",
		file("path: a/b, keep: 3, rotate_bytes: 1MiB"):            "",
		file("path: /a, mode: 0640"):                              "",
		file("path: /a, mode: '0600'"):                            "",
		file("path: /a, mode: 0o644"):                             "",
		file("path: /a, mode: 0888"):                              `file.mode: must be text, but is "0888"; put it into quotes`,
		file("path: /a, mode: 0440"):                              `file.mode: "0440" must be permissions in octal`,
		file("path: /a, mode: true"):                              `file.mode: must be text`,
		nats(""):                                                  `nats.urls: must name at least one server`,
		nats("urls: ['http://a']"):                                `nats.urls[0]: is no url of a server`,
		nats("urls: ['nats://']"):                                 `is no url of a server`,
		nats("urls: ['nats://user:hunter2@a']"):                   `has a user in it; put it into username and password`,
		nats("urls: ['nats://a/b']"):                              `has a path, query or fragment after a`,
		nats("urls: [" + strings.Repeat("'nats://a',", 17) + "]"): `has 17 elements`,
		nats(server + "subject: 'a.*'"):                           `nats.subject: has the character '*'`,
		nats(server + "subject: ''"):                              `nats.subject: is empty`,
		nats(server + "subject: '{kind}'"):                        `which is none of {type}`,
		nats(server + "username: a"):                              `needs both username and password`,
		nats(server + "password: {env: A}"):                       `needs both username and password`,
		nats(server + "token: {env: A}, credentials: {file: /a}"): `more than one way to log in: token and credentials`,
		nats(server + "tls: {cert: {file: /a}}"):                  `needs both cert and key`,
		nats(far + "token: {env: A}"):                             `nats.urls[0]: begins with nats://, so the password or token could be readable`,
		nats(far + "token: {env: A}, insecure_allow_plain: true"): "",
		nats(far + "token: {env: A}, tls: {ca: {file: /a}}"):      "",
		nats(far + "credentials: {file: /a}"):                     "",
		nats(server + "username: a, password: {env: A}"):          "",
		nats("urls: ['tls://nats.example.com'], token: {env: A}, subject: 'a.{source}.{type}'"): "",
	} {
		_, err := Parse("t.yaml", []byte(text))
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", text, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: got %v, want %s", text, err, want)
		case err != nil && strings.Contains(err.Error(), "hunter2"):
			t.Errorf("%s: a secret is shown: %v", text, err)
		}
	}
}
