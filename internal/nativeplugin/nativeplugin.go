//go:build cgo && (linux || darwin) && (amd64 || arm64)

package nativeplugin

// #include "abi.h"
import "C"

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"github.com/tocsin-events/tocsin/internal/sourceplugin"
	"github.com/tocsin-events/tocsin/plugin"
)

// What plugin functions return.
const (
	Success      int32 = 0
	Failure      int32 = 1
	Timeout      int32 = -1
	EOF          int32 = 2
	NotSupported int32 = 3
)

// Options are those of package native.
type Options struct {
	API string
}

// Part is a group of functions that a library can have. It says what the plugin can do by
// having them.
type Part int

// The parts, each of a package below plugin/native.
const (
	Source Part = iota
	Extract
	Async
	SetConfig
	Progressing
	parts
)

var packages = [parts]string{"source", "extract", "async", "setconfig", "progress"}

// library is the plugin of this library. It is complete when the host asks for the first time, and
// then only read.
var library struct {
	parts   [parts]bool
	plugins []*plugin.Plugin // that were registered
	options Options

	about *sourceplugin.Description
	start func(ctx context.Context, config string) (sourceplugin.Plugin, error)
	err   error // why it cannot work
	api   [3]uint32
	texts struct{ api, name, version, description, contact, source, schema, fields, extractSources, asyncNames unsafe.Pointer }
	types unsafe.Pointer // of events that fields are extracted from, nil for the usual one
}

// loading completes the library.
var loading sync.Once

// Has says that the library has the functions of a part. It is for package variables.
func Has(p Part) bool {
	library.parts[p] = true
	return true
}

// Register makes p the plugin of the library, while that is loaded.
func Register(p *plugin.Plugin, o Options) {
	library.plugins, library.options = append(library.plugins, p), o
}

var versionForm = regexp.MustCompile(`^\d{1,9}\.\d{1,9}\.\d{1,9}([-+][0-9A-Za-z.+-]+)?$`)

// load completes the library. If there is no plugin that can be used, it is one that tells why when
// it is initialised: else the host would only say that something is missing.
func load() {
	l := &library
	switch len(l.plugins) {
	case 0:
		l.err = errors.New("no plugin was registered: call native.Register in an init function of the program")
	case 1:
		l.about, l.start, l.err = l.plugins[0].Host()
	default:
		l.err = errors.New("several plugins were registered in one library: call native.Register once")
	}
	if l.err != nil {
		l.about = &sourceplugin.Description{
			Name: "unusable", Version: "0.0.0", Description: "a plugin that cannot be used", ID: 999, EventSource: "unusable",
			Fields:     []sourceplugin.Field{{Name: "unusable.field", Type: sourceplugin.String, Description: "Nothing"}},
			AsyncNames: []string{"unusable"},
		}
	} else {
		l.err = fit()
	}
	api := cmp.Or(l.options.API, lowestAPI(&l.about.Capabilities))
	var err error
	if l.api, err = parseAPI(api); err != nil {
		l.err, api = errors.Join(l.err, err), "3.0.0"
	}
	l.texts.api = forever(api)
	describe()
	logTo()
	if l.err != nil {
		fmt.Fprintf(os.Stderr, "Error: the native plugin %s cannot work: %v\n", l.about.Name, l.err)
	}
}

// fit says what of the plugin does not fit the library.
func fit() (err error) {
	l := &library
	can := &l.about.Capabilities
	for part, declared := range [parts]bool{can.Source, can.Extract, can.Async, can.SetConfig, can.Progress} {
		switch has := l.parts[part]; {
		case declared && !has:
			err = errors.Join(err, fmt.Errorf("the program does not import plugin/native/%s, which the plugin needs by what it declares", packages[part]))
		case !declared && has:
			err = errors.Join(err, fmt.Errorf("the program imports plugin/native/%s, which is for what the plugin does not declare", packages[part]))
		}
	}
	if !versionForm.MatchString(l.about.Version) {
		err = errors.Join(err, fmt.Errorf("Info.Version is %q; native plugins must have MAJOR.MINOR.PATCH", l.about.Version))
	}
	return err
}

// lowestAPI is the version of the API that has all that the plugin declares.
func lowestAPI(can *sourceplugin.Capabilities) string {
	switch {
	case can.Metrics:
		return "3.6.0"
	case can.SetConfig:
		return "3.4.0"
	}
	return "3.0.0"
}

func parseAPI(text string) (v [3]uint32, err error) {
	numbers := strings.Split(text, ".")
	if len(numbers) == len(v) {
		for i, n := range numbers {
			u, e := strconv.ParseUint(n, 10, 32)
			v[i], err = uint32(u), errors.Join(err, e)
		}
	}
	if len(numbers) != len(v) || err != nil || v[0] != 3 {
		return [3]uint32{3, 0, 0}, fmt.Errorf("Options.API is %q; it must be a version 3.x.y of the plugin API", text)
	}
	return v, nil
}

// speaks says whether every host that loads the library has what came with version 3.minor.
func speaks(minor uint32) bool { return library.api[1] >= minor }

// field is a field in JSON.
type field struct {
	Name       string   `json:"name"`
	Type       string   `json:"type"`
	List       bool     `json:"isList,omitempty"`
	Arg        *arg     `json:"arg,omitempty"`
	Display    string   `json:"display,omitempty"`
	Desc       string   `json:"desc"`
	Output     bool     `json:"addOutput,omitempty"`
	Properties []string `json:"properties,omitempty"`
}

type arg struct {
	Required bool `json:"isRequired,omitempty"`
	Index    bool `json:"isIndex,omitempty"`
	Key      bool `json:"isKey,omitempty"`
}

// describe makes the texts that the plugin says of itself.
func describe() {
	d, t := library.about, &library.texts
	t.name, t.version, t.source = forever(d.Name), forever(d.Version), forever(d.EventSource)
	t.description, t.contact = forever(d.Description), forever(d.Contact)
	if d.ConfigSchema != "" {
		t.schema = forever(d.ConfigSchema)
	}
	fields := []field{}
	for _, f := range d.Fields {
		own := field{
			Name: f.Name, Type: plugin.FieldType(f.Type).String(), List: f.List, Display: f.Display, Desc: f.Description,
			Output: f.AddOutput, Properties: f.Properties,
		}
		if f.Arg != (sourceplugin.ArgRule{}) {
			own.Arg = &arg{f.Arg.Required, f.Arg.Index, f.Arg.Key}
		}
		fields = append(fields, own)
	}
	t.fields = foreverJSON(fields)
	t.extractSources = foreverJSON(append([]string{}, d.ExtractSources...))
	t.asyncNames = foreverJSON(append([]string{}, d.AsyncNames...))
	if len(d.AsyncNames) > 0 {
		library.types = C.malloc(4)
		copy(unsafe.Slice((*uint16)(library.types), 2), []uint16{322, 402})
	}
}

func foreverJSON(v any) unsafe.Pointer {
	b, err := json.Marshal(v)
	if err != nil { // there is no such value
		panic(err)
	}
	return forever(string(b))
}

// Text is a text of the library that is valid for ever.
type Text int

// The texts.
const (
	RequiredAPI Text = iota
	Name
	Version
	Description
	Contact
	EventSource
	Fields
	ExtractSources
	AsyncNames
)

// TextOf returns a text.
func TextOf(t Text) unsafe.Pointer {
	loading.Do(load)
	all := &library.texts
	return [...]unsafe.Pointer{all.api, all.name, all.version, all.description, all.contact, all.source, all.fields, all.extractSources, all.asyncNames}[t]
}

// ID is plugin_get_id.
func ID() uint32 {
	loading.Do(load)
	return library.about.ID
}

// InitSchema is plugin_get_init_schema: 1 is JSON Schema, 0 none.
func InitSchema() (schema unsafe.Pointer, kind int32) {
	loading.Do(load)
	if library.texts.schema == nil {
		return nil, 0
	}
	return library.texts.schema, 1
}

// ExtractTypes is plugin_get_extract_event_types.
func ExtractTypes() (types unsafe.Pointer, count uint32) {
	loading.Do(load)
	if library.types == nil {
		return nil, 0 // those of plugins
	}
	return library.types, 2
}

// guard calls what the host asks for. A panic, also of our own, is an error.
func guard(what string, call func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			logger().Error("The plugin has panicked.", "in", what, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
			err = fmt.Errorf("panic in %s: %v", what, r)
		}
	}()
	return call()
}
