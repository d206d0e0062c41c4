package audit_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/tocsin-events/tocsin/audit"
)

// An audit trail in ten lines.
func Example() {
	dir, err := os.MkdirTemp("", "audit") // yours is for example /var/lib/shop
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	trail, err := audit.New(audit.Options{
		Service: "shop",
		Dir:     filepath.Join(dir, "queue"),
		Outputs: []audit.Output{audit.ToFile(filepath.Join(dir, "audit.jsonl"), audit.FileOptions{})},
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx := audit.WithActor(context.Background(), audit.Actor{ID: "u-17", Name: "Ada"})
	if err := trail.Log(ctx, audit.Event{Action: "delete", Target: audit.Target{Type: "order", ID: "4711"}}); err != nil {
		log.Fatal(err)
	}
	if err := trail.Close(ctx); err != nil {
		log.Print(err)
	}

	text, err := os.ReadFile(filepath.Join(dir, "audit.jsonl"))
	if err != nil {
		log.Fatal(err)
	}
	var e audit.Event
	if err := e.UnmarshalJSON(text); err != nil {
		log.Fatal(err)
	}
	fmt.Println(e.Sequence, e.Type(), e.Target.ID, e.Outcome, "by", e.Actor.Name)
	// Output: 1 shop/order/delete 4711 success by Ada
}

// printer is a sink of one's own.
type printer struct{}

func (printer) Send(_ context.Context, events []audit.Event) error {
	for _, e := range events {
		line := fmt.Sprintln(e.Type(), e.Target.ID, e.Outcome, e.Actor.ID, e.Actor.IP, e.Reason)
		fmt.Println(strings.Join(strings.Fields(line), " "))
	}
	return nil
}

// The middleware makes an event of each request; the handler adds what only it knows.
func ExampleMiddleware() {
	trail, err := audit.New(audit.Options{Service: "shop", Outputs: []audit.Output{audit.To("printer", printer{})}})
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("DELETE /orders/{id}", func(w http.ResponseWriter, r *http.Request) {
		event := audit.Current(r.Context())
		event.SetTarget(audit.Target{Type: "order", ID: r.PathValue("id")})
		if r.Header.Get("X-User") != "ada" {
			event.SetReason("orders are deleted by ada")
			w.WriteHeader(http.StatusForbidden)
		}
	})
	server := httptest.NewServer(audit.Middleware(trail, audit.MiddlewareOptions{
		Select:   func(r *http.Request) bool { return r.URL.Path != "/healthz" },
		Identify: func(r *http.Request) audit.Actor { return audit.Actor{ID: r.Header.Get("X-User")} },
		Proxies:  audit.Proxies{Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}},
	})(mux))
	for _, user := range []string{"ada", "bob"} {
		r, err := http.NewRequest("DELETE", server.URL+"/orders/4711", nil)
		if err != nil {
			log.Fatal(err)
		}
		r.Header.Set("X-User", user)
		r.Header.Set("X-Forwarded-For", "198.51.100.7")
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			log.Fatal(err)
		}
		response.Body.Close()
	}
	server.Close()
	http.DefaultClient.CloseIdleConnections()
	if err := trail.Close(context.Background()); err != nil {
		log.Print(err)
	}
	// Output:
	// shop/order/delete 4711 success ada 198.51.100.7
	// shop/order/delete 4711 denied bob 198.51.100.7 orders are deleted by ada
}

// Each sink gets what it selects.
func ExampleOutput_Only() {
	trail, err := audit.New(audit.Options{Service: "shop", Outputs: []audit.Output{
		audit.To("security", printer{}).Only(audit.Filter{Outcomes: []audit.Outcome{audit.Denied}}),
		audit.ToWriter("deletions", os.Stdout, audit.JSON).Only(audit.Filter{Pairs: []string{"coupon:delete"}}),
	}})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	for _, action := range []string{"create", "login"} {
		if err := trail.Log(ctx, audit.Event{Action: action, Target: audit.Target{Type: "session"}, Outcome: audit.Denied, Actor: audit.Actor{ID: "bob"}}); err != nil {
			log.Fatal(err)
		}
	}
	if err := trail.Close(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// shop/session/create denied bob
	// shop/session/login denied bob
}

// What a sink refuses becomes a dead letter, which can be sent again.
func ExampleLogger_DeadLetters() {
	broken := true
	sink := sinkFunc(func(events []audit.Event) error {
		if broken {
			return &audit.SendError{Err: fmt.Errorf("the column \"name\" is too short"), Refused: true}
		}
		return printer{}.Send(context.Background(), events)
	})
	trail, err := audit.New(audit.Options{Service: "shop", Outputs: []audit.Output{audit.To("database", sink)}})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	if err := trail.Log(ctx, audit.Event{Action: "create", Target: audit.Target{Type: "order", ID: "4711"}}); err != nil {
		log.Fatal(err)
	}
	if err := trail.Flush(ctx); err != nil {
		log.Fatal(err)
	}
	letters, err := trail.DeadLetters(ctx, "database", 0, 10)
	if err != nil {
		log.Fatal(err)
	}
	for _, l := range letters {
		fmt.Printf("dead letter %d: %s %s: %s\n", l.ID, l.Event.Type(), l.Cause, l.Reason)
	}
	broken = false
	n, err := trail.Redrive(ctx, "database")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(n, "is sent again")
	for {
		if letters, err := trail.DeadLetters(ctx, "database", 0, 1); err != nil || len(letters) == 0 {
			break
		}
	}
	if err := trail.Close(ctx); err != nil {
		log.Print(err)
	}
	// Output:
	// dead letter 1: shop/order/create refused: the column "name" is too short
	// 1 is sent again
	// shop/order/create 4711 success
}

type sinkFunc func([]audit.Event) error

func (f sinkFunc) Send(_ context.Context, events []audit.Event) error { return f(events) }

func ExampleDiff() {
	before := map[string]any{"name": "Ada", "roles": []string{"clerk"}, "phone": "123"}
	after := map[string]any{"name": "Ada", "roles": []string{"clerk", "admin"}, "email": "ada@example.com"}
	changes, err := audit.Diff(before, after)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("added", strings.Join(changes.Added, " "))
	fmt.Println("removed", strings.Join(changes.Removed, " "))
	// Output:
	// added /email /roles/1
	// removed /phone
}
