//go:build (linux || darwin) && (amd64 || arm64) && !tocsin_static

package falcoplugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/ebitengine/purego"

	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// Library is a library that is loaded and that says which plugin it is. It stays loaded until
// the process ends: a library of Go cannot be taken out of one.
type Library struct {
	path        string
	fn          functions
	description sourceplugin.Description
	schema      *configSchema
	asyncNames  map[string]bool
}

// functions are the addresses of the functions of a library, 0 for those that it lacks.
type functions struct {
	requiredAPI, name, description, contact, version, init, destroy, lastError uintptr
	schema, id, source, open, close, nextBatch                                 uintptr
	openParams, progress, eventToString                                        uintptr
	extractSources, extractTypes, fields, extract, parse                       uintptr
	asyncEvents, setAsyncHandler, setConfig, metrics, captureOpen, captureShut uintptr
}

// symbol is a function by its name, without the prefix that all of them have.
type symbol struct {
	name string
	at   *uintptr
	must bool
}

func (f *functions) symbols() []symbol {
	return []symbol{
		{"get_required_api_version", &f.requiredAPI, true},
		{"get_name", &f.name, true},
		{"get_description", &f.description, true},
		{"get_contact", &f.contact, true},
		{"get_version", &f.version, true},
		{"init", &f.init, true},
		{"destroy", &f.destroy, true},
		{"get_last_error", &f.lastError, true},
		{"get_init_schema", &f.schema, false},
		{"get_id", &f.id, false},
		{"get_event_source", &f.source, false},
		{"open", &f.open, false},
		{"close", &f.close, false},
		{"next_batch", &f.nextBatch, false},
		{"list_open_params", &f.openParams, false},
		{"get_progress", &f.progress, false},
		{"event_to_string", &f.eventToString, false},
		{"get_extract_event_sources", &f.extractSources, false},
		{"get_extract_event_types", &f.extractTypes, false},
		{"get_fields", &f.fields, false},
		{"extract_fields", &f.extract, false},
		{"parse_event", &f.parse, false},
		{"get_async_events", &f.asyncEvents, false},
		{"set_async_event_handler", &f.setAsyncHandler, false},
		{"set_config", &f.setConfig, false},
		{"get_metrics", &f.metrics, false},
		{"capture_open", &f.captureOpen, false},
		{"capture_close", &f.captureShut, false},
	}
}

const symbolPrefix = "plugin_"

// Load loads the library at an absolute path and asks it what it is. Nothing of it is
// initialised but what the library does while it is loaded. A library is code: it can do
// whatever the process can, and end it.
func Load(path string) (*Library, error) {
	if !filepath.IsAbs(path) {
		// The dynamic linker would look for a name without a slash in places of its own.
		return nil, fmt.Errorf("library %q: the path is not absolute", path)
	}
	if err := loadLibc(); err != nil {
		return nil, fmt.Errorf("the C library: %w", err)
	}
	if cutOff(path) {
		return nil, fmt.Errorf("load the library: %s: its end is missing; %s", path, damaged)
	}
	handle, err := dlopen(path)
	if err != nil {
		return nil, err
	}
	l := &Library{path: path}
	var missing []string
	for _, s := range l.fn.symbols() {
		if *s.at, err = purego.Dlsym(handle, symbolPrefix+s.name); err != nil && s.must {
			missing = append(missing, symbolPrefix+s.name)
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("library %s is no Falco plugin: it lacks %s, which every one has; give one that was built as a plugin, with these functions exported", path, strings.Join(missing, ", "))
	}
	if err := l.describe(); err != nil {
		return nil, fmt.Errorf("library %s: %w", path, err)
	}
	return l, nil
}

// dlopen loads a library with all that it needs, without giving its symbols to others.
func dlopen(path string) (uintptr, error) {
	// What went wrong is told to the thread that asked.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	handle, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err == nil {
		return handle, nil
	}
	if err.Error() == "" {
		err = fmt.Errorf("%s: the dynamic linker does not say why it cannot", path)
	}
	if why := explain(path); why != "" {
		return 0, fmt.Errorf("load the library: %w; %s", err, why)
	}
	return 0, fmt.Errorf("load the library: %w; a library needs all others that it names, and the C library that it was built for, glibc or musl", err)
}

// Describe returns what the plugin says of itself; it must not be changed.
func (l *Library) Describe() *sourceplugin.Description { return &l.description }

// Limits of what a library says of itself.
const (
	maxWord = 1 << 10
	maxText = 64 << 10 // for people
	maxJSON = 8 << 20
)

// ask calls a function that returns a text and takes nothing.
func ask(fn uintptr, name string, limit int) (string, error) {
	addr, _, _ := purego.SyscallN(fn)
	if !isAddress(addr) {
		return "", fmt.Errorf("%s%s returned NULL", symbolPrefix, name)
	}
	got, err := text(addr, limit)
	if err != nil {
		return "", fmt.Errorf("%s%s: %w", symbolPrefix, name, err)
	}
	return strings.ToValidUTF8(string(got), "\uFFFD"), nil
}

func (l *Library) describe() error {
	d := &l.description
	var err error
	// First what tells whether the rest can be called.
	if d.RequiredAPI, err = ask(l.fn.requiredAPI, "get_required_api_version", maxWord); err != nil {
		return err
	}
	if err := checkAPI(d.RequiredAPI); err != nil {
		return err
	}
	for _, q := range []struct {
		into  *string
		fn    uintptr
		name  string
		limit int
	}{
		{&d.Name, l.fn.name, "get_name", maxWord},
		{&d.Version, l.fn.version, "get_version", maxWord},
		{&d.Description, l.fn.description, "get_description", maxText},
		{&d.Contact, l.fn.contact, "get_contact", maxText},
	} {
		if *q.into, err = ask(q.fn, q.name, q.limit); err != nil {
			return err
		}
	}
	if d.Name == "" {
		return errors.New("plugin_get_name returned an empty name")
	}
	if err := checkPluginVersion(d.Version); err != nil {
		return err
	}
	if err := l.capabilities(); err != nil {
		return fmt.Errorf("plugin %s: %w", d.Name, err)
	}
	if err := l.details(); err != nil {
		return fmt.Errorf("plugin %s: %w", d.Name, err)
	}
	return nil
}

// capabilities sets what the plugin can do. What it has half of is an error that names the
// other half.
func (l *Library) capabilities() error {
	fn, d := &l.fn, &l.description
	for _, c := range []struct {
		name  string
		parts []symbol
		// lone are parts that may be there without the others.
		lone string
	}{
		{"event sourcing", []symbol{{"open", &fn.open, true}, {"close", &fn.close, true}, {"next_batch", &fn.nextBatch, true}}, ""},
		{"field extraction", []symbol{{"get_fields", &fn.fields, true}, {"extract_fields", &fn.extract, true}}, "get_fields"},
		{"asynchronous events", []symbol{{"get_async_events", &fn.asyncEvents, true}, {"set_async_event_handler", &fn.setAsyncHandler, true}}, "get_async_events"},
		{"capture listening", []symbol{{"capture_open", &fn.captureOpen, true}, {"capture_close", &fn.captureShut, true}}, "capture_close"},
		{"the name and id of an event source", []symbol{{"get_id", &fn.id, true}, {"get_event_source", &fn.source, true}}, ""},
	} {
		var has, lacks []string
		for _, p := range c.parts {
			if *p.at != 0 {
				has = append(has, symbolPrefix+p.name)
			} else {
				lacks = append(lacks, symbolPrefix+p.name)
			}
		}
		if len(has) == 0 || len(lacks) == 0 || len(has) == 1 && has[0] == symbolPrefix+c.lone {
			continue
		}
		return fmt.Errorf("it has half of %s: %s, but not %s", c.name, strings.Join(has, " and "), strings.Join(lacks, " and "))
	}
	sourcing := fn.open != 0
	if fn.id != 0 {
		id, _, _ := purego.SyscallN(fn.id)
		d.ID = uint32(id)
		var err error
		if d.EventSource, err = ask(fn.source, "get_event_source", maxWord); err != nil {
			return err
		}
	}
	switch {
	case d.ID == 0 && d.EventSource != "":
		return fmt.Errorf("it has the event source %q, but the id 0: it must have both or neither", d.EventSource)
	case d.ID != 0 && d.EventSource == "":
		return fmt.Errorf("it has the id %d, but no event source: it must have both or neither", d.ID)
	case d.EventSource == "syscall":
		return errors.New("its event source is \"syscall\", which is reserved")
	case sourcing && d.ID == 0:
		return errors.New("it gives events of system calls (it has no id and no event source), which Tocsin does not take in")
	}
	c := &d.Capabilities
	c.Source = sourcing
	c.Extract = fn.fields != 0 && fn.extract != 0
	c.Async = fn.asyncEvents != 0 && fn.setAsyncHandler != 0
	c.OpenParams = sourcing && fn.openParams != 0
	// Without a function of its own, the bytes of the event are shown.
	c.Strings = fn.eventToString != 0
	c.Progress = sourcing && fn.progress != 0
	c.Metrics = fn.metrics != 0
	c.SetConfig = fn.setConfig != 0
	if !c.Source && !c.Extract && !c.Async && fn.parse == 0 && fn.captureOpen == 0 {
		return errors.New("it can do nothing: it has the functions of no capability (for events: plugin_open, plugin_close and plugin_next_batch; for fields: plugin_get_fields and plugin_extract_fields)")
	}
	return nil
}

// details sets what is told as JSON.
func (l *Library) details() error {
	d := &l.description
	if l.fn.schema != 0 {
		kind := newMemory(8)
		defer kind.free()
		addr, _, _ := purego.SyscallN(l.fn.schema, kind.addr)
		schema, err := text(addr, maxJSON)
		if err != nil {
			return fmt.Errorf("plugin_get_init_schema: %w", err)
		}
		switch k := get32(kind.addr); {
		case k == schemaNone || len(schema) == 0:
		case k == schemaJSON:
			d.ConfigSchema = string(schema)
			if l.schema, err = compileSchema(d.ConfigSchema); err != nil {
				return fmt.Errorf("plugin_get_init_schema: %w", err)
			}
		default:
			return fmt.Errorf("plugin_get_init_schema: schema type %d is not known (0 is none, 1 is JSON)", k)
		}
	}
	if d.Capabilities.Extract {
		list, err := ask(l.fn.fields, "get_fields", maxJSON)
		if err != nil {
			return err
		}
		if d.Fields, err = parseFields(list); err != nil {
			return fmt.Errorf("plugin_get_fields: %w", err)
		}
		if d.ExtractSources, err = l.extractSources(); err != nil {
			return err
		}
	}
	if d.Capabilities.Async {
		list, err := ask(l.fn.asyncEvents, "get_async_events", maxJSON)
		if err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(list), &d.AsyncNames); err != nil {
			return fmt.Errorf("plugin_get_async_events: a list of names is expected: %w", err)
		}
		if len(d.AsyncNames) == 0 {
			return errors.New("plugin_get_async_events: the list of names is empty")
		}
		l.asyncNames = map[string]bool{}
		for _, n := range d.AsyncNames {
			l.asyncNames[n] = true
		}
	}
	return nil
}

// extractSources returns the event sources whose events the fields are of; none are all.
func (l *Library) extractSources() ([]string, error) {
	var sources []string
	if l.fn.extractSources != 0 {
		addr, _, _ := purego.SyscallN(l.fn.extractSources)
		list, err := text(addr, maxJSON)
		if err == nil && len(list) > 0 {
			err = json.Unmarshal(list, &sources)
		}
		if err != nil {
			return nil, fmt.Errorf("plugin_get_extract_event_sources: a list of names is expected: %w", err)
		}
	}
	if own := l.description.EventSource; l.description.Capabilities.Source {
		for _, s := range sources {
			if s == own {
				return sources, nil
			}
		}
		sources = append(sources, own)
	}
	return sources, nil
}
