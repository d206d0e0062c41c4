package derivation_test

import (
	"fmt"

	"github.com/tocsin-events/tocsin/internal/auditlog"
	"github.com/tocsin-events/tocsin/internal/derivation"
)

func Example() {
	line := `{"time":"2026-11-21T01:49:30.738683Z","type":"response","request":{"id":"701a52e5-5253-6f97-ca0d-caea179647c3",` +
		`"operation":"update","mount_type":"kv","mount_point":"secret/","path":"secret/data/app/db"},"response":{"data":{"version":2}}}`
	var parser auditlog.Parser
	entry, err := parser.Parse([]byte(line))
	if err != nil {
		fmt.Println(err)
		return
	}
	deriver := derivation.New(derivation.Options{Source: "vault://main"})
	for _, e := range deriver.Apply(entry) {
		version, _ := e.Metadata.Text("current_version")
		fmt.Println(e.Type, e.Path, version)
	}
	// Output: kv-v2/data-write secret/data/app/db 2
}
