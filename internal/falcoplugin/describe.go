package falcoplugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

var fieldTypes = map[string]sourceplugin.FieldType{
	"uint64":  sourceplugin.Uint64,
	"string":  sourceplugin.String,
	"reltime": sourceplugin.RelTime,
	"abstime": sourceplugin.AbsTime,
	"bool":    sourceplugin.Bool,
	"ipaddr":  sourceplugin.IPAddr,
	"ipnet":   sourceplugin.IPNet,
}

// maxFields is the most fields that a plugin may have.
const maxFields = 1 << 14

// parseFields reads what plugin_get_fields returns.
func parseFields(text string) ([]sourceplugin.Field, error) {
	var list []struct {
		Name       string   `json:"name"`
		Type       string   `json:"type"`
		Desc       string   `json:"desc"`
		Display    string   `json:"display"`
		IsList     bool     `json:"isList"`
		AddOutput  bool     `json:"addOutput"`
		Properties []string `json:"properties"`
		Arg        struct {
			IsRequired bool `json:"isRequired"`
			IsIndex    bool `json:"isIndex"`
			IsKey      bool `json:"isKey"`
		} `json:"arg"`
	}
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, fmt.Errorf("a list of fields is expected: %w", err)
	}
	if len(list) == 0 {
		return nil, errors.New("the list of fields is empty")
	}
	if len(list) > maxFields {
		return nil, fmt.Errorf("%d fields are more than %d", len(list), maxFields)
	}
	fields := make([]sourceplugin.Field, len(list))
	seen := make(map[string]bool, len(list))
	for i, f := range list {
		switch {
		case f.Name == "":
			return nil, fmt.Errorf("field %d has no name", i)
		case seen[f.Name]:
			return nil, fmt.Errorf("there are two fields %q", f.Name)
		case f.Desc == "":
			return nil, fmt.Errorf("field %q has no desc", f.Name)
		case fieldTypes[f.Type] == 0:
			return nil, fmt.Errorf("field %q has the unknown type %q", f.Name, f.Type)
		case f.Arg.IsRequired && !f.Arg.IsIndex && !f.Arg.IsKey:
			return nil, fmt.Errorf("field %q requires an argument, but takes neither an index nor a key", f.Name)
		}
		seen[f.Name] = true
		fields[i] = sourceplugin.Field{
			Name: f.Name, Display: f.Display, Description: f.Desc,
			Type: fieldTypes[f.Type], List: f.IsList,
			Arg:        sourceplugin.ArgRule{Required: f.Arg.IsRequired, Index: f.Arg.IsIndex, Key: f.Arg.IsKey},
			Properties: f.Properties, AddOutput: f.AddOutput,
		}
	}
	return fields, nil
}

// maxParams is the most params that a plugin may list.
const maxParams = 1 << 14

// parseOpenParams reads what plugin_list_open_params returns.
func parseOpenParams(text []byte) ([]sourceplugin.OpenParam, error) {
	var list []struct {
		Value     string `json:"value"`
		Desc      string `json:"desc"`
		Separator string `json:"separator"`
	}
	if len(text) == 0 {
		return nil, nil
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("a list of params is expected: %w", err)
	}
	if len(list) > maxParams {
		return nil, fmt.Errorf("%d params are more than %d", len(list), maxParams)
	}
	params := make([]sourceplugin.OpenParam, len(list))
	for i, p := range list {
		switch {
		case p.Value == "":
			return nil, fmt.Errorf("param %d has no value", i)
		case strings.ContainsRune(p.Value, 0):
			return nil, fmt.Errorf("param %d has a NUL byte, which a stream cannot be opened with", i)
		}
		params[i] = sourceplugin.OpenParam{Value: p.Value, Description: p.Desc, Separator: p.Separator}
	}
	return params, nil
}
