package config

import "time"

// SourcePlugin is one element of "plugins.sources": a plugin and the stream that is read from it.
type SourcePlugin struct {
	Name      string   `yaml:"name" doc:"Name of the source, by which its events, logs and metrics are known. Empty: what the plugin calls itself."`
	Library   string   `yaml:"library" doc:"A native Falco plugin (.so), as an absolute path. It is loaded by a process of its own. This or command."`
	Command   string   `yaml:"command" doc:"The executable of a plugin that speaks the plugin protocol, as an absolute path. This or library."`
	Args      []string `yaml:"args" doc:"Its arguments."`
	Env       Texts    `yaml:"env" doc:"Variables of its environment: NAME to value. It gets nothing else of the hub's, but for PATH, HOME and the like."`
	PassEnv   []string `yaml:"pass_env" doc:"Names of variables that it gets as the hub has them, for secrets."`
	SHA256    string   `yaml:"sha256" doc:"Checksum that the library or executable must have, in hexadecimal digits. Empty: none is asked for."`
	Config    any      `yaml:"config" doc:"Its config: a text, or a map that it gets as JSON. It is checked against the plugin's schema."`
	Open      any      `yaml:"open" doc:"The params that its stream is opened with: a text, or a map that it gets as JSON."`
	NoStream  bool     `yaml:"extract_only" doc:"true opens no stream: the plugin only extracts fields of events."`
	Namespace string   `yaml:"namespace" doc:"The namespace of its events. Empty: root."`
	Path      string   `yaml:"path" doc:"The path on which subscribers need a right to see its events. Empty: falco/EVENT-SOURCE/NAME."`

	Restart      RestartPolicy `yaml:"restart" oneof:"always,on-failure,never" doc:"When it is started again, with growing pauses: always; on-failure, which is not when the stream has ended; never."`
	MaxPause     Duration      `yaml:"max_pause" min:"1s" max:"24h" doc:"The longest pause before it is started again."`
	MaxEvent     Size          `yaml:"max_event" min:"1KiB" max:"256MiB" doc:"The largest event. Larger ones are left out and counted."`
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
