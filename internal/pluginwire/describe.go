package pluginwire

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/tocsin-events/tocsin/internal/sourceplugin"
	pb "github.com/tocsin-events/tocsin/proto/tocsin/plugin/v1"
)

// Bounds of a description.
const (
	maxFields = 10_000
	maxNames  = 10_000 // of event sources, of asynchronous events, of the properties of a field
	maxName   = 1 << 10
)

// describe makes a message of a description.
func describe(d *sourceplugin.Description) *pb.DescribeResponse {
	c := d.Capabilities
	fields := make([]*pb.Field, len(d.Fields))
	for i, f := range d.Fields {
		fields[i] = &pb.Field{
			Name: f.Name, Display: f.Display, Description: f.Description,
			Type: pb.FieldType(f.Type), List: f.List,
			ArgRequired: f.Arg.Required, ArgIndex: f.Arg.Index, ArgKey: f.Arg.Key,
			Properties: f.Properties, AddOutput: f.AddOutput,
		}
	}
	return &pb.DescribeResponse{
		Name: d.Name, Version: d.Version, Description: d.Description, Contact: d.Contact,
		Id: d.ID, EventSource: d.EventSource, RequiredApi: d.RequiredAPI,
		ConfigSchema: d.ConfigSchema, ParamsSchema: d.ParamsSchema,
		Capabilities: &pb.Capabilities{
			Source: c.Source, Extract: c.Extract, Async: c.Async, OpenParams: c.OpenParams, Strings: c.Strings,
			Progress: c.Progress, Metrics: c.Metrics, SetConfig: c.SetConfig, Resume: c.Resume,
		},
		ExtractSources: d.ExtractSources, AsyncNames: d.AsyncNames, Fields: fields,
	}
}

// description makes a description of a message. The error says what cannot be.
func description(m *pb.DescribeResponse) (*sourceplugin.Description, error) {
	c := m.GetCapabilities()
	d := &sourceplugin.Description{
		Name: m.GetName(), Version: m.GetVersion(), Description: m.GetDescription(), Contact: m.GetContact(),
		ID: m.GetId(), EventSource: m.GetEventSource(), RequiredAPI: m.GetRequiredApi(),
		ConfigSchema: m.GetConfigSchema(), ParamsSchema: m.GetParamsSchema(),
		Capabilities: sourceplugin.Capabilities{
			Source: c.GetSource(), Extract: c.GetExtract(), Async: c.GetAsync(), OpenParams: c.GetOpenParams(), Strings: c.GetStrings(),
			Progress: c.GetProgress(), Metrics: c.GetMetrics(), SetConfig: c.GetSetConfig(), Resume: c.GetResume(),
		},
		ExtractSources: m.GetExtractSources(), AsyncNames: m.GetAsyncNames(),
	}
	for _, name := range []struct{ what, text string }{{"name", d.Name}, {"version", d.Version}, {"event source", d.EventSource}} {
		if len(name.text) > maxName || hasControl(name.text) {
			return nil, fmt.Errorf("its %s has more than %d bytes, or control characters", name.what, maxName)
		}
	}
	switch {
	case d.Name == "":
		return nil, errors.New("it has no name")
	case (d.ID == 0) != (d.EventSource == ""):
		return nil, fmt.Errorf("its id is %d and its event source %q: both are needed, or neither", d.ID, d.EventSource)
	case d.EventSource == "syscall":
		return nil, errors.New("its event source is \"syscall\", which is reserved for events of system calls")
	case !d.Capabilities.Source && !d.Capabilities.Extract && !d.Capabilities.Async:
		return nil, errors.New("it says that it can neither open a stream nor extract fields (capabilities)")
	case len(d.ExtractSources) > maxNames || len(d.AsyncNames) > maxNames:
		return nil, fmt.Errorf("it names more than %d event sources or asynchronous events", maxNames)
	case len(m.GetFields()) > maxFields:
		return nil, fmt.Errorf("it has %d fields, and at most %d are allowed", len(m.GetFields()), maxFields)
	}
	names := make(map[string]bool, len(m.GetFields()))
	for i, f := range m.GetFields() {
		field := sourceplugin.Field{
			Name: f.GetName(), Display: f.GetDisplay(), Description: f.GetDescription(), Type: sourceplugin.FieldType(f.GetType()), List: f.GetList(),
			Arg:        sourceplugin.ArgRule{Required: f.GetArgRequired(), Index: f.GetArgIndex(), Key: f.GetArgKey()},
			Properties: f.GetProperties(), AddOutput: f.GetAddOutput(),
		}
		switch {
		case field.Name == "" || len(field.Name) > maxName || hasControl(field.Name):
			return nil, fmt.Errorf("its field number %d has no name, or one with control characters or more than %d bytes", i, maxName)
		case names[field.Name]:
			return nil, fmt.Errorf("it has the field %q twice", field.Name)
		case f.GetType() != pb.FieldType(field.Type) || width(field.Type) == unknownWidth:
			return nil, fmt.Errorf("its field %q has the type %d, which is none", field.Name, f.GetType())
		case field.Arg.Required && !field.Arg.Index && !field.Arg.Key:
			return nil, fmt.Errorf("its field %q needs an argument, but takes neither an index nor a key", field.Name)
		case len(field.Properties) > maxNames:
			return nil, fmt.Errorf("its field %q has more than %d properties", field.Name, maxNames)
		}
		names[field.Name] = true
		d.Fields = append(d.Fields, field)
	}
	return d, nil
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == utf8.RuneError })
}

// Lengths of values that are not a number of bytes.
const (
	anyWidth     = -1
	addressWidth = -2
	unknownWidth = -3
)

// width returns how long values of a type are.
func width(t sourceplugin.FieldType) int {
	switch t {
	case sourceplugin.Uint64, sourceplugin.RelTime, sourceplugin.AbsTime:
		return 8
	case sourceplugin.Bool:
		return 1
	case sourceplugin.String, sourceplugin.IPNet:
		return anyWidth
	case sourceplugin.IPAddr:
		return addressWidth
	}
	return unknownWidth
}

// checkValues returns what is wrong with extracted values.
func checkValues(d *sourceplugin.Description, v *sourceplugin.Values, events []sourceplugin.Event, fields []sourceplugin.FieldRequest) error {
	if len(v.Counts) != len(events)*len(fields) {
		return fmt.Errorf("%d counts for %d fields of %d events", len(v.Counts), len(fields), len(events))
	}
	if len(v.Offsets) != 0 && len(v.Offsets) != 2*len(v.Lengths) {
		return fmt.Errorf("%d offsets for %d elements", len(v.Offsets), len(v.Lengths))
	}
	at, bytes := 0, uint64(0)
	for i, n := range v.Counts {
		f := &d.Fields[fields[i%len(fields)].Index]
		if n > 1 && !f.List {
			return fmt.Errorf("the field %s, which is no list, has %d values", f.Name, n)
		}
		if uint64(n) > uint64(len(v.Lengths)-at) {
			return fmt.Errorf("more elements are counted than the %d that there are", len(v.Lengths))
		}
		w := width(f.Type)
		size := uint64(len(events[i/len(fields)].Event))
		for j := at; j < at+int(n); j++ {
			length := v.Lengths[j]
			if w >= 0 && length != uint32(w) || w == addressWidth && length != 4 && length != 16 {
				return fmt.Errorf("an element of the field %s has %d bytes", f.Name, length)
			}
			if len(v.Offsets) > 0 && uint64(v.Offsets[2*j])+uint64(v.Offsets[2*j+1]) > size {
				return fmt.Errorf("an element of the field %s lies beyond its event", f.Name)
			}
			bytes += uint64(length)
		}
		at += int(n)
	}
	if at != len(v.Lengths) || bytes != uint64(len(v.Bytes)) {
		return fmt.Errorf("%d elements with %d bytes are counted, and there are %d with %d", at, bytes, len(v.Lengths), len(v.Bytes))
	}
	return nil
}
