package config

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// SinkFile is the section "sinks[].file".
type SinkFile struct {
	Path        string     `yaml:"path" doc:"The file. It and its directories are made when missing. It must not be a symbolic link, and nobody else may write to it."`
	Format      SinkFormat `yaml:"format" oneof:"cloudevents,vault,raw,flipt" doc:"What a line is: a CloudEvent, Vault's envelope, the data of the event as it is (of an audit entry the line of the log), or Flipt's audit event."`
	Mode        Octal      `yaml:"mode" doc:"Permissions of the file, octal."`
	Sync        SinkSync   `yaml:"sync" oneof:"progress,always,never" doc:"When the file is synced: before the place in the journal is stored, so that a power cut loses nothing; after each batch; or never, which leaves it to the system."`
	RotateBytes Size       `yaml:"rotate_bytes" min:"4KiB" max:"1TiB" zero:"any size" doc:"A file that would become larger than this is moved away, and a new one begun. The time is appended to its name: events.jsonl.20261127T060207.123456789Z."`
	RotateAge   Duration   `yaml:"rotate_age" min:"1s" max:"365d" zero:"any age" doc:"So is one of this age."`
	Keep        int        `yaml:"keep" min:"1" max:"100000" zero:"all" doc:"So many files that were moved away are kept."`
	KeepAge     Duration   `yaml:"keep_age" min:"1m" max:"3650d" zero:"for ever" doc:"And for so long."`
	Gzip        bool       `yaml:"gzip" doc:"true compresses files that were moved away. They get .gz at the end of their names."`
}

// SinkStdout is the section "sinks[].stdout".
type SinkStdout struct {
	Format SinkFormat `yaml:"format" oneof:"cloudevents,vault,raw,flipt,pretty" doc:"As of files, or pretty: a line for people, with colours on a terminal unless NO_COLOR is set."`
}

// Settings of it.
type (
	SinkSync string
	// Octal is written as 0640, with quotes or without: YAML would take it for a number.
	Octal string
)

func defaultSinkFile() SinkFile {
	return SinkFile{Format: "cloudevents", Mode: "0640", Sync: "progress"}
}

// FileMode returns the permissions.
func (c *SinkFile) FileMode() (fs.FileMode, error) {
	mode, err := strconv.ParseUint(strings.TrimPrefix(string(c.Mode), "0o"), 8, 32)
	if err != nil || mode > 0o777 || mode&0o200 == 0 {
		return 0, fmt.Errorf("%q must be permissions in octal with that to write for the owner, such as 0640", shorten(string(c.Mode)))
	}
	return fs.FileMode(mode), nil
}

// sinkFile checks what holds between the fields of the section at key.
func (v *validator) sinkFile(key string, c *SinkFile) {
	switch {
	case c.Path == "":
		v.report(key+".path", "is missing; name the file, as /var/log/tocsin/events.jsonl")
	case strings.HasSuffix(c.Path, "/"):
		v.report(key+".path", "%q is a directory; name a file in it", shorten(c.Path))
	case !utf8.ValidString(c.Path) || strings.ContainsFunc(c.Path, unicode.IsControl):
		v.report(key+".path", "%q has characters that are not printable", shorten(c.Path))
	}
	if _, err := c.FileMode(); err != nil {
		v.report(key+".mode", "%s", err)
	}
	if c.RotateBytes > 0 || c.RotateAge > 0 {
		return
	}
	for _, field := range []struct {
		name string
		set  bool
	}{{"keep", c.Keep > 0}, {"keep_age", c.KeepAge > 0}, {"gzip", c.Gzip}} {
		if field.set {
			v.report(key+"."+field.name, "is for files that the hub moves away; set rotate_bytes or rotate_age, too")
		}
	}
}

func defaultSinkStdout() SinkStdout {
	return SinkStdout{Format: "cloudevents"}
}

// sinkStdout checks what holds between the fields of the section at key.
func (v *validator) sinkStdout(string, *SinkStdout) {}
