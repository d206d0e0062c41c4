package vaultaudit_test

import (
	"context"
	"fmt"
	"strings"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit"
)

func ExampleEvents() {
	log := `{"time":"2026-11-21T06:00:00Z","type":"response","request":{"id":"6fd5b9ce-34cc-54ac-9c84-f0a2b9d3b7a1","operation":"update","mount_point":"secret/","mount_type":"kv","path":"secret/data/app"},"response":{"mount_type":"kv","data":{"created_time":"2026-11-21T06:00:00Z","version":3}}}`
	translator := vaultaudit.NewTranslator(vaultaudit.TranslatorConfig{Name: "prod", KVVersions: map[string]int{"secret/": 2}})
	_, err := vaultaudit.Events(context.Background(), strings.NewReader(log), translator, func(e *event.Event) error {
		path, _ := e.Metadata.Text(event.MetadataPath)
		fmt.Println(e.Type, path)
		return nil
	})
	fmt.Println(err)
	// Output:
	// audit/response sys/audit/prod
	// kv-v2/data-write secret/data/app
	// <nil>
}
