package config

import (
	"math"
	"strings"
	"testing"
	"time"
)

func fullPluginSources() []SourcePlugin {
	with := func(change func(*SourcePlugin)) SourcePlugin {
		p := DefaultSourcePlugin()
		change(&p)
		return p
	}
	return []SourcePlugin{
		{
			Name: "audit", Library: "/usr/lib/falco/libk8saudit.so", SHA256: strings.Repeat("0b", 32),
			Config: map[string]any{
				"sslCertificate": "", "limits": map[string]any{"max": int64(10), "ratio": 0.5, "big": uint64(math.MaxUint64)},
				"hosts": []any{"a", int64(1), true, nil}, "when": "2026-01-02",
			},
			Open: "http://:9765/k8s-audit", Namespace: "team-a", Path: "k8s/audit", Restart: RestartAlways, MaxPause: Duration(time.Hour),
			MaxEvent: 1 << 20, MaxMemory: 1 << 30, StartTimeout: Duration(5 * time.Second), CallTimeout: Duration(7 * time.Second),
		},
		with(func(p *SourcePlugin) {
			p.Command, p.Args, p.Env, p.PassEnv = "/opt/plugins/weather", []string{"-v"}, Texts{"A": "b"}, []string{"TOKEN"}
			p.Config, p.Open, p.Restart = "verbose", map[string]any{"city": "Bern"}, RestartNever
		}),
		with(func(p *SourcePlugin) { p.Library, p.NoStream = "/usr/lib/falco/libjson.so", true }),
	}
}

func TestPluginSourceProblems(t *testing.T) {
	const head = "plugins:\n  sources:\n"
	for _, tc := range []struct{ name, text, want string }{
		{"nothing", head + "    - {name: a}\n", `t.yaml:3:7: plugins.sources[0]: has neither library nor command; add "library:" with a native Falco plugin, or "command:" with an executable`},
		{"both", head + "    - {library: /a, command: /b}\n", `t.yaml:3:7: plugins.sources[0]: has a library and a command; keep one`},
		{"relative library", head + "    - {library: a.so}\n", `t.yaml:3:17: plugins.sources[0].library: "a.so" is not an absolute path`},
		{"relative command", head + "    - {command: a}\n", `t.yaml:3:17: plugins.sources[0].command: "a" is not an absolute path`},
		{"args of a library", head + "    - {library: /a.so, args: [x]}\n", `t.yaml:3:30: plugins.sources[0].args: are for a command, and a library has none; its settings go into config and open`},
		{"name", head + "    - {library: /a.so, name: a b}\n", `t.yaml:3:30: plugins.sources[0].name: "a b" must have letters, digits, -, _ and . only, at most 128`},
		{"no name", head + "    - {library: /a b.so}\n", `t.yaml:3:7: plugins.sources[0]: has no name, and that of its file, "a b", has other characters than letters, digits, -, _ and .; add for example "name: my-plugin"`},
		{"same name", head + "    - {library: /liba.so}\n    - {command: /b, name: a}\n", `t.yaml:4:27: plugins.sources[1].name: "a" is already the name of plugins.sources[0]; give one of them another name`},
		{"same file", head + "    - {library: /liba.so}\n    - {library: /x/liba.so}\n", `t.yaml:4:7: plugins.sources[1]: "a" is already the name of plugins.sources[0]; give one of them another name`},
		{"name of a source", "sources: [{name: a, path: /b}]\n" + head + "    - {library: /liba.so}\n", `t.yaml:4:7: plugins.sources[0]: "a" is already the name of sources[0]; give one of them another name`},
		{"sum", head + "    - {library: /a.so, sha256: zz}\n", `t.yaml:3:32: plugins.sources[0].sha256: is not 64 hexadecimal digits; print them with: sha256sum FILE`},
		{"variable", head + "    - {library: /a.so, pass_env: [a-b]}\n", `t.yaml:3:7: plugins.sources[0]: "a-b" is no name of a variable of the environment`},
		{"restart", head + "    - {library: /a.so, restart: on-failur}\n", `t.yaml:3:33: plugins.sources[0].restart: "on-failur" is not one of always, on-failure, never; did you mean "on-failure"?`},
		{"open of none", head + "    - {library: /a.so, extract_only: true, open: x}\n", `t.yaml:3:50: plugins.sources[0].open: makes no sense with extract_only, which opens no stream`},
		{"path", head + "    - {library: /a.so, path: /a}\n", `t.yaml:3:30: plugins.sources[0].path: "/a" begins with a slash, which paths of events do not`},
		{"namespace", head + "    - {library: /a.so, namespace: a b}\n", `t.yaml:3:35: plugins.sources[0].namespace: "a b" is no namespace; write for example team-a, or a/b`},
		{"small", head + "    - {library: /a.so, max_event: 1}\n", `t.yaml:3:35: plugins.sources[0].max_event: 1B is too small; the least is 1KiB`},
		{"number", head + "    - {library: /a.so, open: 5}\n", `t.yaml:3:30: plugins.sources[0].open: must be a text or a section with keys, but is "5"; put it into quotes if it is meant as text`},
		{"list", head + "    - {library: /a.so, config: [5]}\n", `t.yaml:3:32: plugins.sources[0].config: must be a text or a section with keys, but is a list; put it into quotes if it is meant as text`},
		{"infinite", head + "    - {library: /a.so, config: {a: .inf}}\n", `t.yaml:3:36: plugins.sources[0].config.a: ".inf" is no number of JSON; put it into quotes if it is meant as text`},
		{"repeated", head + "    - library: /a.so\n      config:\n        a: 1\n        a: 2\n", `t.yaml:6:9: plugins.sources[0].config.a: is set a second time; the first is in line 5`},
		{"anchor", head + "    - {library: /a.so, config: {a: &x [1], b: *x}}\n", `t.yaml:3:47: plugins.sources[0].config.b: anchors and aliases are not supported; write the value here`},
		{"deep", head + "    - {library: /a.so, config: {a: " + strings.Repeat("[", 51) + strings.Repeat("]", 51) + "}}\n", `t.yaml:3:86: plugins.sources[0].config.a: is nested more than 50 levels deep`},
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

// What a plugin gets is the text, or JSON; and no key of the storage is needed for it.
func TestPluginSourceTexts(t *testing.T) {
	c, err := Parse("t.yaml", []byte("plugins:\n  sources:\n    - library: /libx.so\n      config: {b: [1, 0x10, 1.0, 1.5, 1e3, yes, ~], a: {}}\n      open: |\n        two\n        lines\n    - {command: /y.py, open: '', config: ''}\n"))
	if err != nil {
		t.Fatal(err)
	}
	first, second := c.Plugins.Sources[0], c.Plugins.Sources[1]
	if got, want := first.ConfigText(), `{"a":{},"b":[1,16,1,1.5,1000,"yes",null]}`; got != want {
		t.Errorf("%s", got)
	}
	if got := first.OpenText(); got != "two\nlines\n" {
		t.Errorf("%q", got)
	}
	if second.ConfigText() != "" || second.OpenText() != "" || second.Config != nil {
		t.Errorf("%+v", second)
	}
	if first.SourceName() != "x" || second.SourceName() != "y" || c.Plugins.Enabled() {
		t.Errorf("%s %s", first.SourceName(), second.SourceName())
	}
}

func TestSourceName(t *testing.T) {
	for _, tc := range []struct{ library, command, want string }{
		{"/a/libk8saudit.so", "", "k8saudit"}, {"/a/lib.so", "", "lib"}, {"/a/x.so", "", "x"}, {"", "/a/library", "library"}, {"", "/a/b.py", "b"}, {"", "/a/.x", ".x"},
	} {
		if got := (SourcePlugin{Library: tc.library, Command: tc.command}).SourceName(); got != tc.want {
			t.Errorf("%s%s: %q", tc.library, tc.command, got)
		}
	}
}
