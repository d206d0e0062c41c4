package eventfields

import (
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/auditlog"
)

// typical are the fields that the rules of many ask for.
var typical = []string{
	"event.type", "event.time.hour", "audit.type", "audit.error", "audit.denied", "audit.remote_address", "audit.mount_type",
	"audit.request.operation", "audit.request.path", "audit.request.id", "audit.request.namespace", "audit.request.data[/ttl]",
	"audit.auth.display_name", "audit.auth.policies", "audit.auth.is_root", "audit.auth.entity_id", "audit.client", "audit.auth.token_type",
	"audit.response.auth.policies", "audit.response.auth.token_ttl", "audit.response.auth.is_root", "audit.duration",
}

func recordedEvents(t testing.TB) (list []*event.Event) {
	for _, line := range recorded(t) {
		var p auditlog.Parser
		e, err := p.Parse(line)
		if err != nil {
			t.Fatal(err)
		}
		out := &event.Event{Type: typeRequest, Source: "vault://test", Time: e.Time, Data: line, DataContentType: "application/json"}
		if e.IsResponse {
			out.Type = typeResponse
		}
		out.Metadata.Set("request_id", e.Request.ID)
		list = append(list, out)
	}
	return list
}

// BenchmarkAudit is what it costs to have values of an entry of an audit log.
func BenchmarkAudit(b *testing.B) {
	events := recordedEvents(b)
	bytes := 0
	for _, e := range events {
		bytes += len(e.Data)
	}
	for name, texts := range map[string][]string{
		"one": {"audit.request.path"}, "typical": typical, "every": everyField(b, "tocsin"),
	} {
		b.Run(name, func(b *testing.B) {
			r := ask(b, "tocsin", Options{Location: time.UTC}, texts...)
			rec := recordOf(events...)
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				r.Record(b.Context(), rec)
				for i := range events {
					r.At(i)
					for k := range texts {
						r.Values(k)
					}
				}
				n += len(events)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/event")
			b.SetBytes(int64(bytes))
		})
	}
}
