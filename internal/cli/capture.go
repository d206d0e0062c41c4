package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/internal/capture"
	"github.com/tocsin-events/tocsin/internal/falcoevent"
	"github.com/tocsin-events/tocsin/internal/scapevent"
)

const captureLong = `Read, write and replay capture files (.scap), which Falco and sysdig read and write too.

"info" and "cat" need nothing but the file. "write" puts a part of the journal of a hub into
a file, "replay" publishes the events of a file to a hub.

Events of plugins are in a capture as the plugin gave them. All others are events of the plugin
` + ourPluginID + `, "tocsin", with the CloudEvent as their payload. Events of system calls, which captures
of others have, are passed over and counted.`

const captureExample = `  # What is in a file, and its events.
  tocsin capture info falco.scap
  tocsin capture cat falco.scap

  # Its events into a hub, and those of the last hour out of one.
  tocsin capture replay falco.scap
  tocsin capture write --since 1h hour.scap`

// ourPluginID is falcoevent.PluginID.
const ourPluginID = "1416586099"

func newCapture(s *Streams) *cobra.Command {
	cmd := newGroup("capture", "Read, write and replay capture files", captureLong,
		newCaptureInfo(s), newCaptureCat(s), newCaptureWrite(s), newCaptureReplay(s))
	cmd.Example = captureExample
	return cmd
}

// captureInfo is what "capture info" prints.
type captureInfo struct {
	File       string          `json:"file"`
	Gzip       bool            `json:"gzip"`
	Bytes      int64           `json:"bytes"` // uncompressed
	Sections   int             `json:"sections"`
	Hostname   string          `json:"hostname,omitempty"`
	CPUs       uint32          `json:"cpus,omitempty"`
	Events     uint64          `json:"events"`
	Hidden     uint64          `json:"hidden"`
	Foreign    uint64          `json:"system_calls"`
	First      *time.Time      `json:"first,omitempty"`
	Last       *time.Time      `json:"last,omitempty"`
	Disordered uint64          `json:"out_of_order"`
	Plugins    []*pluginEvents `json:"plugins"`
	Others     uint64          `json:"events_of_further_plugins,omitempty"` // behind maxListedPlugins
	Error      string          `json:"error,omitempty"`
}

// pluginEvents are the events of one plugin in a capture.
type pluginEvents struct {
	ID          uint32 `json:"plugin_id"`
	Source      string `json:"event_source,omitempty"`
	Events      uint64 `json:"events"`
	Async       uint64 `json:"async"`
	DataBytes   uint64 `json:"data_bytes"`
	LargestData int    `json:"largest_data"`
}

func (p *pluginEvents) add(e *capture.Record) {
	p.Events++
	if e.Type() == scapevent.Async {
		p.Async++
	}
	n := len(e.Data())
	p.DataBytes += uint64(n)
	p.LargestData = max(p.LargestData, n)
}

// maxListedPlugins bounds the plugins of a capture that are told apart.
const maxListedPlugins = 10_000

func newCaptureInfo(s *Streams) *cobra.Command {
	var format answerFlag
	cmd := &cobra.Command{
		Use:     "info FILE",
		Short:   "Tell what is in a capture",
		Long:    "Read a capture and tell which events are in it. " + captureFileHelp,
		Example: "  tocsin capture info out.scap\n  tocsin capture info -o json out.scap.gz",
		Args:    exactArgs(1, "the FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, end, err := openCapture(cmd.Context(), s, args[0], nil)
			if err != nil {
				return err
			}
			defer end()
			info, err := readInfo(cmd.Context(), r)
			if cmd.Context().Err() != nil {
				return cmd.Context().Err() // a part tells nothing
			}
			info.File = args[0]
			failed := captureEnd(args[0], err)
			if failed != nil {
				info.Error = failed.Error()
			}
			if format == answerJSON {
				err = printJSON(s.Out, info)
			} else {
				err = info.print(s.Out)
			}
			if err != nil {
				return err
			}
			return failed
		},
	}
	format.register(cmd)
	return cmd
}

// readInfo reads a capture to its end, whose error it returns.
func readInfo(ctx context.Context, r *capture.Reader) (info captureInfo, err error) {
	plugins := make(map[uint32]*pluginEvents)
	var last time.Time
	for ctx.Err() == nil {
		var e *capture.Record
		if e, err = r.Next(); err != nil {
			break
		}
		id := e.PluginID()
		p := plugins[id]
		if p == nil && len(plugins) < maxListedPlugins {
			p = &pluginEvents{ID: id, Source: falcoevent.KnownSource(id)}
			plugins[id] = p
		}
		if p == nil {
			info.Others++
		} else {
			p.add(e)
		}
		t := e.Time()
		if t.Before(last) {
			info.Disordered++
		}
		last = t
		if info.First == nil || t.Before(*info.First) {
			info.First = &t
		}
		if info.Last == nil || t.After(*info.Last) {
			info.Last = &t
		}
	}
	stats, machine := r.Stats(), r.Machine()
	info.Gzip, info.Bytes, info.Sections = r.Gzip(), stats.Bytes, stats.Sections
	info.Hostname, info.CPUs = machine.Hostname, machine.CPUs
	info.Events, info.Hidden, info.Foreign = stats.Events, stats.Hidden, stats.Foreign
	info.Plugins = make([]*pluginEvents, 0, len(plugins))
	for _, p := range plugins {
		info.Plugins = append(info.Plugins, p)
	}
	slices.SortFunc(info.Plugins, func(a, b *pluginEvents) int { return int(int64(a.ID) - int64(b.ID)) })
	return info, err
}

func (i *captureInfo) print(w io.Writer) error {
	compressed := ""
	if i.Gzip {
		compressed = "gzip"
	}
	rows := []row{
		{"file", visible(i.File)}, {"compression", compressed}, {"bytes", strconv.FormatInt(i.Bytes, 10)},
		{"sections", strconv.Itoa(i.Sections)}, {"hostname", visible(i.Hostname)}, {"events", strconv.FormatUint(i.Events, 10)},
	}
	if i.First != nil {
		rows = append(rows, row{"first", i.First.Format(time.RFC3339Nano)}, row{"last", i.Last.Format(time.RFC3339Nano)})
	}
	for _, c := range [...]struct {
		name string
		n    uint64
	}{{"hidden", i.Hidden}, {"system calls", i.Foreign}, {"out of order", i.Disordered}} {
		if c.n > 0 {
			rows = append(rows, row{c.name, strconv.FormatUint(c.n, 10)})
		}
	}
	for _, p := range i.Plugins {
		text := fmt.Sprintf("%s, %d bytes of data, the largest %d", eventCount(p.Events), p.DataBytes, p.LargestData)
		if p.Async > 0 {
			text += fmt.Sprintf(", %d asynchronous", p.Async)
		}
		if p.Source != "" {
			text = p.Source + ": " + text
		}
		rows = append(rows, row{fmt.Sprintf("plugin %d", p.ID), text})
	}
	if i.Others > 0 {
		rows = append(rows, row{"other plugins", eventCount(i.Others)})
	}
	return printRows(w, rows...)
}

// sourceFlag are event sources by the id of a plugin: ID=SOURCE.
type sourceFlag map[uint32]string

func (f *sourceFlag) String() string { return "" }
func (f *sourceFlag) Type() string   { return "id=source" }
func (f *sourceFlag) Set(v string) error {
	id, source, ok := strings.Cut(v, "=")
	n, err := strconv.ParseUint(id, 10, 32)
	if !ok || err != nil || source == "" {
		return errors.New("must be ID=SOURCE, such as 999=my_source")
	}
	if *f == nil {
		*f = make(sourceFlag)
	}
	(*f)[uint32(n)] = source
	return nil
}
