package load

import (
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// EngineVersion is the version of Falco's engine whose rules are understood.
const EngineVersion = "0.63.0"

type version [3]uint32

func (v version) String() string { return fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2]) }

func (v version) less(o version) bool {
	for i := range v {
		if v[i] != o[i] {
			return v[i] < o[i]
		}
	}
	return false
}

// fits says whether v may stand for what requires o.
func (v version) fits(o version) bool { return v[0] == o[0] && !v.less(o) }

// parseVersion reads x.y.z. What is behind it does not count.
func parseVersion(text string) (version, bool) {
	var v version
	for i := range v {
		if i > 0 {
			var ok bool
			if text, ok = strings.CutPrefix(text, "."); !ok {
				return v, false
			}
		}
		digits := len(text) - len(strings.TrimLeft(text, "0123456789"))
		n, err := strconv.ParseUint(text[:digits], 10, 32)
		if err != nil {
			return v, false
		}
		v[i], text = uint32(n), text[digits:]
	}
	return v, true
}

func (l *loader) readEngineVersion(n *yaml.Node, file *context) *failure {
	c := file.enter(n, inEngineVersion, "")
	v, f := scalarOf(n, "required_engine_version", false, c)
	if f != nil {
		return f
	}
	var required version
	if number, ok := parseUint(v.Value); ok {
		required = version{0, number, 0}
	} else if required, ok = parseVersion(v.Value); !ok {
		return &failure{code: ErrYAMLValidate, message: "'" + v.Value + "' is no version of an engine", hint: `write it as "x.y.z" or as a number`, context: c}
	}
	engine, _ := parseVersion(EngineVersion)
	if !engine.fits(required) {
		return &failure{code: ErrValidate, message: "the rules require the engine " + required.String() + ", and this is " + engine.String(), context: c}
	}
	if l.collector.engine.less(required) {
		l.collector.engine = required
	}
	return nil
}

func (l *loader) readPluginVersions(n *yaml.Node, file *context) *failure {
	v := value(n, "required_plugin_versions")
	c := file.enter(v, inPluginVersions, "")
	if !isSequence(v) {
		return &failure{code: ErrYAMLValidate, message: "required_plugin_versions must be a list", context: c}
	}
	if c.src.budget -= len(v.Content); c.src.budget < 0 {
		return &failure{code: ErrYAMLValidate, message: "the file has too much in it", context: c}
	}
	for _, p := range v.Content {
		if p = resolve(p); p == nil || !isMapping(p) {
			if p == nil {
				p = v
			}
			return &failure{code: ErrYAMLValidate, message: "a required plugin must be a map with name and version", context: c.enter(p, inPluginVersion, "")}
		}
		first, at, f := readPluginVersion(p, c, inPluginVersion)
		if f != nil {
			return f
		}
		r := pluginRequirement{context: at, alternatives: []pluginVersion{first}}
		if others := value(p, "alternatives"); others != nil {
			if !isSequence(others) {
				return &failure{code: ErrYAMLValidate, message: "alternatives must be a list", context: at}
			}
			if c.src.budget -= len(others.Content); c.src.budget < 0 {
				return &failure{code: ErrYAMLValidate, message: "the file has too much in it", context: at}
			}
			for _, o := range others.Content {
				if o = resolve(o); o == nil || !isMapping(o) {
					if o == nil {
						o = others
					}
					return &failure{code: ErrYAMLValidate, message: "an alternative must be a map with name and version", context: at.enter(o, inPluginAlternative, "")}
				}
				other, _, f := readPluginVersion(o, at, inPluginAlternative)
				if f != nil {
					return f
				}
				r.alternatives = append(r.alternatives, other)
			}
		}
		seen := map[string]bool{}
		for _, a := range r.alternatives {
			if _, ok := parseVersion(a.version); !ok {
				return &failure{code: ErrValidate, message: "'" + a.version + "' is no version of the plugin '" + a.name + "'", hint: `write it as "x.y.z"`, context: at}
			}
			if seen[a.name] {
				return &failure{code: ErrValidate, message: "the plugin '" + a.name + "' is there several times", context: at}
			}
			seen[a.name] = true
		}
		l.collector.plugins = append(l.collector.plugins, r)
	}
	return nil
}

func readPluginVersion(n *yaml.Node, parent *context, kind string) (pluginVersion, *context, *failure) {
	name, f := scalarOf(n, "name", false, parent.enter(n, kind, ""))
	if f != nil {
		return pluginVersion{}, nil, f
	}
	c := parent.enter(n, kind, name.Value)
	v, f := scalarOf(n, "version", false, c)
	if f != nil {
		return pluginVersion{}, nil, f
	}
	return pluginVersion{name.Value, v.Value}, c, nil
}

// checkPlugins looks whether the plugins that files require are there.
func (l *loader) checkPlugins() *failure {
	if l.options.AnyPlugins {
		return nil
	}
next:
	for _, r := range l.collector.plugins {
		names := make([]string, 0, len(r.alternatives))
		there := ""
		for _, a := range r.alternatives {
			required, _ := parseVersion(a.version)
			for _, p := range l.options.Plugins {
				if p.Name != a.name {
					continue
				}
				if v, ok := parseVersion(p.Version); ok && v.fits(required) {
					continue next
				}
				there = "; there is " + p.Name + " " + p.Version
			}
			names = append(names, a.name+" "+a.version)
		}
		return &failure{code: ErrValidate, message: "the rules require a plugin that is not there: " + strings.Join(names, " or "), hint: "it must have the same major version, and be as new" + there, context: r.context}
	}
	return nil
}
