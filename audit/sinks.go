package audit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/outbound"
	"github.com/tocsin-events/tocsin/internal/sink/file"
	"github.com/tocsin-events/tocsin/internal/sink/format"
	"github.com/tocsin-events/tocsin/internal/sink/stdout"
	"github.com/tocsin-events/tocsin/internal/sink/webhook"
)

// Format is what an event is where it is written or sent.
type Format string

// The formats.
const (
	// JSON is the JSON form of [Event]; the default.
	JSON Format = "audit"
	// CloudEvents is a CloudEvent in JSON whose data are that.
	CloudEvents Format = "cloudevents"
	// Pretty is one line for people, with colours on a terminal. Only for [ToStdout].
	Pretty Format = "pretty"
)

// named is the name that sinks know.
func (f Format) named() (format.Format, error) {
	switch f {
	case JSON, "":
		return format.Raw, nil
	case CloudEvents:
		return format.CloudEvents, nil
	}
	return "", errors.New("the Format must be JSON or CloudEvents")
}

// FileOptions say how a file is written. The zero value appends JSON lines, for ever.
type FileOptions struct {
	Format Format
	// Mode is the permissions of the file; 0 means 0o640.
	Mode fs.FileMode
	// RotateBytes is the size at which a file is moved away, RotateAge the age; 0: it is not. One
	// that was moved away has the time at the end of its name.
	RotateBytes int64
	RotateAge   time.Duration
	// Keep is how many files that were moved away are kept, KeepAge for how long; 0: all, for
	// ever.
	Keep    int
	KeepAge time.Duration
	// Gzip compresses files that were moved away.
	Gzip bool
	// NoSync leaves it to the system when the file is synced. Otherwise that is done before
	// events leave the queue, so that a power cut loses nothing.
	NoSync bool
}

// ToFile appends events to a file, one per line. The file and its directories are made when
// missing. It belongs to this output: nobody else may append to it. The name of the output is
// "file".
func ToFile(path string, o FileOptions) Output {
	return Output{Name: "file", make: func(l *Logger) (deliver.Sink, error) {
		f, err := o.Format.named()
		if err != nil {
			return nil, err
		}
		sync := file.SyncProgress
		if o.NoSync {
			sync = file.SyncNever
		}
		return file.New(file.Options{
			Path: path, Format: f, Begin: completeBegin, Mode: o.Mode, Sync: sync, RotateBytes: o.RotateBytes, RotateAge: o.RotateAge,
			Keep: o.Keep, KeepAge: o.KeepAge, Gzip: o.Gzip, Logger: l.log,
		})
	}}
}

// ToStdout writes events to the standard output, one per line. The name of the output is
// "stdout".
func ToStdout(f Format) Output { return ToWriter("stdout", os.Stdout, f) }

// ToWriter writes events to w, one per line. Nobody else should write to it meanwhile.
func ToWriter(name string, w io.Writer, f Format) Output {
	return Output{Name: name, make: func(*Logger) (deliver.Sink, error) {
		if w == nil {
			return nil, errors.New("the writer is nil")
		}
		name := stdout.Pretty
		if f != Pretty {
			named, err := f.named()
			if err != nil {
				return nil, err
			}
			name = string(named)
		}
		return stdout.New(stdout.Options{Output: stdout.NewOutput(w), Format: name})
	}}
}

// Secret returns a secret. It is called for each request, so it may change. The error must not
// have the secret.
type Secret = func() (string, error)

// SecretText returns a secret that never changes.
func SecretText(text string) Secret { return func() (string, error) { return text, nil } }

// SecretEnv returns what an environment variable has.
func SecretEnv(name string) Secret {
	return func() (string, error) {
		text, ok := os.LookupEnv(name)
		if !ok {
			return "", fmt.Errorf("the environment variable %s is not set", name)
		}
		return text, nil
	}
}

// SecretFile returns what is in a file, without white space around it, read again for each request.
func SecretFile(path string) Secret {
	return func() (string, error) {
		b, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		return strings.TrimSpace(string(b)), nil
	}
}

// WebhookOptions say how events are posted to a URL. The zero value posts one event per
// request, unsigned.
type WebhookOptions struct {
	// SigningKeys sign as Standard Webhooks 1.0 says: whsec_... (HMAC-SHA256) or whsk_...
	// (ed25519). With several, each signs, so that receivers can change from one to the other.
	SigningKeys []Secret
	// Batch sends several events in a request, as a JSON array. Otherwise each is {"type",
	// "timestamp", "data"} of Standard Webhooks.
	Batch bool
	// Format is what an event in an array is.
	Format Format
	Gzip   bool
	// Bearer is sent as Authorization: Bearer TOKEN.
	Bearer Secret
	// Headers are sent with each request.
	Headers map[string]Secret
	// Allow are addresses, networks and hosts that are not public and may be connected to all the
	// same: "10.1.2.0/24", "127.0.0.1", "alerts.internal", "*.corp.example". Whatever is else private,
	// local or reserved is refused when it is connected to, so that a name that somebody else controls leads
	// nowhere inside.
	Allow []string
	// CA is PEM with the authorities of the receiver's certificate instead of those of the
	// system; Cert and Key are a client certificate.
	CA, Cert, Key Secret
}

// ToWebhook posts events to a URL, in their order. Redirects are not followed. Answers of 2xx
// deliver, 410 disables the output until [Logger.Resume], most others of 4xx make dead letters,
// and all else is tried again. The name of the output is "webhook".
func ToWebhook(url string, o WebhookOptions) Output {
	return Output{Name: "webhook", make: func(*Logger) (deliver.Sink, error) {
		guard, err := outbound.NewGuard(o.Allow...)
		if err != nil {
			return nil, err
		}
		guard = guard.In("WebhookOptions.Allow")
		options := webhook.Options{
			URL: url, Gzip: o.Gzip, SigningKeys: o.SigningKeys,
			Connection: outbound.Options{Guard: guard, TLS: outbound.TLS{CA: o.CA, Cert: o.Cert, Key: o.Key}, Bearer: o.Bearer, UserAgent: "tocsin-audit"},
		}
		for name, value := range o.Headers {
			options.Connection.Headers = append(options.Connection.Headers, outbound.Header{Name: name, Value: value})
		}
		if o.Batch {
			options.Body = webhook.Array
			if options.Format, err = o.Format.named(); err != nil {
				return nil, err
			}
		} else if o.Format != "" {
			return nil, errors.New("a Format is for Batch: single events are those of Standard Webhooks")
		}
		return webhook.New(options)
	}}
}
