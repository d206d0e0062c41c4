package flipt_test

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/tocsin-events/tocsin/audit/flipt"
)

func Example() {
	ctx := context.Background()
	checker, err := flipt.NewChecker([]string{"*:created", "flag:deleted"})
	if err != nil {
		fmt.Println(err)
		return
	}
	file, err := flipt.NewLogSink(flipt.LogOptions{Output: os.Stdout, Encoding: flipt.EncodingJSON})
	if err != nil {
		fmt.Println(err)
		return
	}
	logger := flipt.NewLogger(checker, flipt.NewFanout([]flipt.Sink{quiet{file}}, flipt.FanoutOptions{}))
	defer logger.Shutdown(ctx)

	request := flipt.Request{Resource: flipt.ResourceFlag, Action: flipt.ActionCreate, Status: flipt.StatusSuccess}
	actor := &flipt.Actor{Authentication: "oidc", Email: "bob@example.com"}
	event := flipt.NewEvent(request, actor, &flipt.Flag{Key: "new-checkout", NamespaceKey: "default", Enabled: true})
	if err := logger.Log(ctx, event); err != nil {
		fmt.Println(err)
	}
	// Output:
	// flag created by bob@example.com: new-checkout
}

// quiet is a sink that prints what does not change from run to run.
type quiet struct{ flipt.Sink }

func (quiet) SendAudits(_ context.Context, events []flipt.Event) error {
	for _, e := range events {
		payload, err := e.PayloadToMap()
		if err != nil {
			return err
		}
		fmt.Println(e.Type, e.Action, "by", e.Metadata.Actor.Email+":", payload["key"])
	}
	return nil
}

func ExampleVocabulary() {
	shop := flipt.Vocabulary{Nouns: []string{"invoice", "order"}, Verbs: []string{"created", "paid"}}
	checker, err := shop.NewChecker([]string{"order:*", "invoice:paid"})
	fmt.Println(strings.Join(checker.Events(), " "), err)
	_, err = shop.NewChecker([]string{"flag:created"})
	fmt.Println(err)
	// Output:
	// invoice:paid order:created order:paid <nil>
	// invalid noun: flag
}
