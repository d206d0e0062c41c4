package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/capture"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/falcoevent"
	"github.com/tocsin-events/tocsin/internal/scapevent"
)

const captureWriteLong = `Write a part of the journal of a hub into a capture file: what was recorded since a time, and
until another one, of the given types. The command ends behind what the journal has, or with
--follow goes on until Ctrl-C.

TYPE selects events by their type as for "tocsin events subscribe", and may be repeated. The events
of plugins have types such as falco/k8s_audit. Without a TYPE all events are written that the
token may see: it needs read on sys/events/subscribe/TYPE ("*" if there are several), and subscribe on
the paths of the events.

The file is made with the first event, is complete after each second, and what is there after a
crash can be read. If there is no event, there is no file. A payload is written as the plugin
gave it, and the time to the nanosecond.

Exit codes: 0 everything is written, or what came before Ctrl-C is; 1 the hub cannot be reached or
refuses, or the file cannot be written; 2 wrong usage; 3 written, but retention had removed events,
or some were too large.`

const captureWriteExample = `  # The last hour of a plugin, for Falco and sysdig.
  tocsin capture write --since 1h k8s.scap 'falco/k8s_audit*'

  # A day of Vault's audit events, compressed.
  tocsin capture write --since 2026-11-26T00:00:00Z --until 2026-11-27T00:00:00Z --gzip vault.scap.gz 'audit/*'

  # From now on, until Ctrl-C.
  tocsin capture write --follow live.scap`

type captureWriteFlags struct {
	connectFlags
	format     answerFlag
	since      string
	until      string
	sources    []string
	namespaces []string
	filter     string
	gzip       bool
	force      bool
	follow     bool
	hostname   string
}

func newCaptureWrite(s *Streams) *cobra.Command {
	var f captureWriteFlags
	cmd := &cobra.Command{
		Use:     "write FILE [TYPE...]",
		Short:   "Write a part of the journal into a capture",
		Long:    captureWriteLong,
		Example: captureWriteExample,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef(cmd, "the FILE is missing")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			until, err := f.end(time.Now())
			if err != nil {
				return usagef(cmd, "--until: %w", err)
			}
			if f.since == "" && !f.follow {
				return usagef(cmd, "give --since (a duration, a time, or oldest), or --follow")
			}
			return f.run(cmd.Context(), s, args[0], args[1:], until)
		},
	}
	f.register(cmd)
	f.format.register(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.since, "since", "", "begin in the past: a `time` (RFC 3339), a duration such as 1h, a position, an event id, or oldest")
	flags.StringVar(&f.until, "until", "", "end in the past: a `time` (RFC 3339) or a duration such as 10m; what was recorded then or later is left out")
	flags.StringArrayVar(&f.sources, "source", nil, "`glob` of the sources of events, such as plugin://audit; repeatable")
	flags.StringArrayVar(&f.namespaces, "namespaces", nil, "`glob` of further namespaces, relative to the request's; repeatable")
	flags.StringVar(&f.filter, "filter", "", "boolean `expression` that events must satisfy")
	flags.BoolVar(&f.gzip, "gzip", false, "compress the file (default: if its name ends in .gz)")
	flags.BoolVar(&f.force, "force", false, "replace the file if it exists")
	flags.BoolVar(&f.follow, "follow", false, "go on with what happens, until Ctrl-C")
	flags.StringVar(&f.hostname, "hostname", "", "`name` of the machine in the file (default: that of this machine)")
	return cmd
}

// end returns the time that --until names.
func (f *captureWriteFlags) end(now time.Time) (time.Time, error) {
	if f.until == "" {
		return time.Time{}, nil
	}
	if d, err := config.ParseDuration(f.until); err == nil {
		return now.Add(-time.Duration(d)), nil
	}
	t, err := time.Parse(time.RFC3339Nano, f.until)
	if err != nil {
		return t, fmt.Errorf("%q is neither an RFC 3339 time such as 2006-01-02T15:04:05Z nor a duration", f.until)
	}
	return t, nil
}

// captureWritten is the answer of "capture write".
type captureWritten struct {
	File     string `json:"file,omitempty"` // none without an event
	Events   uint64 `json:"events"`
	TooLarge uint64 `json:"too_large"`
	Gaps     int    `json:"gaps"`
	Position string `json:"position,omitempty"` // of the last event: a --since to go on
}

// selection chooses from the events of one subscription.
type selection struct{ types, sources []event.Glob }

func newSelection(types, sources []string) (subscribe string, s selection) {
	subscribe = "*"
	if len(types) == 1 {
		subscribe = types[0]
	}
	for _, t := range types {
		s.types = append(s.types, event.CompileGlob(t))
	}
	for _, t := range sources {
		s.sources = append(s.sources, event.CompileGlob(t))
	}
	return subscribe, s
}

func (s *selection) has(e *event.Event) bool {
	return matchesOne(s.types, e.Type) && matchesOne(s.sources, e.Source)
}

// matchesOne reports whether one of the globs matches, or there is none.
func matchesOne(globs []event.Glob, text string) bool {
	for _, g := range globs {
		if g.Match(text) {
			return true
		}
	}
	return len(globs) == 0
}

func (f *captureWriteFlags) run(ctx context.Context, s *Streams, name string, types []string, until time.Time) (err error) {
	c, err := f.resolve()
	if err != nil {
		return err
	}
	w, err := createCapture(name, f.force, f.gzip, f.hostname)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	var answer captureWritten
	subscribe, selected := newSelection(types, f.sources)
	sub, err := client.Subscribe(ctx, subscribe, client.Options{
		Address: c.address, Token: c.token, Namespace: c.namespace, Namespaces: f.namespaces, Filter: f.filter,
		Since: sinceValue(f.since), NoFollow: !f.follow, Format: client.FormatCloudEvents,
		HTTPClient: &http.Client{Transport: c.transport},
		Notify: func(n client.Notice) {
			if n.Kind == client.Gap {
				answer.Gaps++
			}
			reportNotice(s.Err, n)
		},
	})
	if err != nil {
		return c.advise(err)
	}
	defer sub.Close()
	if f.follow && isTerminal(s.Err) {
		fmt.Fprintf(s.Err, "Writing events to %s; Ctrl-C ends it.\n", visible(name))
	}
	if err := f.copy(ctx, sub, w, &selected, until, &answer); err != nil {
		return c.advise(err)
	}
	if err := w.Sync(); err != nil {
		return err
	}
	return f.report(s.Out, name, w.Events(), &answer)
}

// createCapture makes the writer of a capture, compressed also if its name says so, with a
// hostname or that of this machine.
func createCapture(name string, replace, gzip bool, hostname string) (*capture.FileWriter, error) {
	if hostname == "" {
		hostname, _ = os.Hostname()
	}
	w, err := capture.Create(name, replace, capture.WriterOptions{
		Gzip:    gzip || strings.HasSuffix(name, ".gz"),
		Machine: &capture.Machine{Hostname: hostname, CPUs: uint32(runtime.NumCPU())},
	})
	if errors.Is(err, os.ErrExist) {
		return nil, &adviceError{err, "Give another name, or --force to replace it."}
	}
	if err != nil {
		return nil, &adviceError{fmt.Errorf("create the capture %s: %w", name, err), "Give a name in a directory that is there and that you may write to."}
	}
	return w, nil
}

// flushEvery is how often a file is completed while events come.
const flushEvery = time.Second

// copy writes what comes until the end.
func (f *captureWriteFlags) copy(ctx context.Context, sub *client.Subscription, w *capture.FileWriter, selected *selection, until time.Time, answer *captureWritten) error {
	ctx, cancel := context.WithCancel(ctx)
	messages := make(chan received, 256)
	var reading sync.WaitGroup
	reading.Go(func() { receive(ctx, sub, messages) })
	defer reading.Wait()
	defer cancel()
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	var buf []byte
	for {
		var m *client.Message
		select {
		case <-ctx.Done():
			return nil // what came is written
		case <-tick.C:
			if err := w.Flush(); err != nil {
				return err
			}
			continue
		case r := <-messages:
			switch {
			case errors.Is(r.err, io.EOF), r.err != nil && ctx.Err() != nil:
				return nil
			case r.err != nil:
				return r.err
			}
			m = r.message
		}
		e := m.Event
		if !until.IsZero() && !e.Recorded.Before(until) {
			return nil // what follows was recorded later
		}
		if !selected.has(e) {
			continue
		}
		e.Extensions.Delete(event.ExtensionSequence)
		if len(e.Extensions) == 0 {
			e.Extensions = nil
		}
		var err error
		if buf, err = falcoevent.Append(buf[:0], e); err == nil {
			err = w.Write(scapevent.Event(buf))
		}
		switch {
		case errors.Is(err, capture.ErrTooLarge):
			answer.TooLarge++
		case err != nil:
			return err
		}
		answer.Position = m.Position
	}
}

// received is what a subscription has returned.
type received struct {
	message *client.Message
	err     error
}

// receive hands over what the subscription returns, up to its first error.
func receive(ctx context.Context, sub *client.Subscription, messages chan<- received) {
	for {
		m, err := sub.Next(ctx)
		select {
		case messages <- received{m, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

func (f *captureWriteFlags) report(out io.Writer, name string, events uint64, answer *captureWritten) (err error) {
	if answer.Events = events; events > 0 {
		answer.File = name
	}
	switch {
	case f.format == answerJSON:
		err = printJSON(out, answer)
	case events == 0:
		_, err = fmt.Fprintln(out, "There was no event, so there is no file.")
	default:
		_, err = fmt.Fprintf(out, "Written to %s: %s.\n", visible(name), eventCount(events))
	}
	switch {
	case err != nil:
		return err
	case answer.TooLarge > 0:
		return &incompleteError{fmt.Sprintf("%s too large for a capture.", eventCount(answer.TooLarge))}
	case answer.Gaps > 0:
		return &incompleteError{"Events were missing: see above."}
	}
	return nil
}
