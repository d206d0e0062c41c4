package api

import (
	"strings"

	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/token"
)

// maxCapabilityPaths bounds the paths of one question, because everybody may ask and
// each takes a hundred times its bytes.
const maxCapabilityPaths = 1000

func (a *API) capabilitiesSelf(c *call) (*reply, error) { return capabilitiesOf(c, c.id) }

func (a *API) capabilities(c *call) (*reply, error) {
	_, e, err := a.byToken(c)
	switch {
	case err != nil:
		return nil, err
	case e == nil:
		return nil, badRequest("%s", errorList("invalid token"))
	}
	return a.capabilitiesOfToken(c, e)
}

func (a *API) capabilitiesAccessor(c *call) (*reply, error) {
	e, err := a.byAccessor(c)
	if err != nil {
		return nil, err
	}
	return a.capabilitiesOfToken(c, e)
}

func (a *API) capabilitiesOfToken(c *call, e *token.Entry) (*reply, error) {
	id, err := a.authority.Identify(e)
	if err != nil {
		return nil, badRequest("%s", errorList("invalid token"))
	}
	return capabilitiesOf(c, id)
}

// capabilitiesOf answers for the paths in the fields "paths" or "path", each of which is a list
// or texts with commas. With one path they are also under "capabilities".
func capabilitiesOf(c *call, id access.Identity) (*reply, error) {
	in := c.reader()
	fields := in.texts("paths")
	if len(fields) == 0 {
		fields = in.texts("path")
	}
	if err := in.failed(); err != nil {
		return nil, err
	}
	var paths []string
	for _, field := range fields {
		for path := range strings.SplitSeq(field, ",") {
			if len(paths) == maxCapabilityPaths {
				return nil, badRequest("more than %d paths; ask for fewer at once", maxCapabilityPaths)
			}
			paths = append(paths, strings.TrimSpace(path))
		}
	}
	if len(paths) == 0 || len(paths) == 1 && paths[0] == "" {
		return nil, badRequest("no path is given; send \"paths\"")
	}
	data := make(map[string]any, len(paths)+1)
	for _, path := range paths {
		if path == "" {
			return nil, badRequest("one of the paths is empty")
		}
		data[path] = id.Capabilities(c.namespace + strings.TrimPrefix(path, "/")).Names()
	}
	if len(paths) == 1 {
		data["capabilities"] = data[paths[0]]
	}
	return &reply{data: data, flat: true}, nil
}
