//go:build (linux || darwin) && (amd64 || arm64) && !tocsin_static

package falcoplugin

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

func TestLoad(t *testing.T) {
	for name, tc := range map[string]struct {
		flags []string
		want  string // of the error
	}{
		"as it is":            {nil, ""},
		"old API":             {[]string{`-DAPI_VERSION="3.0.0"`}, ""},
		"older API, patch":    {[]string{`-DAPI_VERSION="3.11.99"`}, ""},
		"minor too new":       {[]string{`-DAPI_VERSION="3.13.0"`}, "requires version 3.13.0 of the plugin API, and this is 3.12.0: the minor version is too new"},
		"patch too new":       {[]string{`-DAPI_VERSION="3.12.1"`}, "the patch version is too new"},
		"older major":         {[]string{`-DAPI_VERSION="2.9.0"`}, "the major versions differ"},
		"newer major":         {[]string{`-DAPI_VERSION="4.0.0"`}, "the major versions differ"},
		"API no version":      {[]string{`-DAPI_VERSION="abc"`}, `"abc", is no version`},
		"API with suffix":     {[]string{`-DAPI_VERSION="3.1.0-rc1"`}, "is no version"},
		"API NULL":            {[]string{`-DAPI_VERSION=(void*)0`}, "plugin_get_required_api_version returned NULL"},
		"name NULL":           {[]string{`-DPLUGIN_NAME=(void*)0`}, "plugin_get_name returned NULL"},
		"name empty":          {[]string{`-DPLUGIN_NAME=""`}, "empty name"},
		"version short":       {[]string{`-DPLUGIN_VERSION="1.0"`}, `the version of the plugin, "1.0", is not three numbers`},
		"version with suffix": {[]string{`-DPLUGIN_VERSION="1.2.3-rc1"`}, ""},
		"no name":             {[]string{"-DNO_NAME"}, "it lacks plugin_get_name"},
		"no two":              {[]string{"-DNO_REQUIRED_API", "-DNO_DESTROY"}, "it lacks plugin_get_required_api_version, plugin_destroy"},
		"no next_batch":       {[]string{"-DNO_NEXT_BATCH"}, "half of event sourcing: plugin_open and plugin_close, but not plugin_next_batch"},
		"only next_batch":     {[]string{"-DNO_OPEN", "-DNO_CLOSE"}, "plugin_next_batch, but not plugin_open and plugin_close"},
		"no get_fields":       {[]string{"-DNO_FIELDS"}, "half of field extraction: plugin_extract_fields, but not plugin_get_fields"},
		"only get_fields":     {[]string{"-DNO_EXTRACT"}, ""},
		"async handler only":  {[]string{"-DHALF_ASYNC"}, "half of asynchronous events: plugin_set_async_event_handler, but not plugin_get_async_events"},
		"async":               {[]string{"-DASYNC"}, ""},
		"id without source":   {[]string{"-DNO_SOURCE"}, "plugin_get_id, but not plugin_get_event_source"},
		"source without id":   {[]string{"-DNO_ID"}, "plugin_get_event_source, but not plugin_get_id"},
		"id 0":                {[]string{"-DPLUGIN_ID=0"}, `it has the event source "test_source", but the id 0`},
		"source empty":        {[]string{`-DPLUGIN_SOURCE=""`}, "it has the id 1073742001, but no event source"},
		"system calls":        {[]string{"-DNO_ID", "-DNO_SOURCE"}, "events of system calls"},
		"reserved source":     {[]string{`-DPLUGIN_SOURCE="syscall"`}, `"syscall", which is reserved`},
		"nothing":             {[]string{"-DNO_OPEN", "-DNO_CLOSE", "-DNO_NEXT_BATCH", "-DNO_FIELDS", "-DNO_EXTRACT"}, "it can do nothing"},
		"only extraction":     {[]string{"-DNO_OPEN", "-DNO_CLOSE", "-DNO_NEXT_BATCH", "-DNO_ID", "-DNO_SOURCE"}, ""},
		"bad fields":          {[]string{`-DSTATIC_FIELDS="[]"`}, "plugin_get_fields: the list of fields is empty"},
		"bad schema":          {[]string{`-DSCHEMA="{"`}, "plugin_get_init_schema: the schema is no JSON"},
		"schema elsewhere":    {[]string{`-DSCHEMA="{\"$ref\":\"http://127.0.0.1/x\"}"`}, "which is not in it"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := Load(build(t, tc.flags...))
			wantError(t, err, tc.want)
			if err == nil && l.Describe().Name != "testbed" {
				t.Errorf("%+v", l.Describe())
			}
		})
	}
}

// What is no library for this machine is told by what it is, and what to do.
func TestLoadFiles(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good, err := os.ReadFile(build(t))
	if err != nil {
		t.Fatal(err)
	}
	patched := func(at int, with ...byte) string {
		b := bytes.Clone(good)
		copy(b[at:], with)
		return string(b)
	}
	compiled := func(name string, flags ...string) string {
		path := filepath.Join(dir, name)
		source := file("main.c", "int main(void) { return 0; }\n")
		if out, err := exec.Command("gcc", append(flags, "-o", path, source)...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return path
	}
	for path, want := range map[string][]string{
		"libc.so.6":                              {"not absolute"},
		filepath.Join(dir, "not.so"):             {"cannot open shared object file", "give the path of a library (.so) that is there"},
		dir:                                      {"it is a directory; name the library (.so) in it"},
		file("empty.so", ""):                     {"the file is empty; build or copy it again"},
		file("text.so", "no library"):            {"text.so", "it is no shared library (ELF)"},
		file("script.so", "#!/bin/sh\nexit 1\n"): {"it is a script; a plugin that is a program of its own is started as a command"},
		file("static.so", "!<arch>\n"):           {"it is a static library (.a); plugins are shared ones (.so)"},
		file("windows.so", "MZ\x90\x00"):         {"it is built for Windows"},
		file("arm.so", patched(18, 183)):         {"built for another machine (aarch64, 64 bit), and this is amd64; get or build it for this one"},
		file("386.so", patched(4, 1)):            {"(x86_64, 32 bit)"},
		file("big.so", patched(5, 2, 1, 0)):      {"built for another machine"},
		file("head.so", string(good[:18])):       {"the file is damaged; build or copy it again"},
		file("cut.so", string(good[:1000])):      {"the file is damaged; build or copy it again"},
		compiled("object.so", "-c"):              {"it is an object file; link it with -shared"},
		compiled("program.so", "-pie", "-fPIE"):  {"it is a program, not a library; a plugin that is a program of its own is started as a command"},
		compiled("fixed.so", "-no-pie"):          {"it is a program, not a library"},
		compiled("other.so", "-shared", "-fPIC"): {"other.so is no Falco plugin: it lacks plugin_get_required_api_version, plugin_get_name, ", "give one that was built as a plugin"},
		compiled("needs.so", "-shared", "-fPIC", "-Wl,--no-as-needed", lonely(t, dir)): {"liblonely.so: cannot open shared object file", "a library needs all others that it names"},
	} {
		t.Run(filepath.Base(path), func(t *testing.T) {
			if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
				t.Skip("the files are for Linux, and another machine is another one there")
			}
			_, err := Load(path)
			for _, text := range want {
				wantError(t, err, text)
			}
		})
	}
}

// The names in a library are its own, whatever was loaded before, and all of them are there from the
// beginning.
func TestLoadBinds(t *testing.T) {
	for name, flags := range map[string][]string{"testbed": nil, "second": {`-DPLUGIN_NAME="second"`}, "third": {`-DPLUGIN_NAME="third"`}} {
		_, err := load(t, flags...).Init(t.Context(), "say-name", slog.New(slog.DiscardHandler))
		wantError(t, err, "plugin "+name+": cannot be initialised: my name is "+name)
	}
	_, err := Load(build(t, "-DUNDEFINED"))
	wantError(t, err, "undefined symbol: nobody_has_this")
}

// lonely returns a library that will not be found when another one needs it.
func lonely(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "liblonely.so")
	source := filepath.Join(dir, "lonely.c")
	if err := os.WriteFile(source, []byte("int lonely;\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("gcc", "-shared", "-fPIC", "-Wl,-soname,liblonely.so", "-o", path, source).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// FuzzExplain: whatever is in a file, there is a text or none.
func FuzzExplain(f *testing.F) {
	f.Add([]byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03\x00\x3e\x00"))
	f.Add([]byte("!<arch>\n"))
	if program, err := os.ReadFile("/bin/true"); err == nil && len(program) < 1<<16 {
		f.Add(program)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		endsBefore(bytes.NewReader(data), uint64(len(data)))
		if text := explainELF(bytes.NewReader(data)); strings.ContainsAny(text, "\n\x00") || len(text) > 300 {
			t.Errorf("%q", text)
		}
	})
}

func TestDescribe(t *testing.T) {
	d := load(t, "-DASYNC", `-DSCHEMA="{\"type\":\"object\"}"`, `-DEXTRACT_SOURCES="[\"other\"]"`).Describe()
	if d.Version != "1.2.3" || d.Contact != "nobody" || d.Description == "" || d.ID != 1073742001 || d.EventSource != "test_source" || d.RequiredAPI != "3.12.0" || d.ConfigSchema != `{"type":"object"}` {
		t.Errorf("%+v", d)
	}
	if want := (sourceplugin.Capabilities{Source: true, Extract: true, Async: true, OpenParams: true, Strings: true, Progress: true, Metrics: true, SetConfig: true}); d.Capabilities != want {
		t.Errorf("%+v", d.Capabilities)
	}
	if got := strings.Join(d.AsyncNames, " "); got != "tick tock" {
		t.Error(got)
	}
	if got := strings.Join(d.ExtractSources, " "); got != "other test_source" {
		t.Error(got)
	}
	f := d.Fields[1]
	if f.Name != "t.str" || f.Display != "Payload" || f.Type != sourceplugin.String || !f.AddOutput || f.Properties[0] != "info" {
		t.Errorf("%+v", f)
	}
	if f := d.Fields[10]; f.Arg != (sourceplugin.ArgRule{Required: true, Key: true}) {
		t.Errorf("%+v", f)
	}
}

func TestParseFields(t *testing.T) {
	for text, want := range map[string]string{
		`{}`:                                        "a list of fields is expected",
		`[{"type":"bool","desc":"d"}]`:              "field 0 has no name",
		`[{"name":"a","type":"bool"}]`:              `field "a" has no desc`,
		`[{"name":"a","desc":"d"}]`:                 `field "a" has the unknown type ""`,
		`[{"name":"a","type":"uint32","desc":"d"}]`: `"uint32"`,
		`[{"name":"a","type":"bool","desc":"d","arg":{"isRequired":true}}]`:                         "neither an index nor a key",
		`[{"name":"a","type":"bool","desc":"d"},{"name":"a","type":"bool","desc":"d"}]`:             `two fields "a"`,
		`[{"name":"a","type":"bool","desc":"d","properties":["new"],"arg":{"isKey":true},"new":1}]`: "",
	} {
		_, err := parseFields(text)
		wantError(t, err, want)
	}
}

// FuzzDescriptions: whatever a plugin says as JSON, there is an error or what it says is whole.
func FuzzDescriptions(f *testing.F) {
	f.Add(`[{"name":"a","type":"bool","desc":"d"}]`)
	f.Add(`{"type":"object","properties":{"a":{"type":"integer"}}}`)
	f.Fuzz(func(t *testing.T, text string) {
		if fields, err := parseFields(text); err == nil {
			for _, f := range fields {
				if f.Name == "" || f.Description == "" || f.Type == 0 {
					t.Errorf("%+v", f)
				}
			}
		}
		if s, err := compileSchema(text); err == nil {
			_, _ = s.check(text)
		}
	})
}

// FuzzOpenParams: whatever a plugin says that its stream can be opened with, there is an error, or
// params that have values, as many as there are in the list.
func FuzzOpenParams(f *testing.F) {
	for _, seed := range []string{"", "[]", "null", `[{"value":"a","desc":"d","separator":","}]`, `[{"value":"a\u0000"},{"value":""}]`, `[{"value":1}]`, `[null]`, `[{"VALUE":"x","more":[{}]}]`, `{"value":"a"}`, "[{\"value\":\"\xff\"}]"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		params, err := parseOpenParams(data)
		if err != nil {
			if len(params) > 0 {
				t.Errorf("%v with %+v", err, params)
			}
			return
		}
		var list []json.RawMessage
		if len(data) > 0 && json.Unmarshal(data, &list) != nil || len(list) != len(params) {
			t.Errorf("%d params of %q", len(params), data)
		}
		for _, p := range params {
			if p.Value == "" || strings.ContainsRune(p.Value, 0) || !utf8.ValidString(p.Value+p.Description+p.Separator) {
				t.Errorf("%+q", p)
			}
		}
	})
}

func TestConfigSchema(t *testing.T) {
	s, err := compileSchema(`{"type":"object","required":["token"],"additionalProperties":false,
		"properties":{"token":{"type":"string","minLength":3},"server":{"type":"object","properties":{"port":{"type":"integer"}}}}}`)
	if err != nil {
		t.Fatal(err)
	}
	for config, want := range map[string]string{
		`{"token":"abc"}`: "",
		``:                `misses "token"`,
		`token: abc`:      "must be JSON",
		`{"token":"secret","server":{"port":"hunter2"}}`: "/server/port must be integer",
		`{"token":"ab"}`:              "/token must have at least 3 characters",
		`{"token":"secret","more":1}`: `must not have "more"`,
		"{}\x00":                      "NUL",
	} {
		_, err := s.check(config)
		wantError(t, err, want)
		if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%q has a value", err)
		}
	}
	var none *configSchema
	if got, err := none.check(""); got != "" || err != nil {
		t.Errorf("%q %v", got, err)
	}
	all, err := compileSchema(`true`)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := all.check(" "); got != "{}" || err != nil {
		t.Errorf("%q %v", got, err)
	}
}
