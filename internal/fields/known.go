package fields

import (
	"errors"
	"fmt"
	"strings"

	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// ErrNotYet means that it cannot be told yet whether there is a field.
var ErrNotYet = errors.New("it is not known yet whether there is such a field")

// Known returns nil if for each of these fields, which [Registry.Check] has nothing against, a
// plugin has run that has it. The error wraps [ErrNotYet] and says what has not been started yet.
func (r *Registry) Known(names ...string) error {
	for _, name := range names {
		var silent []string
		known := false
		for _, e := range r.all() {
			d := e.describe()
			if d == nil {
				silent = append(silent, e.source.Name())
			} else if _, ok := request(d, name); ok {
				known = true
				break
			}
		}
		if !known {
			return fmt.Errorf("field %s: %w: the plugin of the source %s has not been started yet", name, ErrNotYet, strings.Join(silent, ", "))
		}
	}
	return nil
}

// Problem returns what is wrong with the fields, as far as that is known by now; nil: nothing.
func (u *Use) Problem() error {
	for _, name := range u.names {
		if err := u.registry.Check(name, nil); err != nil {
			return err
		}
	}
	return nil
}

// Plugins returns what is known of the plugins: what those say of themselves that have run, in the
// order in which they are asked, and the names of the sources whose plugin has not been started
// yet.
func (r *Registry) Plugins() (known []*sourceplugin.Description, silent []string) {
	for _, e := range r.all() {
		if d := e.describe(); d != nil {
			known = append(known, d)
		} else {
			silent = append(silent, e.source.Name())
		}
	}
	return known, silent
}
