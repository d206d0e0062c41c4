package falcoevent

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// Replay makes events of a stream of events of plugins that somebody recorded. The same
// stream gives the same events, with the same ids, as often as it is replayed, and a longer one
// begins with them.
type Replay struct {
	name, namespace, path string
	sources               map[uint32]string
	plugins               map[uint32]*sourceplugin.Description
	origins               map[uint32]*Origin
	stream                string // the name of the stream: its first event
	number                uint64
}

// maxOrigins bounds the plugins that are remembered.
const maxOrigins = 1000

// NewReplay returns a Replay. The source of its events is "plugin://<name>"; namespace and path
// are as for [NewOrigin]. The sources are the event sources of plugins by their ids, beside those
// that [KnownSource] knows; of others it is "plugin-<id>".
func NewReplay(name, namespace, path string, sources map[uint32]string) *Replay {
	return &Replay{name: name, namespace: namespace, path: path, sources: sources, origins: make(map[uint32]*Origin)}
}

// Plugins says of which plugins the stream is: those that have an event source. It is called
// before the first event.
func (r *Replay) Plugins(list ...*sourceplugin.Description) {
	if r.plugins == nil {
		r.plugins = make(map[uint32]*sourceplugin.Description)
	}
	for _, d := range list {
		if d.EventSource != "" {
			r.plugins[d.ID] = d
		}
	}
}

// Event returns the event that the next of the stream is. It copies what it keeps. The error is
// that of an event of Tocsin's own plugin that is none of its.
func (r *Replay) Event(e scapevent.Event) (*event.Event, error) {
	if r.number++; r.number == 1 {
		sum := sha256.Sum256(e)
		r.stream = hex.EncodeToString(sum[:])
	}
	if e.PluginID() == PluginID && e.Type() == scapevent.Plugin {
		return Parse(e)
	}
	// With what the event is, so that two streams that begin alike have no id in common but for
	// what they have in common.
	sum := sha256.Sum256(e)
	out := new(event.Event)
	r.origin(e.PluginID()).Set(out, event.DeriveID("capture", r.stream, strconv.FormatUint(r.number, 10), string(sum[:])), append(scapevent.Event{}, e...))
	return out, nil
}

// EventSource returns the event source of the plugin with an id, and whether it is known; else
// it is what stands for it.
func (r *Replay) EventSource(id uint32) (source string, known bool) {
	if source = r.sources[id]; source != "" {
		return source, true
	}
	if d := r.plugins[id]; d != nil {
		return d.EventSource, true
	}
	if source = KnownSource(id); source != "" {
		return source, true
	}
	return "plugin-" + strconv.FormatUint(uint64(id), 10), false
}

func (r *Replay) origin(id uint32) *Origin {
	if o := r.origins[id]; o != nil {
		return o
	}
	source, _ := r.EventSource(id)
	about := &sourceplugin.Description{ID: id, EventSource: source}
	if d := r.plugins[id]; d != nil {
		about.Name, about.Version = d.Name, d.Version
	}
	o := NewOrigin(r.name, r.namespace, r.path, about)
	if len(r.origins) == maxOrigins {
		clear(r.origins)
	}
	r.origins[id] = o
	return o
}
