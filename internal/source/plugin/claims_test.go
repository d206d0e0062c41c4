package plugin

import (
	"strings"
	"testing"

	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// described returns a plugin with fields; "name" is a text, and "name:number" a number.
func described(name string, id uint32, source string, fields ...string) *sourceplugin.Description {
	d := &sourceplugin.Description{Name: name, ID: id, EventSource: source, Capabilities: sourceplugin.Capabilities{Source: id != 0, Extract: len(fields) > 0}}
	for _, f := range fields {
		name, isNumber := strings.CutSuffix(f, ":number")
		one := sourceplugin.Field{Name: name, Type: sourceplugin.String}
		if isNumber {
			one.Type = sourceplugin.Uint64
		}
		d.Fields = append(d.Fields, one)
	}
	return d
}

func TestClaims(t *testing.T) {
	k8s := described("k8saudit", 1, "k8s_audit", "ka.verb", "ka.code:number")
	from := func(d *sourceplugin.Description, sources ...string) *sourceplugin.Description {
		d.ExtractSources = sources
		return d
	}
	withKey := described("k8saudit-eks", 9, "k8s_audit", "ka.verb")
	withKey.Fields[0].Arg.Key = true
	asList := described("k8saudit-eks", 9, "k8s_audit", "ka.verb")
	asList.Fields[0].List = true
	for name, tc := range map[string]struct {
		second *sourceplugin.Description
		want   string // "" if both can be there
	}{
		"the same one":                 {k8s, ""},
		"the same one, without fields": {described("k8saudit", 1, "k8s_audit"), ""},
		"another version of it":        {described("k8saudit", 1, "k8s_audit", "ka.verb:number"), `the field ka.verb of the plugin "k8saudit" has another type or argument than that of the plugin "k8saudit"`},
		"another one":                  {described("okta", 7, "okta", "okta.verb"), ""},
		"the id":                       {described("okta", 1, "okta"), `the plugin "okta" has the id 1, and so has the plugin "k8saudit": each plugin needs an id of its own`},
		"the name":                     {described("k8saudit", 5, "k8s_audit"), `there are two plugins "k8saudit": this one has the id 5 and the event source "k8s_audit", the other one the id 1 and the event source "k8s_audit"`},
		"the name, an extractor":       {described("k8saudit", 0, "", "x.y"), `there are two plugins "k8saudit": this one has the id 0 and the event source ""`},
		"the id and the name":          {described("k8saudit", 1, "other"), `the plugin "k8saudit" has the id 1, and so has`},
		"a variant":                    {described("k8saudit-eks", 9, "k8s_audit", "ka.verb", "ka.code:number", "ka.region"), ""},
		"a variant, another type":      {described("k8saudit-eks", 9, "k8s_audit", "ka.verb:number"), `the field ka.verb of the plugin "k8saudit-eks" has another type or argument than that of the plugin "k8saudit", for events of the same source`},
		"a variant, another argument":  {withKey, "has another type or argument"},
		"a variant, a list":            {asList, "has another type or argument"},
		"fields of other events":       {described("other", 9, "other", "ka.verb:number"), ""},
		"an extractor of all":          {described("all", 0, "", "ka.verb"), `the plugin "all" extracts the field ka.verb from events that the plugin "k8saudit" extracts it from, too`},
		"an extractor of these":        {from(described("some", 0, "", "ka.verb"), "x", "k8s_audit"), "extracts the field ka.verb"},
		"an extractor of others":       {from(described("some", 0, "", "ka.verb"), "x"), ""},
		"an extractor of its own":      {described("json", 0, "", "json.value"), ""},
		"of these and its own":         {from(described("okta", 7, "okta", "ka.verb"), "k8s_audit", "okta"), "extracts the field ka.verb"},
	} {
		t.Run(name, func(t *testing.T) {
			c := new(Claims)
			if problem := c.take("first", k8s); problem != "" {
				t.Fatal(problem)
			}
			got := c.take("second", tc.second)
			if tc.want == "" && got != "" || tc.want != "" && !(strings.Contains(got, tc.want) && strings.HasSuffix(got, `; that one is already the plugin of the source "first", so remove one of the two from plugins.sources`)) {
				t.Errorf("%q", got)
			}
			// The one that was first is never refused because of one that was.
			if problem := c.take("first", k8s); problem != "" {
				t.Errorf("started again: %q", problem)
			}
		})
	}
}

// What counts is what the plugin of a source is now, not what it was.
func TestClaimsOfAnotherPlugin(t *testing.T) {
	c := new(Claims)
	c.take("first", described("old", 1, "a", "a.b"))
	if problem := c.take("first", described("new", 2, "b")); problem != "" {
		t.Fatal(problem)
	}
	if problem := c.take("second", described("old", 1, "a", "a.b")); problem != "" {
		t.Error(problem)
	}
	if problem := c.take("first", described("other", 1, "c")); problem == "" {
		t.Error("the id was taken twice")
	}
}
