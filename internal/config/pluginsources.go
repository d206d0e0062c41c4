package config

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// SourcePlugin is one element of "plugins.sources": a plugin and the stream that is read from it.
type SourcePlugin struct {
	Name      string   `yaml:"name" doc:"Name of the source, by which its events, logs, metrics and place are known: letters, digits, -, _ and . only. Empty: the name of the file, without lib before and an extension behind it. Changing it makes the source start again."`
	Library   string   `yaml:"library" doc:"A native Falco plugin (.so), as an absolute path. It is loaded by a process of its own. This or command."`
	Command   string   `yaml:"command" doc:"The executable of a plugin that speaks the plugin protocol, as an absolute path. This or library."`
	Args      []string `yaml:"args" doc:"Its arguments."`
	Env       Texts    `yaml:"env" doc:"Variables of its environment: NAME to value. It gets nothing else of the hub's, but for PATH, HOME and the like."`
	PassEnv   []string `yaml:"pass_env" doc:"Names of variables that it gets as the hub has them, for secrets."`
	SHA256    string   `yaml:"sha256" doc:"Checksum that the library or executable must have, in hexadecimal digits. Empty: none is asked for."`
	Config    any      `yaml:"config" doc:"Its config: a text, or a map that it gets as JSON. It is checked against the plugin's schema. Secrets do not belong here, but into pass_env."`
	Open      any      `yaml:"open" doc:"The params that its stream is opened with: a text, or a map that it gets as JSON."`
	NoStream  bool     `yaml:"extract_only" doc:"true opens no stream: the plugin only extracts fields of events."`
	Namespace string   `yaml:"namespace" doc:"The namespace of its events. Empty: root."`
	Path      string   `yaml:"path" doc:"The path on which subscribers need a right to see its events. Empty: falco/EVENT-SOURCE/NAME."`

	Restart      RestartPolicy `yaml:"restart" oneof:"always,on-failure,never" doc:"When it is started again, with growing pauses: always; on-failure, which is not when the stream has ended; never. A plugin that is refused, because its id is taken for example, is not."`
	MaxPause     Duration      `yaml:"max_pause" min:"1s" max:"24h" doc:"The longest pause before it is started again."`
	MaxEvent     Size          `yaml:"max_event" min:"1KiB" max:"256MiB" doc:"The largest event. Larger ones are left out and counted. What is larger than limits.max_event is kept beside the journal."`
	MaxMemory    Size          `yaml:"max_memory" min:"16MiB" max:"1TiB" zero:"no limit" doc:"The most memory that its process may use. One that takes more is ended and started again."`
	StartTimeout Duration      `yaml:"start_timeout" min:"1s" max:"10m" doc:"How long it may take to start and to open its stream."`
	CallTimeout  Duration      `yaml:"call_timeout" min:"1s" max:"10m" doc:"How long it may take for an answer. One that does not answer is ended and started again."`
}

// RestartPolicy says when a plugin is started again.
type RestartPolicy string

// The restart policies.
const (
	RestartAlways    RestartPolicy = "always"
	RestartOnFailure RestartPolicy = "on-failure"
	RestartNever     RestartPolicy = "never"
)

// DefaultSourcePlugin returns what the fields of a source plugin are when its element in the
// file does not mention them.
func DefaultSourcePlugin() SourcePlugin {
	return SourcePlugin{
		Restart:      RestartOnFailure,
		MaxPause:     Duration(5 * time.Minute),
		MaxEvent:     20 << 20,
		StartTimeout: Duration(time.Minute),
		CallTimeout:  Duration(30 * time.Second),
	}
}

// SourceName returns the name of the source.
func (p SourcePlugin) SourceName() string {
	if p.Name != "" {
		return p.Name
	}
	file := filepath.Base(p.Library + p.Command) // of which there is one
	if ext := filepath.Ext(file); ext != "" && ext != file {
		file = strings.TrimSuffix(file, ext)
	}
	if short := strings.TrimPrefix(file, "lib"); p.Library != "" && short != "" {
		file = short
	}
	return file
}

// ConfigText returns the config as the plugin gets it.
func (p SourcePlugin) ConfigText() string { return textOrJSON(p.Config) }

// OpenText returns the params of the stream as the plugin gets them.
func (p SourcePlugin) OpenText() string { return textOrJSON(p.Open) }

// textOrJSON returns a text as it is, and anything else as JSON with sorted keys. Nil is no text.
func textOrJSON(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	}
	b, err := json.Marshal(v)
	if err != nil { // the decoder makes no such values
		panic("config: " + err.Error())
	}
	return string(b)
}

// jsonable returns what keeps a value that code has made from becoming JSON.
func jsonable(v any) error {
	switch v.(type) {
	case nil, string, map[string]any:
		_, err := json.Marshal(v)
		return err
	}
	return fmt.Errorf("is a %T", v)
}

func (v *validator) pluginSources(plugins []SourcePlugin, sources []Source) {
	names := make(map[string]string)
	for i, s := range sources {
		names[s.Name] = fmt.Sprintf("sources[%d]", i)
	}
	for i, p := range plugins {
		key := fmt.Sprintf("plugins.sources[%d]", i)
		if !v.pluginFile(key, p) {
			continue
		}
		switch name := p.SourceName(); {
		case !pluginName.MatchString(name) && p.Name == "":
			v.report(key, "has no name, and that of its file, %q, has other characters than letters, digits, -, _ and .; add for example \"name: my-plugin\"", shorten(name))
		case !pluginName.MatchString(name):
			v.report(key+".name", "%q must have letters, digits, -, _ and . only, at most 128", shorten(name))
		case names[name] != "":
			at := key + ".name"
			if p.Name == "" {
				at = key
			}
			v.report(at, "%q is already the name of %s; give one of them another name", shorten(name), names[name])
		default:
			names[name] = key
		}
		v.sourcePlugin(key, p)
	}
}

// pluginFile checks that there is one file.
func (v *validator) pluginFile(key string, p SourcePlugin) bool {
	switch {
	case p.Library == "" && p.Command == "":
		v.report(key, "has neither library nor command; add \"library:\" with a native Falco plugin, or \"command:\" with an executable")
		return false
	case p.Library != "" && p.Command != "":
		v.report(key, "has a library and a command; keep one")
		return false
	case p.Library != "" && !filepath.IsAbs(p.Library):
		v.report(key+".library", "%q is not an absolute path", shorten(p.Library))
	case p.Command != "" && !filepath.IsAbs(p.Command):
		v.report(key+".command", "%q is not an absolute path", shorten(p.Command))
	case p.Library != "" && len(p.Args) > 0:
		v.report(key+".args", "are for a command, and a library has none; its settings go into config and open")
	}
	return true
}

// maxSourcePath bounds the path of the events of a plugin.
const maxSourcePath = 1024

func (v *validator) sourcePlugin(key string, p SourcePlugin) {
	if sum, err := hex.DecodeString(p.SHA256); err != nil || p.SHA256 != "" && len(sum) != 32 {
		v.report(key+".sha256", "is not 64 hexadecimal digits; print them with: sha256sum FILE")
	}
	for _, name := range append(slices.Sorted(maps.Keys(p.Env)), p.PassEnv...) {
		if !variableName.MatchString(name) {
			v.report(key, "%q is no name of a variable of the environment", shorten(name))
		}
	}
	for _, one := range [...]struct {
		key   string
		value any
	}{{"config", p.Config}, {"open", p.Open}} {
		if err := jsonable(one.value); err != nil {
			v.report(key+"."+one.key, "must be a text or a map: %v", err)
		}
	}
	if p.NoStream && p.Open != nil {
		v.report(key+".open", "makes no sense with extract_only, which opens no stream")
	}
	bad := func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' }
	switch {
	case strings.ContainsFunc(p.Path, bad) || len(p.Path) > maxSourcePath:
		v.report(key+".path", "must be at most %d bytes without control characters", maxSourcePath)
	case strings.HasPrefix(p.Path, "/"):
		v.report(key+".path", "%q begins with a slash, which paths of events do not", shorten(p.Path))
	}
	if strings.ContainsFunc(p.Namespace, func(r rune) bool { return bad(r) || r == ' ' }) || len(p.Namespace) > maxSourcePath || strings.Contains(p.Namespace, "//") {
		v.report(key+".namespace", "%q is no namespace; write for example team-a, or a/b", shorten(p.Namespace))
	}
}
