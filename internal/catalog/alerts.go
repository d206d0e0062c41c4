package catalog

import "github.com/tocsin-events/tocsin/internal/severity"

// alertKeys are the metadata of alerts, with examples of their values.
var alertKeys = []struct{ name, meaning, example string }{
	{"count", "how many events it is about", "1"},
	{"event_id", "id of the event that raised it", exampleID},
	{"event_path", "API path of that event", "secret/data/app/db"},
	{"event_source", "event source of the rule", "tocsin"},
	{"event_type", "type of that event", "audit/response"},
	{"key", "what the events of a window or a throttle have in common, as FIELD=VALUE", ""},
	{"mitre_tactics", "tactics of MITRE ATT&CK, separated by commas", ""},
	{"mitre_techniques", "techniques of MITRE ATT&CK, separated by commas", ""},
	{"output", "what the rule says", "what has happened"},
	{"path", "sys/rules/ and the slug of the rule; whoever may subscribe to it sees the alert", ""},
	{severity.MetadataPriority, "how bad it is", "Warning"},
	{"rule", "name of the rule", "Name of the rule"},
	{"suppressed", "how many alerts of the rule were held back since the last", ""},
	{"tags", "tags of the rule, separated by commas", ""},
}

// alertType describes the type of the alerts of a rule.
func alertType(name, description string) Type {
	t := Type{Name: name, Origin: Configured, Description: description, Metadata: []Key{}, ContentTypes: []string{"application/json"}}
	for _, k := range alertKeys {
		t.Metadata = append(t.Metadata, Key{Name: k.name, Meaning: k.meaning, Kinds: []string{kindNames[0]}})
	}
	return t
}

// alerts returns the types of alerts with their descriptions.
func (c *Catalog) alerts() map[string]string {
	if c.rules == nil {
		return nil
	}
	return c.rules()
}
