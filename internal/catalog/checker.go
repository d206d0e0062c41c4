package catalog

import (
	"fmt"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Checker checks texts with a JSON Schema that came from somewhere else than a file of the
// configuration, such as a plugin. Neither the schema nor the text can make it take long. It is
// not safe for concurrent use.
type Checker struct{ schema schema }

// textLoader has one schema only.
type textLoader struct{ doc any }

const textAddress = "mem:///schema"

// Load implements [jsonschema.URLLoader].
func (l textLoader) Load(address string) (any, error) {
	if address != textAddress {
		return nil, fmt.Errorf("%.200q is not in the schema; only what is in it can be referred to", address)
	}
	return l.doc, nil
}

// NewChecker compiles a schema. What it is called appears in errors.
func NewChecker(name string, text []byte) (*Checker, error) {
	if len(text) > maxSchemaBytes {
		return nil, fmt.Errorf("%s is larger than %d KiB", name, maxSchemaBytes>>10)
	}
	doc, err := parseSchema(name, text)
	if err != nil {
		return nil, err
	}
	v, err := newCheckerValidator(doc)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, schemaProblem(err))
	}
	c := &Checker{schema{validators: make(chan *validator, 1)}}
	c.schema.validators <- v
	return c, nil
}

// newCheckerValidator compiles a schema, which the library might not survive.
func newCheckerValidator(doc any) (v *validator, err error) {
	defer func() {
		if recover() != nil {
			err = fmt.Errorf("cannot be compiled")
		}
	}()
	return newValidator(textLoader{doc}, textAddress)
}

var _ jsonschema.URLLoader = textLoader{}

// Check returns what is wrong with a JSON text, "" for nothing. It names places in the text and
// what should be there, and not what is.
func (c *Checker) Check(text []byte) (problem string) {
	value, problem := decode(text)
	if problem != "" {
		return problem
	}
	return c.schema.check(value)
}
