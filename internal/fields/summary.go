package fields

import (
	"context"
	"slices"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/falcoevent"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// maxSummary bounds what a plugin says of an event.
const maxSummary = 64 << 10

// Summary returns what people read of an event of a plugin, as the plugin says it: the one that it
// came from, else one of its event source. Without ok there is no such plugin, or it does not
// answer; one that has failed is left alone for a moment.
func (r *Registry) Summary(ctx context.Context, e *event.Event) (text string, ok bool) {
	if !isPlugins(e.Type) || e.DataRef != "" && len(e.Data) == 0 {
		return "", false
	}
	source := eventSource(e.Type)
	all := r.all()
	if own := slices.IndexFunc(all, func(x *extractor) bool { return falcoevent.Source(x.source.Name()) == e.Source }); own > 0 {
		all = slices.Concat(all[own:own+1], all[:own], all[own+1:])
	}
	for _, x := range all {
		p, d, runs := x.look()
		if !runs || !d.Capabilities.Strings || d.EventSource != source || x.silent() {
			continue
		}
		raw, err := falcoevent.Append(nil, e)
		if err != nil || scapevent.Event(raw).PluginID() != d.ID {
			return "", false
		}
		ctx, cancel := context.WithTimeout(ctx, min(r.o.Timeout, time.Second))
		texts, err := p.Strings(ctx, []sourceplugin.Event{{Event: raw, Source: source}})
		cancel()
		if err != nil || len(texts) != 1 {
			x.hush()
			return "", false
		}
		return texts[0][:min(len(texts[0]), maxSummary)], true
	}
	return "", false
}

// silent says whether the plugin is left alone with questions for summaries.
func (e *extractor) silent() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return time.Now().Before(e.hushed)
}

// hush has the plugin left alone for a moment.
func (e *extractor) hush() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hushed = time.Now().Add(mostRest)
}
