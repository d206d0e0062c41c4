package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// maxFieldsFile bounds files with the fields of a plugin.
const maxFieldsFile = 16 << 20

// readFieldsFile reads the fields of a plugin: FILE is what "plugin inspect" prints as JSON,
// SOURCE=FILE a list as native plugins give it.
func readFieldsFile(name string) (*sourceplugin.Description, error) {
	source, file, listed := strings.Cut(name, "=")
	if !listed {
		file = name
	}
	fail := func(err error) (*sourceplugin.Description, error) {
		return nil, fmt.Errorf("--fields %s: %w", visible(name), err)
	}
	f, err := os.Open(file)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFieldsFile+1))
	switch {
	case err != nil:
		return fail(err)
	case len(b) > maxFieldsFile:
		return fail(fmt.Errorf("it has more than %d bytes", maxFieldsFile))
	}
	var d *sourceplugin.Description
	if bytes.HasPrefix(bytes.TrimSpace(b), []byte("[")) {
		if source == "" || !listed {
			return fail(fmt.Errorf("a list of fields does not say which events have them; write SOURCE=%s", visible(file)))
		}
		d, err = listedFields(b)
		if err == nil {
			d.Name = strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
			d.EventSource, d.ExtractSources = source, []string{source}
		}
	} else {
		d, err = inspectedFields(b)
	}
	if err != nil {
		return fail(err)
	}
	return d, nil
}

// inspectedFields reads what "plugin inspect -o json" prints.
func inspectedFields(b []byte) (*sourceplugin.Description, error) {
	var p inspected
	if err := json.Unmarshal(b, &p); err != nil || p.Name == "" {
		return nil, errNoFields
	}
	d := &sourceplugin.Description{
		Name: p.Name, Version: p.Version, EventSource: p.EventSource, ID: p.ID, ExtractSources: p.Sources, AsyncNames: p.Async,
		Capabilities: sourceplugin.Capabilities{Source: p.EventSource != "", Extract: len(p.Fields) > 0, Async: len(p.Async) > 0},
	}
	for _, f := range p.Fields {
		t, ok := fieldTypes[f.Type]
		if !ok || f.Name == "" {
			return nil, fmt.Errorf("the field %q has no known type: %q", f.Name, f.Type)
		}
		field := sourceplugin.Field{Name: f.Name, Type: t, List: f.List, Display: f.Display, Description: f.Description, Properties: f.Properties, AddOutput: f.AddOutput}
		if f.Argument != nil {
			field.Arg = sourceplugin.ArgRule{Required: f.Argument.Required, Index: f.Argument.Index, Key: f.Argument.Key}
		}
		d.Fields = append(d.Fields, field)
	}
	return d, nil
}

// listedFields reads what the function get_fields of a native plugin returns.
func listedFields(b []byte) (*sourceplugin.Description, error) {
	var list []struct {
		Type, Name, Display, Desc string
		List                      bool `json:"isList"`
		Arg                       struct {
			Required bool `json:"isRequired"`
			Index    bool `json:"isIndex"`
			Key      bool `json:"isKey"`
		}
		AddOutput bool `json:"addOutput"`
	}
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, errNoFields
	}
	d := &sourceplugin.Description{Capabilities: sourceplugin.Capabilities{Source: true, Extract: true}}
	for _, f := range list {
		t, ok := fieldTypes[f.Type]
		if !ok || f.Name == "" {
			return nil, fmt.Errorf("the field %q has no known type: %q", f.Name, f.Type)
		}
		d.Fields = append(d.Fields, sourceplugin.Field{
			Name: f.Name, Type: t, List: f.List, Display: f.Display, Description: f.Desc, AddOutput: f.AddOutput,
			Arg: sourceplugin.ArgRule{Required: f.Arg.Required, Index: f.Arg.Index, Key: f.Arg.Key},
		})
	}
	return d, nil
}

// fieldTypes are the types of fields by their names.
var fieldTypes = map[string]sourceplugin.FieldType{
	"uint64": sourceplugin.Uint64, "string": sourceplugin.String, "reltime": sourceplugin.RelTime, "abstime": sourceplugin.AbsTime,
	"bool": sourceplugin.Bool, "ipaddr": sourceplugin.IPAddr, "ipnet": sourceplugin.IPNet,
}
