package config

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
)

// Secret is a value that must not be seen: it says where the value is found and
// reveals it only on request. Printed, logged or marshalled in any way it is
// "<secret>". The zero value is no secret at all; see [Secret.IsSet].
type Secret struct {
	env, file string
	// literal is a pointer so that printing a struct that contains a Secret in
	// an unexported field, where fmt calls no methods, shows an address.
	literal *string
}

// Redacted is what every printed [Secret] looks like.
const Redacted = "<secret>"

// SecretFromEnv refers to an environment variable.
func SecretFromEnv(name string) Secret { return Secret{env: name} }

// SecretFromFile refers to the content of a file, without its last newline.
func SecretFromFile(path string) Secret { return Secret{file: path} }

// SecretValue holds a value that the program made or was given otherwise.
func SecretValue(v string) Secret { return Secret{literal: &v} }

// IsSet reports whether s refers to anything.
func (s Secret) IsSet() bool { return s.env != "" || s.file != "" || s.literal != nil }

// maxSecretBytes bounds the file of a secret.
const maxSecretBytes = 64 << 10

// Reveal returns the value. An error says where it was expected and what to do;
// it never contains the value. An empty value is an error.
func (s Secret) Reveal() (string, error) {
	switch {
	case s.literal != nil:
		return *s.literal, nil
	case s.env != "":
		v := os.Getenv(s.env)
		if v == "" {
			return "", fmt.Errorf("environment variable %s is not set; set it, or use {file: PATH}", s.env)
		}
		return v, nil
	case s.file != "":
		return readSecret(s.file)
	}
	return "", fmt.Errorf("no secret is configured")
}

func readSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read secret: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecretBytes+1))
	if err != nil {
		return "", fmt.Errorf("read secret: %w", err)
	}
	v := strings.TrimRight(string(b), "\r\n")
	switch {
	case len(b) > maxSecretBytes:
		return "", fmt.Errorf("read secret: %s is larger than %s", path, Size(maxSecretBytes))
	case v == "":
		return "", fmt.Errorf("read secret: %s is empty", path)
	}
	return v, nil
}

// Reference returns where the value is found, in the form of the configuration
// file, "{}" for no secret; [Redacted] for a value held in memory.
func (s Secret) Reference() string {
	switch {
	case s.literal != nil:
		return Redacted
	case s.env != "":
		return "{env: " + s.env + "}"
	case s.file != "":
		return "{file: " + s.file + "}"
	}
	return "{}"
}

// String returns [Redacted].
func (s Secret) String() string { return Redacted }

// GoString returns [Redacted].
func (s Secret) GoString() string { return Redacted }

// MarshalText returns [Redacted]; it serves JSON and other encodings.
func (s Secret) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// MarshalYAML returns [Redacted].
func (s Secret) MarshalYAML() (any, error) { return Redacted, nil }

// LogValue returns [Redacted].
func (s Secret) LogValue() slog.Value { return slog.StringValue(Redacted) }
