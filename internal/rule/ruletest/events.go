package ruletest

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/capture"
	"github.com/tocsin-events/tocsin/internal/falcoevent"
	"github.com/tocsin-events/tocsin/internal/rule"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit"
)

// input gives events to a player. n counts the repeats of a step from 1.
type input func(p *player, n int) error

// defaultSource is the name of the server whose audit log it is, if the test does not say it.
const defaultSource = "vault"

// inline makes an input of an event that stands in the test itself.
func (f *file) inline(what string, e entry, source string) (input, error) {
	if what != "audit" && source != "" {
		return nil, f.errorf(e.value.Line, "source is for audit entries; an event has its own")
	}
	if e.value.Kind == yaml.ScalarNode {
		line, err := f.text(e)
		if err != nil {
			return nil, err
		}
		switch what {
		case "audit":
			return func(p *player, n int) error { return p.auditLine([]byte(numbered(line, n)), source, true) }, nil
		case "cloudevent":
			return func(p *player, n int) error { return p.cloudEvent([]byte(numbered(line, n))) }, nil
		}
		return nil, f.errorf(e.value.Line, "%s must be a map", what)
	}
	if what == "event" {
		if _, err := f.entries(e.value, "an event", eventKeys...); err != nil {
			return nil, err
		}
	}
	var value any
	if err := e.value.Decode(&value); err != nil {
		return nil, f.errorf(e.value.Line, "%s: %s", what, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	// Once as JSON, to know that it can be.
	if _, err := json.Marshal(value); err != nil {
		return nil, f.errorf(e.value.Line, "%s: it cannot be JSON: %w", what, err)
	}
	members, ok := value.(map[string]any)
	if !ok {
		return nil, f.errorf(e.value.Line, "%s must be a map or a line of JSON", what)
	}
	make := map[string]func(*player, map[string]any, string) error{
		"audit": (*player).audit, "event": (*player).event, "cloudevent": (*player).cloudEventOf,
	}[what]
	return func(p *player, n int) error {
		return make(p, replaced(members, n).(map[string]any), source)
	}, nil
}

// numbered replaces {n} by the number of the repeat.
func numbered(text string, n int) string {
	return strings.ReplaceAll(text, "{n}", strconv.Itoa(n))
}

// replaced returns a copy of a value in whose texts {n} is replaced.
func replaced(v any, n int) any {
	switch v := v.(type) {
	case string:
		return numbered(v, n)
	case map[string]any:
		m := make(map[string]any, len(v))
		for k, x := range v {
			m[numbered(k, n)] = replaced(x, n)
		}
		return m
	case []any:
		list := make([]any, len(v))
		for i, x := range v {
			list[i] = replaced(x, n)
		}
		return list
	}
	return v
}

// audit makes the entries of a request: both that a server writes, unless the type says which.
func (p *player) audit(entry map[string]any, source string) error {
	request, _ := entry["request"].(map[string]any)
	if request == nil {
		return errors.New("an audit entry must have a request, with its path and operation")
	}
	if _, ok := request["id"]; !ok {
		p.requests++
		request["id"] = event.DeriveID("test request", strconv.Itoa(p.requests))
	}
	path, _ := request["path"].(string)
	if _, ok := request["mount_point"]; !ok {
		for _, m := range [...][4]string{{"sys/", "system", "secret"}, {"auth/token/", "token", "auth"}, {"identity/", "identity", "secret"}} {
			if strings.HasPrefix(path, m[0]) {
				request["mount_point"], request["mount_type"], request["mount_class"] = m[0], m[1], m[2]
			}
		}
	}
	if _, ok := entry["type"]; ok {
		return p.auditEntry(entry, source)
	}
	first := map[string]any{"type": "request", "request": request}
	for _, k := range []string{"time", "auth"} {
		if v, ok := entry[k]; ok {
			first[k] = v
		}
	}
	if err := p.auditEntry(first, source); err != nil {
		return err
	}
	entry["type"] = "response"
	return p.auditEntry(entry, source)
}

func (p *player) auditEntry(entry map[string]any, source string) error {
	if _, ok := entry["time"]; !ok {
		entry["time"] = p.time().Format(time.RFC3339Nano)
	}
	line, err := json.Marshal(entry)
	if err != nil {
		return err
	}
	return p.auditLine(line, source, true)
}

// auditLine takes a line of an audit log. What is not an entry is an event, too, but not in a test
// that writes it down.
func (p *player) auditLine(line []byte, source string, strict bool) error {
	if source == "" {
		source = defaultSource
	}
	t := p.translators[source]
	if t == nil {
		t = vaultaudit.NewTranslator(vaultaudit.TranslatorConfig{Name: source, Salt: []byte("test"), Now: p.time})
		p.translators[source] = t
	}
	for _, e := range t.Translate(nil, line) {
		if reason, _ := e.Metadata.Text("reason"); strict && e.Type == vaultaudit.TypeQuarantined {
			return fmt.Errorf("it is not an audit entry: %s", reason)
		}
		if err := p.add(e); err != nil {
			return err
		}
	}
	return nil
}

var eventKeys = []string{"type", "id", "time", "namespace", "source", "path", "metadata", "data", "datacontenttype", "dataschema", "note", "extensions"}

// event makes an event of its short form.
func (p *player) event(v map[string]any, _ string) error {
	e := &event.Event{Source: "test"}
	for key, to := range map[string]*string{
		"type": &e.Type, "id": &e.ID, "namespace": &e.Namespace, "source": &e.Source, "path": &e.Path,
		"datacontenttype": &e.DataContentType, "dataschema": &e.DataSchema, "note": &e.Note,
	} {
		if x, ok := v[key]; ok {
			text, ok := x.(string)
			if !ok {
				return fmt.Errorf("%s must be a text", key)
			}
			*to = text
		}
	}
	switch t := v["time"].(type) {
	case nil:
	case time.Time:
		e.Time = t
	case string:
		at, err := time.Parse(time.RFC3339Nano, t)
		if err != nil {
			return errors.New("time must be like 2026-01-07T10:00:00Z")
		}
		e.Time = at
	}
	for key, to := range map[string]*event.Fields{"metadata": &e.Metadata, "extensions": &e.Extensions} {
		x, ok := v[key]
		if !ok {
			continue
		}
		members, ok := x.(map[string]any)
		if !ok {
			return fmt.Errorf("%s must be a map", key)
		}
		for k, x := range members {
			if text, ok := x.(string); ok {
				to.Set(k, text)
				continue
			}
			raw, err := json.Marshal(x)
			if err != nil {
				return err
			}
			to.SetJSON(k, string(raw))
		}
	}
	if path, ok := e.Metadata.Text(event.MetadataPath); ok && e.Path == "" {
		e.Path = path
	}
	if data, ok := v["data"]; ok {
		if text, is := data.(string); is && e.DataContentType != "" && e.DataContentType != "application/json" {
			e.Data = []byte(text)
		} else {
			raw, err := json.Marshal(data)
			if err != nil {
				return err
			}
			e.Data = raw
			if e.DataContentType == "" {
				e.DataContentType = "application/json"
			}
		}
	}
	p.ofPlugin(e)
	return p.checked(e)
}

// ofPlugin completes an event of the type "falco/<event source>" with what those of the plugin have
// that is the source.
func (p *player) ofPlugin(e *event.Event) {
	source := rule.SourceOf(e)
	for _, d := range p.plugins {
		if !strings.HasPrefix(e.Type, falcoevent.TypePrefix) || !d.Capabilities.Source || d.EventSource != source {
			continue
		}
		o := falcoevent.NewOrigin("test", "", "", d)
		for f := range o.Metadata.All() {
			if _, ok := e.Metadata.Get(f.Key); !ok && (f.Key != event.MetadataPath || e.Path == "") {
				e.Metadata.Set(f.Key, f.Value)
			}
		}
		if e.Path == "" {
			e.Path = o.Path
		}
		return
	}
}

// checked takes an event that a test has made.
func (p *player) checked(e *event.Event) error {
	if e.Time.IsZero() {
		e.Time = p.time()
	}
	if e.ID == "" {
		p.ids++
		e.ID = event.DeriveID("test event", strconv.Itoa(p.ids))
	}
	e.Namespace = event.CanonicalNamespace(e.Namespace)
	if err := event.DefaultLimits.Check(e); err != nil {
		return err
	}
	return p.add(e)
}

func (p *player) cloudEventOf(v map[string]any, _ string) error {
	if _, ok := v["specversion"]; !ok {
		v["specversion"] = "1.0"
	}
	if _, ok := v["source"]; !ok {
		v["source"] = "test"
	}
	if _, ok := v["id"]; !ok {
		p.ids++
		v["id"] = event.DeriveID("test event", strconv.Itoa(p.ids))
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return p.cloudEvent(raw)
}

func (p *player) cloudEvent(raw []byte) error {
	e, err := event.ParseCloudEvent(raw)
	if err != nil {
		return err
	}
	return p.checked(e)
}

// fromFile makes an input of a file of events.
func (f *file) fromFile(what string, e entry, source string, grep *regexp.Regexp) (input, error) {
	name, err := f.text(e)
	if err != nil {
		return nil, err
	}
	name = f.beside(name)
	if source != "" && what == "cloudevents_file" {
		return nil, f.errorf(e.value.Line, "source is for audit entries and captures; an event has its own")
	}
	if grep != nil && what == "capture" {
		return nil, f.errorf(e.value.Line, "grep is for files of lines")
	}
	switch what {
	case "audit_file":
		return func(p *player, _ int) error {
			return lines(name, grep, func(line []byte) error { return p.auditLine(line, source, false) })
		}, nil
	case "cloudevents_file":
		return func(p *player, _ int) error { return lines(name, grep, p.cloudEvent) }, nil
	}
	return func(p *player, _ int) error { return p.capture(name, source) }, nil
}

// lines reads the lines of a file, which may be compressed. Each is memory of its own.
func lines(name string, grep *regexp.Regexp, each func([]byte) error) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	buffered := bufio.NewReader(file)
	var in io.Reader = buffered
	if magic, _ := buffered.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		if in, err = gzip.NewReader(buffered); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	limited := &io.LimitedReader{R: in, N: maxInput}
	sc := bufio.NewScanner(limited)
	sc.Buffer(make([]byte, 64<<10), 32<<20)
	n := 0
	for sc.Scan() {
		n++
		line := sc.Bytes()
		if len(bytes.TrimSpace(line)) == 0 || grep != nil && !grep.Match(line) {
			continue
		}
		if err := each(bytes.Clone(line)); err != nil {
			return fmt.Errorf("%s:%d: %w", name, n, err)
		}
	}
	switch {
	case sc.Err() != nil:
		return fmt.Errorf("%s:%d: %w", name, n+1, sc.Err())
	case limited.N <= 0:
		return fmt.Errorf("%s has more than %d bytes", name, int64(maxInput))
	}
	return nil
}

func (p *player) capture(name, source string) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	r, err := capture.NewReader(io.LimitReader(file, maxInput), capture.ReaderOptions{})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if source == "" {
		source = "capture"
	}
	replay := falcoevent.NewReplay(source, "", "", nil)
	replay.Plugins(p.plugins...)
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		e, err := replay.Event(rec.Event)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := p.add(e); err != nil {
			return err
		}
	}
}
