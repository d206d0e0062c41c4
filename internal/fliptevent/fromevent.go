package fliptevent

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/event"
)

// FromEvent returns an event as one of Flipt. An event that came from Flipt is the original
// one; the error wraps [ErrNotAnEvent] if its payload is none any more. Any other event becomes one of
// version 0.2:
//
//   - Type and action are made of the event type: of "kv-v2/data-write" they are "kv-v2/data" and
//     "updated". If its last word is no verb, the action is that of the metadata "operation".
//   - The actor is made of the metadata "authentication", "auth_method" or "provider",
//     "remote_address", "display_name" and "email", and in audit entries of who they say it was.
//   - The payload is that of the event if it is JSON, or else an object of the metadata.
//   - The status is "denied" when the metadata has a status or outcome "denied", "refused"
//     or "failure", or an error, and in audit entries when they tell an error.
func FromEvent(ev *event.Event) (*Event, error) {
	if strings.HasPrefix(ev.Type, TypePrefix) && ev.Type != TypeQuarantined {
		return Decode(ev.Data)
	}
	noun, action := words(ev)
	e := &Event{
		Version:   Version2,
		Type:      noun,
		Action:    action,
		Timestamp: ev.Time.UTC().Format(time.RFC3339Nano),
		Status:    StatusSuccess,
	}
	actor := Actor{
		Authentication: firstText(ev, MetadataAuthentication, "auth_method", "provider"),
		IP:             firstText(ev, MetadataRemoteAddress, "ip"),
		Email:          firstText(ev, MetadataEmail),
		Name:           firstText(ev, MetadataDisplayName, "actor"),
	}
	switch firstText(ev, MetadataStatus, "outcome") {
	case StatusDenied, "refused", "failure":
		e.Status = StatusDenied
	}
	if firstText(ev, "error") != "" {
		e.Status = StatusDenied
	}
	if isJSON(ev) {
		e.Payload = onOneLine(ev.Data)
		if strings.HasPrefix(ev.Type, "audit/") {
			actor.audited(ev.Data, e)
		}
	} else {
		e.Payload = metadataJSON(ev)
	}
	if actor.Authentication != "" || actor.IP != "" || actor.Email != "" || actor.Name != "" {
		e.Actor = &actor
	}
	return e, nil
}

// verbs are the words with which event types end, and the actions that they mean.
var verbs = map[string]string{
	"create": "created", "created": "created", "add": "created", "added": "created", "new": "created",
	"write": "updated", "update": "updated", "updated": "updated", "patch": "updated", "put": "updated", "set": "updated",
	"enable": "updated", "disable": "updated", "tune": "updated", "rotate": "updated", "move": "updated", "undelete": "updated",
	"delete": "deleted", "deleted": "deleted", "destroy": "deleted", "remove": "deleted", "removed": "deleted", "revoke": "deleted",
	"read": "read", "list": "read", "get": "read",
}

// words returns type and action for an event.
func words(ev *event.Event) (noun, action string) {
	noun = ev.Type
	if i := strings.LastIndexAny(noun, "/-"); i > 0 {
		if action, ok := verbs[noun[i+1:]]; ok {
			return noun[:i], action
		}
	}
	operation := firstText(ev, event.MetadataOperation)
	if action, ok := verbs[operation]; ok {
		return noun, action
	}
	return noun, "read"
}

func firstText(ev *event.Event, keys ...string) string {
	for _, key := range keys {
		if s, _ := ev.Metadata.Text(key); s != "" {
			return s
		}
	}
	return ""
}

// audited takes over what an audit entry of Vault says.
func (a *Actor) audited(entry []byte, e *Event) {
	var said struct {
		Auth struct {
			DisplayName string `json:"display_name"`
			TokenType   string `json:"token_type"`
		} `json:"auth"`
		Request struct {
			RemoteAddress string `json:"remote_address"`
		} `json:"request"`
		Error string `json:"error"`
	}
	_ = json.Unmarshal(entry, &said) // as much as there is
	if a.Name == "" {
		a.Name = said.Auth.DisplayName
	}
	if a.IP == "" {
		a.IP = said.Request.RemoteAddress
	}
	if a.Authentication == "" {
		switch {
		case said.Auth.DisplayName == "" && said.Auth.TokenType == "":
			a.Authentication = "none"
		default:
			a.Authentication = "token"
		}
	}
	if said.Error != "" {
		e.Status = StatusDenied
	}
}

// isJSON reports whether the payload of an event is JSON.
func isJSON(ev *event.Event) bool {
	mediaType, _, _ := strings.Cut(ev.DataContentType, ";")
	mediaType = strings.ToLower(strings.TrimSpace(mediaType))
	if len(ev.Data) == 0 || mediaType != "" && mediaType != "application/json" && !strings.HasSuffix(mediaType, "+json") {
		return false
	}
	return json.Valid(ev.Data)
}

// metadataJSON returns metadata as an object; nil, which is null, when there is none.
func metadataJSON(ev *event.Event) []byte {
	if len(ev.Metadata) == 0 {
		return nil
	}
	var w writer
	for f := range ev.Metadata.All() {
		if f.JSON {
			w.raw(f.Key, []byte(f.Value))
		} else {
			w.text(f.Key, f.Value)
		}
	}
	return w.close()
}
