package falcoplugin

import (
	"errors"
	"fmt"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/tocsin-events/tocsin/internal/catalog"
)

// configSchema is the JSON Schema of a plugin's config.
type configSchema struct{ schema *jsonschema.Schema }

const schemaURL = "mem:///config.json"

// noLoader refuses schemas that a schema refers to outside itself.
type noLoader struct{}

func (noLoader) Load(url string) (any, error) {
	return nil, fmt.Errorf("the schema refers to %q, which is not in it", url)
}

func compileSchema(text string) (*configSchema, error) {
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("the schema is no JSON: %w", err)
	}
	c := jsonschema.NewCompiler()
	c.UseLoader(noLoader{})
	if err := c.AddResource(schemaURL, doc); err != nil {
		return nil, fmt.Errorf("the schema: %w", err)
	}
	s, err := c.Compile(schemaURL)
	if err != nil {
		return nil, fmt.Errorf("the schema: %w", err)
	}
	return &configSchema{s}, nil
}

// check returns the config as the plugin gets it: an empty one is an empty object for a plugin
// that has a schema. The error names the keys that are wrong, without their values, which may
// be secrets.
func (s *configSchema) check(config string) (string, error) {
	if strings.IndexByte(config, 0) >= 0 {
		return "", errors.New("the config has a NUL byte, which a plugin cannot be given")
	}
	if s == nil {
		return config, nil
	}
	if strings.TrimSpace(config) == "" {
		config = "{}"
	}
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(config))
	if err != nil {
		return "", errors.New("the config must be JSON, since the plugin has a schema for it")
	}
	err = s.schema.Validate(doc)
	if failed, ok := errors.AsType[*jsonschema.ValidationError](err); ok {
		return "", fmt.Errorf("the config does not fit the schema of the plugin: %s", catalog.Explain(failed))
	}
	return config, err
}
