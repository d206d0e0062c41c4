package api

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/grpcapi"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/leak"
	"github.com/tocsin-events/tocsin/internal/publish"
	tocsinv1 "github.com/tocsin-events/tocsin/proto/tocsin/v1"
)

// TestEdgesAgree sends the same events over HTTP and gRPC: the one refuses what the other
// does, for the same reason.
func TestEdgesAgree(t *testing.T) {
	n := startNode(t, func(o *Options) {
		secrets, err := leak.New(leak.Options{})
		if err != nil {
			t.Fatal(err)
		}
		o.Intake = publish.New(publish.Options{Journal: o.Positions.(*journal.Journal), Secrets: secrets, Catalog: warner{}})
		o.GRPC = grpcapi.New(grpcapi.Options{Intake: o.Intake, Logger: o.Logger})
		calls := o.GRPC
		t.Cleanup(func() { _ = calls.Shutdown(context.Background()) })
	})
	n.putPolicy("", "shop", `path "ns1/sys/events/publish/shop/*" { capabilities = ["create"] }
		path "ns1/sub/sys/events/publish/shop/*" { capabilities = ["create"] }`)
	token := n.newToken(`{"policies":["shop"]}`)
	c := tocsinv1.NewPublisherClient(n.dial())
	long := strings.Repeat("x", 1<<20)
	deep := strings.Repeat("[", 101) + strings.Repeat("]", 101)
	for name, tt := range map[string]struct {
		members string // of the JSON, beside id, source and type; they replace these
		change  func(e *tocsinv1.Event)
		want    string // code; empty: accepted
	}{
		"good":                     {``, func(*tocsinv1.Event) {}, ""},
		"namespace below":          {`"namespace":"ns1/sub/"`, func(e *tocsinv1.Event) { e.Namespace = "ns1/sub/" }, ""},
		"namespace beside":         {`"namespace":"ns2/"`, func(e *tocsinv1.Event) { e.Namespace = "ns2/" }, "denied"},
		"namespace that begins so": {`"namespace":"ns10/"`, func(e *tocsinv1.Event) { e.Namespace = "ns10/" }, "denied"},
		"namespace up":             {`"namespace":"ns1/../ns2/"`, func(e *tocsinv1.Event) { e.Namespace = "ns1/../ns2/" }, "invalid"},
		"namespace in the API":     {`"namespace":"ns1/sys/events/publish/shop/"`, func(e *tocsinv1.Event) { e.Namespace = "ns1/sys/events/publish/shop/" }, "invalid"},
		"no source":                {`"source":""`, func(e *tocsinv1.Event) { e.Source = "" }, "invalid"},
		"no type":                  {`"type":""`, func(e *tocsinv1.Event) { e.Type = "" }, "invalid"},
		"another type":             {`"type":"bank/x"`, func(e *tocsinv1.Event) { e.Type = "bank/x" }, "denied"},
		"type with a space":        {`"type":"shop/a b"`, func(e *tocsinv1.Event) { e.Type = "shop/a b" }, "invalid"},
		"type that is a glob":      {`"type":"shop/*"`, func(e *tocsinv1.Event) { e.Type = "shop/*" }, "invalid"},
		"long type":                {`"type":"shop/` + long[:300] + `"`, func(e *tocsinv1.Event) { e.Type = "shop/" + long[:300] }, "too-large"},
		"reserved type":            {`"type":"tocsin/token-create"`, func(e *tocsinv1.Event) { e.Type = "tocsin/token-create" }, "reserved"},
		"audit":                    {`"type":"audit/request"`, func(e *tocsinv1.Event) { e.Type = "audit/request" }, "reserved"},
		"source of the hub":        {`"source":"tocsin://a"`, func(e *tocsinv1.Event) { e.Source = "tocsin://a" }, "reserved"},
		"source of the hub, loud":  {`"source":"Tocsin://a"`, func(e *tocsinv1.Event) { e.Source = "Tocsin://a" }, "reserved"},
		"control character in id":  {`"id":"a\nb"`, func(e *tocsinv1.Event) { e.Id = "a\nb" }, "invalid"},
		"long id":                  {`"id":"` + long + `"`, func(e *tocsinv1.Event) { e.Id = long }, "too-large"},
		"large data":               {`"data":"` + long + `"`, func(e *tocsinv1.Event) { e.Data = []byte(`"` + long + `"`) }, "too-large"},
		"extension of a bad name":  {`"a_b":"1"`, func(e *tocsinv1.Event) { e.Extensions = map[string]string{"a_b": "1"} }, "invalid"},
		"extension that is a list": {`"a":[1]`, func(e *tocsinv1.Event) { e.ExtensionsJson = map[string]string{"a": "[1]"} }, "invalid"},
		"extension of 33 bits":     {`"a":4294967296`, func(e *tocsinv1.Event) { e.ExtensionsJson = map[string]string{"a": "4294967296"} }, "invalid"},
		"extension reserved":       {`"recordedtime":"x"`, func(e *tocsinv1.Event) { e.Extensions = map[string]string{"recordedtime": "x"} }, "invalid"},
		"sequence":                 {`"sequence":"1"`, func(e *tocsinv1.Event) { e.Extensions = map[string]string{"sequence": "1"} }, ""},
		"content type":             {`"datacontenttype":"x","data_base64":"AA=="`, func(e *tocsinv1.Event) { e.DataContentType, e.Data = "x", []byte{0} }, "invalid"},
		"subject up":               {`"subject":"a/../b"`, func(e *tocsinv1.Event) { e.Subject = "a/../b" }, "invalid"},
		"path that is another":     {`"subject":"a","tocsindetails":"{\"metadata\":{\"path\":\"b\"}}","data":1`, func(e *tocsinv1.Event) { e.Subject, e.Metadata = "a", map[string]string{"path": "b"} }, "invalid"},
		"deep metadata":            {notification(`"a":` + deep), func(e *tocsinv1.Event) { e.MetadataJson = map[string]string{"a": deep} }, "invalid"},
		"metadata twice in it":     {notification(`"a":{"b":1,"b":2}`), func(e *tocsinv1.Event) { e.MetadataJson = map[string]string{"a": `{"b":1,"b":2}`} }, ""},
		"half a surrogate pair":    {notification(`"a":"\ud800"`), func(e *tocsinv1.Event) { e.MetadataJson = map[string]string{"a": `"\ud800"`} }, "invalid"},
		"secret":                   {notification(`"password":"hunter22"`), func(e *tocsinv1.Event) { e.Metadata = map[string]string{"password": "hunter22"} }, "secret"},
		"many keys":                {notification(many(129)), func(e *tocsinv1.Event) { _ = json.Unmarshal([]byte("{"+many(129)+"}"), &e.Metadata) }, "too-large"},
		"reserved schema":          {`"datacontenttype":"text/plain","data":"x","dataschema":"` + schemaOfNotifications + `"`, func(e *tocsinv1.Event) { e.Data, e.DataSchema = []byte("x"), schemaOfNotifications }, "invalid"},
		"by the catalogue":         {`"id":"refuse"`, func(e *tocsinv1.Event) { e.Id = "refuse" }, "schema"},
	} {
		t.Run(name, func(t *testing.T) {
			all := map[string]json.RawMessage{}
			for _, text := range []string{`"specversion":"1.0","id":` + quoted(name+" json") + `,"source":"/shop","type":"shop/order-placed"`, tt.members} {
				if err := json.Unmarshal([]byte("{"+text+"}"), &all); err != nil {
					t.Fatal(err)
				}
			}
			text, _ := json.Marshal(all)
			q := n.post(batched, "["+string(text)+"]", "X-Vault-Namespace", "ns1")
			q.path, q.token = eventsPath+"?partial=true", token
			_, raw, _ := n.try(q)
			var overHTTP struct {
				Accepted int
				Refused  []struct{ Code string }
			}
			if err := json.Unmarshal(raw, &overHTTP); err != nil {
				t.Fatalf("%v: %s", err, raw)
			}
			e := order(name + " proto")
			e.Metadata = nil
			tt.change(e)
			r, err := c.Publish(as(t, token, "x-vault-namespace", "ns1"), &tocsinv1.PublishRequest{Events: []*tocsinv1.Event{proto.CloneOf(e)}, Partial: true})
			if err != nil {
				t.Fatal(err)
			}
			got := [2]string{}
			if len(overHTTP.Refused) == 1 {
				got[0] = overHTTP.Refused[0].Code
			}
			if len(r.Refused) == 1 {
				got[1] = strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(r.Refused[0].Code.String(), "REFUSAL_CODE_"), "_", "-"))
			}
			if got != [2]string{tt.want, tt.want} || (tt.want == "") != (overHTTP.Accepted == 1) || (tt.want == "") != (r.Accepted == 1) {
				t.Errorf("HTTP %q, gRPC %q, want %q: %.300s, %.300v", got[0], got[1], tt.want, raw, r)
			}
		})
	}
}

const schemaOfNotifications = event.NotificationSchema

// notification are the members of an event with metadata and nothing else.
func notification(metadata string) string {
	return `"datacontenttype":"application/json","dataschema":"` + schemaOfNotifications + `","data":{"metadata":{` + metadata + `}}`
}

// many are members of an object.
func many(n int) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf(`"k%d":"v"`, i))
	}
	return strings.Join(all, ",")
}

func quoted(s string) string { return strconv.Quote(s) }
