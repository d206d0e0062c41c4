package auditlog_test

import (
	"fmt"

	"github.com/tocsin-events/tocsin/internal/auditlog"
)

func ExampleParser() {
	var parser auditlog.Parser
	entry, err := parser.Parse([]byte(`@cee: {"time":"2026-11-21T01:49:30Z","type":"response","error":"permission denied","request":{"path":"secret/data/app/db"}}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(entry.Request.Path, entry.Outcome().Failed())
	// Output: secret/data/app/db true
}
