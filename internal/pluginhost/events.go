package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/publish"
	"github.com/tocsin-events/tocsin/internal/vaultplugin"
)

// publishPatience is how long an event waits for a journal that pushes back.
const publishPatience = 15 * time.Second

// errEscape is for paths in metadata that are not below the mount.
var errEscape = errors.New("leads out of the mount")

// sendEvent publishes an event of the plugin, and returns when it is on the disk.
//
// An event that is not as it should be is refused, counted and logged, and the plugin is
// not told: with Vault it would not be either, and many a plugin would then report a write
// as failed that was done. It is told when the journal does not take the event in time. An
// event does not go with the request that it is about: when ctx ends it is published all the
// same.
func (m *Mount) sendEvent(ctx context.Context, pluginVersion, eventType string, data *vaultplugin.EventData) error {
	e, err := m.event(pluginVersion, eventType, data)
	if err != nil {
		m.refuse("invalid", eventType, err)
		return nil
	}
	if data.ID == "" {
		m.events.completed.Inc()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishPatience)
	defer cancel()
	request := publish.Request{By: publish.Host, Edge: "plugin", Namespace: m.Record().Namespace, Events: []*event.Event{e}}
	patience := time.Now().Add(publishPatience)
	for {
		result, err := m.host.config.Intake.Publish(ctx, request)
		refused, isRefused := errors.AsType[*publish.RefusedError](err)
		pushback, isPushback := errors.AsType[*journal.PushbackError](err)
		switch {
		case err == nil && result.Duplicates > 0:
			m.events.repeated.Inc()
			return nil
		case err == nil:
			m.events.published.Inc()
			return nil
		case isRefused:
			m.refuse(string(refused.Refused[0].Code), eventType, refused)
			return nil
		case isPushback && time.Now().Add(pushback.RetryAfter).Before(patience):
			select {
			case <-time.After(pushback.RetryAfter):
				continue
			case <-ctx.Done():
				err = errors.Join(err, ctx.Err())
			}
		}
		m.events.failed.Inc()
		if skipped, ok := m.warned.Allow(); ok {
			m.host.log.Error("An event of a plugin could not be stored; the plugin was told.", "mount", m.Record().Full(), "type", clip(eventType), "error", err, "skipped", skipped)
		}
		return fmt.Errorf("the event could not be stored: %w", err)
	}
}

// refuse counts and logs an event that is not published.
func (m *Mount) refuse(reason, eventType string, err error) {
	m.events.refused(reason).Inc()
	if skipped, ok := m.warned.Allow(); ok {
		m.host.log.Warn("An event of a plugin was refused.", "mount", m.Record().Full(), "type", clip(eventType), "reason", err, "skipped", skipped)
	}
}

// clip shortens a text of a plugin for the log.
func clip(s string) string {
	const most = 128
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}

// event makes an event of what a plugin has sent: with the mount before the paths in its
// metadata, as Vault does it, and with a fresh id where it has none. data is not changed.
func (m *Mount) event(pluginVersion, eventType string, data *vaultplugin.EventData) (*event.Event, error) {
	r := m.Record()
	e := &event.Event{
		ID: data.ID, Type: eventType, Namespace: r.Namespace, Source: event.SourceVault(url.PathEscape(m.host.config.Node)),
		EntityIDs: data.EntityIDs, Note: data.Note, Plugin: r.info(pluginVersion), Time: time.Now(),
		Metadata: slices.Clone(data.Metadata),
	}
	if e.ID == "" {
		e.ID = event.NewID()
	}
	if e.Metadata == nil && data.Metadata != nil {
		e.Metadata = event.Fields{}
	}
	for _, key := range []string{event.MetadataPath, event.MetadataDataPath} {
		if _, there := e.Metadata.Get(key); !there {
			continue
		}
		value, _ := e.Metadata.Text(key) // what is no text counts as empty
		full, err := within(r.Relative(), value)
		if err != nil {
			return nil, fmt.Errorf("metadata %s: %q %w", key, clip(value), err)
		}
		e.Metadata.Set(key, full)
		if key == event.MetadataPath {
			e.Path = full
		}
	}
	return e, nil
}

// within returns a path of a plugin with that of its mount before it.
func within(mount, value string) (string, error) {
	full := path.Join(mount, value)
	if root := strings.TrimSuffix(mount, "/"); full != root && !strings.HasPrefix(full, root+"/") {
		return "", errEscape
	}
	return full, nil
}
