package config

// SinkFile is the section "sinks[].file".
type SinkFile struct {
	Path        string     `yaml:"path" doc:"The file. It and its directories are made when missing."`
	Format      SinkFormat `yaml:"format" oneof:"cloudevents,vault,raw,flipt" doc:"What a line is: a CloudEvent, Vault's envelope, the data of the event as it is (of an audit entry the line of the log), or Flipt's audit event."`
	Mode        string     `yaml:"mode" doc:"Permissions of the file, octal."`
	Sync        SinkSync   `yaml:"sync" oneof:"progress,always,never" doc:"When the file is synced: before the place in the journal is stored, so that a power cut loses nothing; after each batch; or never, which leaves it to the system."`
	RotateBytes Size       `yaml:"rotate_bytes" min:"4KiB" max:"1TiB" zero:"not for that" doc:"A file of this size is moved away, and a new one begun."`
	RotateAge   Duration   `yaml:"rotate_age" min:"1s" max:"365d" zero:"not for that" doc:"So is one of this age."`
	Keep        int        `yaml:"keep" min:"1" max:"100000" zero:"all" doc:"So many files that were moved away are kept."`
	KeepAge     Duration   `yaml:"keep_age" min:"1m" max:"3650d" zero:"for ever" doc:"And for so long."`
	Gzip        bool       `yaml:"gzip" doc:"true compresses files that were moved away."`
}

// SinkStdout is the section "sinks[].stdout".
type SinkStdout struct {
	Format SinkFormat `yaml:"format" oneof:"cloudevents,vault,raw,flipt,pretty" doc:"As of files, or pretty: for people, with colours on a terminal."`
}

// Settings of it.
type (
	SinkSync string
)

func defaultSinkFile() SinkFile {
	return SinkFile{Format: "cloudevents", Mode: "0640", Sync: "progress"}
}

// sinkFile checks what holds between the fields of the section at key.
func (v *validator) sinkFile(key string, c *SinkFile) {}

func defaultSinkStdout() SinkStdout {
	return SinkStdout{Format: "cloudevents"}
}

// sinkStdout checks what holds between the fields of the section at key.
func (v *validator) sinkStdout(key string, c *SinkStdout) {}
