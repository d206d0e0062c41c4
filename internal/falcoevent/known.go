package falcoevent

// known are the ids of plugins that Falco's registry gives to those of the Falco project, with
// their event sources.
var known = map[uint32]string{
	1: "k8s_audit", 2: "aws_cloudtrail", 3: "dummy", 4: "dummy_c", 7: "okta", 8: "github",
	12: "gcp_auditlog", 18: "kafka", 24: "collector",
	PluginID: EventSource,
}

// KnownSource returns the event source of the plugin with an id, "" if it is not known.
func KnownSource(id uint32) string { return known[id] }
