package eventfields

import (
	"testing"

	"github.com/tocsin-events/tocsin/internal/fieldtext"
	"github.com/tocsin-events/tocsin/internal/rule/field"
)

// add asks for a field that is written as NAME or NAME[ARG].
func add(t testing.TB, q *field.Requests, text string) {
	t.Helper()
	name, arg, present, err := fieldtext.Split(text)
	if err == nil {
		_, err = q.Add(name, arg, present)
	}
	if err != nil {
		t.Fatal(err)
	}
}
