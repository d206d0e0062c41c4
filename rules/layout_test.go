package rules_test

import (
	"testing"

	"github.com/tocsin-events/tocsin/internal/rule/layout"
	"github.com/tocsin-events/tocsin/rules"
)

// What is built in is in the layout of "tocsin rules fmt".
func TestLayout(t *testing.T) {
	t.Parallel()
	for _, name := range rules.Names() {
		content, _ := rules.Content(name)
		formatted, err := layout.Format(content)
		if err != nil {
			t.Error(err)
		}
		if layout.Changed(content, formatted) {
			t.Errorf("%s is not in the canonical layout; run: tocsin rules fmt rules/", name)
		}
	}
}
