package config

import (
	"strings"
	"testing"
	"time"
)

func fullPlugins() Plugins {
	return Plugins{
		StorageKey: SecretFromFile("/etc/tocsin/plugin-key"), Directory: "/usr/lib/tocsin/plugins",
		StartTimeout: Duration(10 * time.Second), RequestTimeout: Duration(30 * time.Second),
		Sources: fullPluginSources(),
		Mounts: []Mount{
			{
				Path: "secret", Type: MountSecret, Namespace: "ns1", Name: "kv", Command: "/usr/lib/tocsin/plugins/vault-plugin-secrets-kv", Args: []string{"-v"},
				Env: Texts{"A": "b"}, PassEnv: []string{"TOKEN"}, SHA256: strings.Repeat("0a", 32), Version: "v0.25.0", Description: "for tests",
				Options: Texts{"version": "2"}, DefaultLeaseTTL: Duration(time.Hour), MaxLeaseTTL: Duration(24 * time.Hour),
			},
			{Path: "legacy", Type: MountSecret, Name: "kv"},
			{Path: "users", Type: MountAuth, Command: "/x/vault-plugin-auth-users", ReloadOnChange: true, LoginPolicies: []string{"team-*"}},
		},
	}
}

func TestPluginProblems(t *testing.T) {
	const head = "plugins:\n  storage_key: {file: k}\n  mounts:\n"
	for _, tc := range []struct{ name, text, want string }{
		{"no key", "plugins: {mounts: [{path: a, command: /b}]}\n", `t.yaml:1:10: plugins: has mounts but neither storage_key nor storage_key_command; make a key with "openssl rand -base64 32 > FILE" and add "storage_key: {file: FILE}"`},
		{"two keys", "plugins: {storage_key: {env: K}, storage_key_command: [k]}\n", `t.yaml:1:10: plugins: storage_key and storage_key_command are set; keep one`},
		{"directory", "plugins: {directory: a}\n", `t.yaml:1:22: plugins.directory: "a" is not an absolute path`},
		{"no path", head + "    - {command: /b}\n", `t.yaml:4:7: plugins.mounts[0]: has no path; add for example "path: secret"`},
		{"same path", head + "    - {path: a, command: /b}\n    - {path: a/, name: b}\n    - {path: a, type: auth, command: /b}\n", `t.yaml:5:14: plugins.mounts[1].path: "a/" is already the path of plugins.mounts[0]`},
		{"no command", head + "    - {path: a, name: kv}\n", `t.yaml:4:7: plugins.mounts[0]: has no command, and no other mount has one for the plugin "kv"; add "command:" with the executable`},
		{"relative", head + "    - {path: a, command: b}\n", `t.yaml:4:26: plugins.mounts[0].command: "b" is not an absolute path`},
		{"type", head + "    - {path: a, command: /b, type: secrets}\n", `t.yaml:4:36: plugins.mounts[0].type: "secrets" is not one of secret, auth; did you mean "secret"?`},
		{"name", head + "    - {path: a, command: /b, name: a b}\n", `t.yaml:4:36: plugins.mounts[0].name: "a b" must have letters, digits, -, _ and . only, at most 128`},
		{"sum", head + "    - {path: a, command: /b, sha256: abc}\n", `t.yaml:4:38: plugins.mounts[0].sha256: is not 64 hexadecimal digits; print them with: sha256sum FILE`},
		{"sum and reload", head + "    - {path: a, command: /b, reload_on_change: true, sha256: " + strings.Repeat("0a", 32) + "}\n", `t.yaml:4:48: plugins.mounts[0].reload_on_change: makes no sense with a sha256, which another executable does not have`},
		{"variable", head + "    - {path: a, command: /b, env: {a-b: c}}\n", `t.yaml:4:7: plugins.mounts[0]: "a-b" is no name of a variable of the environment`},
		{"two definitions", head + "    - {path: a, command: /b}\n    - {path: c, command: /b, args: [x]}\n", `t.yaml:5:7: plugins.mounts[1]: is of the same plugin "b" as plugins.mounts[0], but with another command, args, env, pass_env, sha256, version or reload_on_change; give it another name, or leave them out`},
		{"policies of a secret plugin", head + "    - {path: a, command: /b, login_policies: [x]}\n", `t.yaml:4:46: plugins.mounts[0].login_policies: are for plugins of type auth`},
		{"root by login", head + "    - {path: a, command: /b, type: auth, login_policies: [root]}\n", `t.yaml:4:58: plugins.mounts[0].login_policies: "root" cannot be given by logins`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Parse("t.yaml", []byte(tc.text))
			if err == nil {
				t.Fatal("accepted")
			}
			if err.Error() != tc.want {
				t.Errorf("got\n%s\nwant\n%s", err, tc.want)
			}
		})
	}
}

func TestPluginName(t *testing.T) {
	for command, want := range map[string]string{
		"/x/vault-plugin-secrets-kv": "kv", "/x/vault-plugin-auth-jwt": "jwt", "/x/openbao-plugin-secrets-a-b": "a-b", "/x/hello": "hello", "": "", "/x/vault-plugin-secrets-": "secrets-",
	} {
		if got := (Mount{Command: command}).PluginName(); got != want {
			t.Errorf("%s: %q", command, got)
		}
	}
	if got := (Mount{Name: "n", Command: "/x/kv"}).PluginName(); got != "n" {
		t.Errorf("with a name: %q", got)
	}
}
