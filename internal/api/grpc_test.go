package api

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/health"
	"github.com/tocsin-events/tocsin/internal/journal"
	tocsinv1 "github.com/tocsin-events/tocsin/proto/tocsin/v1"
)

// dial returns a client of the node.
func (n *node) dial() *grpc.ClientConn {
	n.t.Helper()
	conn, err := grpc.NewClient(n.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { conn.Close() })
	return conn
}

// as is a context with a token, or with other metadata.
func as(t testing.TB, token string, more ...string) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	if token != "" {
		more = append(more, "x-vault-token", token)
	}
	return metadata.AppendToOutgoingContext(ctx, more...)
}

// order is an event that may be published.
func order(id string) *tocsinv1.Event {
	return &tocsinv1.Event{Id: id, Source: "/shop", Type: "shop/order-placed", Subject: "orders/17", Metadata: map[string]string{"operation": "create"}}
}

func orders(ids ...string) (all []*tocsinv1.Event) {
	for _, id := range ids {
		all = append(all, order(id))
	}
	return all
}

// published returns the events of the shop that are in the journal.
func (n *node) shop() []*event.Event {
	n.t.Helper()
	return slices.DeleteFunc(n.all(), func(e *event.Event) bool { return !strings.HasPrefix(e.Type, "shop/") })
}

func (n *node) all() (found []*event.Event) {
	n.t.Helper()
	r := n.journal.Read(journal.Position{})
	end := n.journal.End()
	for at := (journal.Position{}); at.Compare(end) < 0; {
		b, err := r.Next(n.t.Context())
		if err != nil {
			n.t.Fatal(err)
		}
		for i := b.Start(); i < b.Len(); i++ {
			found = append(found, b.Event(i))
			at = b.Position(i)
		}
	}
	return found
}

func wantCode(t testing.TB, err error, code codes.Code, text string) *status.Status {
	t.Helper()
	st := status.Convert(err)
	if st.Code() != code || !strings.Contains(st.Message(), text) {
		t.Fatalf("got %v %q, want %v with %q", st.Code(), st.Message(), code, text)
	}
	return st
}

// detail returns the detail of a type that a status has.
func detail[T any](t testing.TB, st *status.Status) T {
	t.Helper()
	for _, d := range st.Details() {
		if d, ok := d.(T); ok {
			return d
		}
	}
	t.Fatalf("the status %v has no such detail", st)
	panic("unreachable")
}

const mayPublish = `path "sys/events/publish/shop/*" { capabilities = ["create"] }`

func TestPublishOverGRPC(t *testing.T) {
	n := startNode(t, nil)
	c := tocsinv1.NewPublisherClient(n.dial())
	at := time.Date(2026, 11, 20, 1, 2, 3, 4000, time.UTC)
	whole := &tocsinv1.Event{Id: "1", Source: "/shop", Type: "shop/order-placed", Time: timestamppb.New(at), Namespace: "ns1/sub",
		Metadata:     map[string]string{"path": "orders/17", "z": "Zürich"},
		MetadataJson: map[string]string{"count": " 3 ", "list": `[ "a", 1.50 ]`, "text": `"a\u0062"`},
		Extensions:   map[string]string{"traceparent": "00-1-2-00"}, ExtensionsJson: map[string]string{"urgent": "true", "weight": "-7"},
		Data: []byte{0, 1, 0xff}, DataContentType: "application/octet-stream", DataSchema: "https://example.com/s", DataRef: "https://example.com/d"}
	r, err := c.Publish(as(t, "root", "x-vault-namespace", "ns1"), &tocsinv1.PublishRequest{Events: []*tocsinv1.Event{whole, {Source: "/shop", Type: "shop/closed"}}})
	if err != nil || r.Accepted != 2 || r.Duplicates != 0 || len(r.Refused) != 0 {
		t.Fatalf("%v, %v", r, err)
	}
	got := n.shop()
	if len(got) != 2 {
		t.Fatalf("%d events are in the journal", len(got))
	}
	want := &event.Event{ID: "1", Source: "/shop", Type: "shop/order-placed", Path: "orders/17", Time: at, Namespace: "ns1/sub/",
		Data: whole.Data, DataContentType: whole.DataContentType, DataSchema: whole.DataSchema, DataRef: whole.DataRef}
	want.Metadata.Set("path", "orders/17")
	want.Metadata.Set("z", "Zürich")
	want.Metadata.SetJSON("count", "3")
	want.Metadata.SetJSON("list", `["a",1.50]`)
	want.Metadata.Set("text", "ab")
	want.Extensions.Set("traceparent", "00-1-2-00")
	want.Extensions.SetJSON("urgent", "true")
	want.Extensions.SetJSON("weight", "-7")
	got[0].Recorded = time.Time{}
	if a, b := event.AppendCloudEvent(nil, got[0], ""), event.AppendCloudEvent(nil, want, ""); !bytes.Equal(a, b) {
		t.Errorf("the journal has\n%s, want\n%s", a, b)
	}
	if e := got[1]; e.ID == "" || e.Namespace != "ns1/" || time.Since(e.Time) > time.Minute || e.Data != nil || e.Path != "" {
		t.Errorf("completed to %+v", e)
	}
	r, err = c.Publish(as(t, "", "authorization", "Bearer root", "x-vault-namespace", "ns1"), &tocsinv1.PublishRequest{Events: []*tocsinv1.Event{whole}}, grpc.UseCompressor(gzip.Name))
	if err != nil || r.Accepted != 0 || r.Duplicates != 1 {
		t.Errorf("repeated, compressed: %v, %v", r, err)
	}
}

func TestRefusedOverGRPC(t *testing.T) {
	n := startNode(t, nil)
	n.putPolicy("", "shop", mayPublish)
	n.putPolicy("", "none", `path "sys/events/publish/shop/*" { capabilities = ["read"] }`)
	shop, none := n.newToken(`{"policies":["shop"]}`), n.newToken(`{"policies":["none"]}`)
	c := tocsinv1.NewPublisherClient(n.dial())
	odd := order("odd")
	odd.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1))
	change := func(f func(*tocsinv1.Event)) *tocsinv1.Event { e := order("x"); f(e); return e }
	for _, tt := range []struct {
		name   string
		ctx    context.Context
		events []*tocsinv1.Event
		code   codes.Code
		text   string
		detail tocsinv1.RefusalCode // of the last event
	}{
		{"no token", as(t, ""), orders("1"), codes.Unauthenticated, "permission denied", 0},
		{"wrong token", as(t, "bogus"), orders("1"), codes.Unauthenticated, "invalid token", 0},
		{"two namespaces", as(t, shop, "x-vault-namespace", "a", "x-vault-namespace", "b"), orders("1"), codes.InvalidArgument, "X-Vault-Namespace", 0},
		{"bad namespace", as(t, shop, "x-vault-namespace", "a/../b"), orders("1"), codes.InvalidArgument, "namespace", 0},
		{"not allowed", as(t, none), orders("1"), codes.PermissionDenied, `event 0: type: publishing needs the capability create on "sys/events/publish/shop/order-placed"`, tocsinv1.RefusalCode_REFUSAL_CODE_DENIED},
		{"not allowed there", as(t, shop, "x-vault-namespace", "a"), orders("1"), codes.PermissionDenied, `"a/sys/events/publish/shop/order-placed"`, tocsinv1.RefusalCode_REFUSAL_CODE_DENIED},
		{"another type", as(t, shop), append(orders("1"), change(func(e *tocsinv1.Event) { e.Type = "bank/robbed" })), codes.PermissionDenied, "event 1: type", tocsinv1.RefusalCode_REFUSAL_CODE_DENIED},
		{"reserved", as(t, "root"), []*tocsinv1.Event{change(func(e *tocsinv1.Event) { e.Type = "tocsin/token-create" })}, codes.PermissionDenied, "event 0: type", tocsinv1.RefusalCode_REFUSAL_CODE_RESERVED},
		{"no events", as(t, shop), nil, codes.InvalidArgument, "no events", 0},
		{"too many events", as(t, shop), orders(make([]string, 5001)...), codes.InvalidArgument, "more than 5000 events", 0},
		{"unknown field", as(t, shop), []*tocsinv1.Event{order("1"), odd}, codes.InvalidArgument, "event 1: event: has the field 99", tocsinv1.RefusalCode_REFUSAL_CODE_INVALID},
		{"no source", as(t, shop), []*tocsinv1.Event{change(func(e *tocsinv1.Event) { e.Source = "" })}, codes.InvalidArgument, "event 0: source", tocsinv1.RefusalCode_REFUSAL_CODE_INVALID},
		{"bad time", as(t, shop), []*tocsinv1.Event{change(func(e *tocsinv1.Event) { e.Time = &timestamppb.Timestamp{Nanos: -1} })}, codes.InvalidArgument, "event 0: time", tocsinv1.RefusalCode_REFUSAL_CODE_INVALID},
		{"bad JSON", as(t, shop), []*tocsinv1.Event{change(func(e *tocsinv1.Event) { e.MetadataJson = map[string]string{"n": "1 2"} })}, codes.InvalidArgument, "event 0: metadata n: is not JSON", tocsinv1.RefusalCode_REFUSAL_CODE_INVALID},
		{"twice", as(t, shop), []*tocsinv1.Event{change(func(e *tocsinv1.Event) { e.MetadataJson = map[string]string{"operation": "1"} })}, codes.InvalidArgument, "metadata operation: is there as text and as JSON", tocsinv1.RefusalCode_REFUSAL_CODE_INVALID},
		{"bad extension", as(t, shop), []*tocsinv1.Event{change(func(e *tocsinv1.Event) { e.ExtensionsJson = map[string]string{"x": "[]"} })}, codes.InvalidArgument, "extension x", tocsinv1.RefusalCode_REFUSAL_CODE_INVALID},
		{"too large", as(t, shop), []*tocsinv1.Event{change(func(e *tocsinv1.Event) { e.Data = make([]byte, 1<<20+1) })}, codes.ResourceExhausted, "event 0", tocsinv1.RefusalCode_REFUSAL_CODE_TOO_LARGE},
		{"message too large", as(t, shop), []*tocsinv1.Event{change(func(e *tocsinv1.Event) { e.Data = make([]byte, 5<<20) })}, codes.ResourceExhausted, "larger than max", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := c.Publish(tt.ctx, &tocsinv1.PublishRequest{Events: tt.events})
			st := wantCode(t, err, tt.code, tt.text)
			if tt.detail == 0 {
				return
			}
			d := detail[*tocsinv1.Refusals](t, st)
			if r := d.Refused[len(d.Refused)-1]; r.Code != tt.detail || int(r.Index) != len(tt.events)-1 || d.Total != 1 {
				t.Errorf("details %v", d)
			}
		})
	}
	if got := n.shop(); len(got) != 0 {
		t.Errorf("%d events of refused requests were stored", len(got))
	}
	for i, want := range []struct{ path, shown, reason, policies string }{
		{"sys/events/publish/", "", "permission denied", ""},
		{"sys/events/publish/", "", "permission denied; invalid token", ""},
		{"sys/events/publish/shop/order-placed", "", `type: publishing needs the capability create on "sys/events/publish/shop/order-placed"`, `["default","none"]`},
		{"sys/events/publish/shop/order-placed", "", `type: publishing needs the capability create on "a/sys/events/publish/shop/order-placed"`, `["default","shop"]`},
		{"sys/events/publish/bank/robbed", "", `type: publishing needs the capability create on "sys/events/publish/bank/robbed"`, `["default","shop"]`},
		{"sys/events/publish/tocsin/token-create", "", `type: "tocsin/..." is for what the hub itself says; use a prefix of your own`, `["root"]`},
	} {
		e := n.await("publish-denied", i+1)
		if e.Path != want.path || field(e, "request_path") != want.shown || field(e, "error") != want.reason || field(e, "policies") != want.policies || field(e, "operation") != "publish" {
			t.Errorf("record %d: %q %v, want %v", i, e.Path, e.Metadata, want)
		}
	}
}

// A status with very many refusals fits into the headers that clients accept, and says how
// many there are.
func TestManyRefusedOverGRPC(t *testing.T) {
	n := startNode(t, nil)
	c := tocsinv1.NewPublisherClient(n.dial())
	bad := make([]*tocsinv1.Event, 5000)
	for i := range bad {
		bad[i] = &tocsinv1.Event{Id: strings.Repeat("ü", 200), Source: "/shop", Type: "a b"}
	}
	_, err := c.Publish(as(t, "root"), &tocsinv1.PublishRequest{Events: bad})
	d := detail[*tocsinv1.Refusals](t, wantCode(t, err, codes.InvalidArgument, "and 4999 more"))
	if d.Total != 5000 || len(d.Refused) < 5 || len(d.Refused) > 50 {
		t.Errorf("%d refusals of %d", len(d.Refused), d.Total)
	}
	bad[17] = order("good")
	r, err := c.Publish(as(t, "root"), &tocsinv1.PublishRequest{Events: bad, Partial: true})
	if err != nil || r.Accepted != 1 || len(r.Refused) != 4999 || r.Refused[17].Index != 18 {
		t.Errorf("partial: %d accepted, %d refused, %v", r.GetAccepted(), len(r.GetRefused()), err)
	}
}

// A message may have more in it than the journal takes in one piece.
func TestLargeMessageOverGRPC(t *testing.T) {
	n := startNode(t, nil)
	all := orders("1", "2", "3", "4")
	for _, e := range all {
		e.Data = make([]byte, 1<<20-512)
	}
	r, err := tocsinv1.NewPublisherClient(n.dial()).Publish(as(t, "root"), &tocsinv1.PublishRequest{Events: all})
	if err != nil || r.Accepted != 4 {
		t.Errorf("%v, %v", r, err)
	}
	exchange(t, n.openStream("root"), &tocsinv1.PublishStreamRequest{Sequence: 1, Events: all})
	if got := n.shop(); len(got) != 4 {
		t.Errorf("%d events are stored", len(got))
	}
}

// Those that do not become events and those that the intake refuses are told by their
// places in the request.
func TestPartialOverGRPC(t *testing.T) {
	n := startNode(t, nil)
	c := tocsinv1.NewPublisherClient(n.dial())
	all := orders("0", "1", "2", "3", "4")
	all[1].MetadataJson = map[string]string{"n": "{"}
	all[2].Type = ""
	all[4].ExtensionsJson = map[string]string{"n": "{"}
	r, err := c.Publish(as(t, "root"), &tocsinv1.PublishRequest{Events: all, Partial: true})
	if err != nil || r.Accepted != 2 || len(r.Refused) != 3 {
		t.Fatalf("%v, %v", r, err)
	}
	for i, want := range []struct {
		index uint32
		text  string
	}{{1, "metadata n"}, {2, "type"}, {4, "extension n"}} {
		if got := r.Refused[i]; got.Index != want.index || got.Id != strconv.Itoa(int(want.index)) || !strings.Contains(got.Reason, want.text) {
			t.Errorf("refused %v, want %v", got, want)
		}
	}
	if got := n.shop(); len(got) != 2 || got[0].ID != "0" || got[1].ID != "3" {
		t.Errorf("the journal has %v", got)
	}
}

func TestUsesOverGRPC(t *testing.T) {
	n := startNode(t, nil)
	n.putPolicy("", "shop", mayPublish)
	token := n.newToken(`{"policies":["shop"],"num_uses":3}`)
	c := tocsinv1.NewPublisherClient(n.dial())
	stream, err := c.PublishStream(as(t, token))
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, stream, &tocsinv1.PublishStreamRequest{Sequence: 1, Events: orders("0")})
	for i := range 2 {
		if _, err := c.Publish(as(t, token), &tocsinv1.PublishRequest{Events: orders(fmt.Sprint("a", i))}); err != nil {
			t.Fatal(err)
		}
	}
	_, err = stream.Recv()
	wantCode(t, err, codes.Unauthenticated, "no uses left")
	_, err = c.Publish(as(t, token), &tocsinv1.PublishRequest{Events: orders("b")})
	wantCode(t, err, codes.Unauthenticated, "invalid token")
}

func TestFailuresOverGRPC(t *testing.T) {
	n := startNode(t, func(o *Options) { o.Failures = Failures{PerSecond: 0.001, Burst: 2} })
	c := tocsinv1.NewPublisherClient(n.dial())
	for range 2 {
		_, err := c.Publish(as(t, "bogus"), &tocsinv1.PublishRequest{Events: orders("1")})
		wantCode(t, err, codes.Unauthenticated, "")
	}
	_, err := c.Publish(as(t, "bogus"), &tocsinv1.PublishRequest{Events: orders("1")})
	st := wantCode(t, err, codes.ResourceExhausted, "too many failed authentications")
	if d := detail[*errdetails.RetryInfo](t, st); d.RetryDelay.AsDuration() <= 0 {
		t.Errorf("retry after %v", d.RetryDelay)
	}
}

type publishStream = grpc.BidiStreamingClient[tocsinv1.PublishStreamRequest, tocsinv1.PublishStreamResponse]

// openStream begins a stream, which ends with the test.
func (n *node) openStream(token string) publishStream {
	n.t.Helper()
	stream, err := tocsinv1.NewPublisherClient(n.dial()).PublishStream(as(n.t, token))
	if err != nil {
		n.t.Fatal(err)
	}
	return stream
}

// exchange sends a request and returns the response to it.
func exchange(t testing.TB, stream publishStream, r *tocsinv1.PublishStreamRequest) *tocsinv1.PublishStreamResponse {
	t.Helper()
	if err := stream.Send(r); err != nil {
		_, err := stream.Recv()
		t.Fatal(err)
	}
	response, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if response.AcknowledgedSequence != r.Sequence {
		t.Fatalf("request %d is answered by %v", r.Sequence, response)
	}
	return response
}

func TestPublishStream(t *testing.T) {
	n := startNode(t, nil)
	stream := n.openStream("root")
	const requests = 3000
	go func() {
		for i := range requests {
			r := &tocsinv1.PublishStreamRequest{Sequence: uint64(10 * (i + 1)), Events: orders(fmt.Sprint("a", i), fmt.Sprint("b", i))}
			switch i % 100 {
			case 7:
				r.Events[1].Type = "" // refused by the intake
			case 8:
				r.Events[0].MetadataJson = map[string]string{"x": "y"} // before it
			case 9:
				r.Events[1].Id = r.Events[0].Id
			case 10:
				r.Events = nil
			}
			if err := stream.Send(r); err != nil {
				t.Error(err)
				return
			}
		}
		stream.CloseSend()
	}()
	var last, accepted, duplicates uint64
	var refused []*tocsinv1.Refusal
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if r.AcknowledgedSequence <= last {
			t.Fatalf("%d is acknowledged after %d", r.AcknowledgedSequence, last)
		}
		last, accepted, duplicates, refused = r.AcknowledgedSequence, accepted+r.Accepted, duplicates+r.Duplicates, append(refused, r.Refused...)
	}
	if last != 10*requests || accepted != 2*requests-5*30 || duplicates != 30 || len(refused) != 60 {
		t.Fatalf("last %d, %d accepted, %d duplicates, %d refused", last, accepted, duplicates, len(refused))
	}
	if r := refused[0]; r.Sequence != 80 || r.Index != 1 || r.Code != tocsinv1.RefusalCode_REFUSAL_CODE_INVALID || r.Id != "b7" {
		t.Errorf("first refusal %v", r)
	}
	if r := refused[1]; r.Sequence != 90 || r.Index != 0 || r.Id != "a8" {
		t.Errorf("second refusal %v", r)
	}
	got := n.shop()
	if len(got) != int(accepted) {
		t.Fatalf("%d events are in the journal, %d were accepted", len(got), accepted)
	}
	before := -1
	for _, e := range got {
		i, _ := strconv.Atoi(e.ID[1:])
		if i < before {
			t.Fatalf("%s is behind those of request %d", e.ID, before)
		}
		before = i
	}
}

// What is wrong with the stream ends it, after what was right before is acknowledged.
func TestStreamEndsByItsClient(t *testing.T) {
	n := startNode(t, nil)
	odd := &tocsinv1.PublishStreamRequest{Sequence: 9}
	odd.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1))
	for name, tt := range map[string]struct {
		then *tocsinv1.PublishStreamRequest
		code codes.Code
		text string
	}{
		"same sequence":   {&tocsinv1.PublishStreamRequest{Sequence: 2}, codes.InvalidArgument, "sequence"},
		"no sequence":     {&tocsinv1.PublishStreamRequest{}, codes.InvalidArgument, "sequence"},
		"unknown field":   {odd, codes.InvalidArgument, "does not know"},
		"too many events": {&tocsinv1.PublishStreamRequest{Sequence: 3, Events: orders(make([]string, 5001)...)}, codes.InvalidArgument, "more than 5000"},
		"too large":       {&tocsinv1.PublishStreamRequest{Sequence: 3, Events: []*tocsinv1.Event{{Data: make([]byte, 5<<20)}}}, codes.ResourceExhausted, "larger than max"},
	} {
		t.Run(name, func(t *testing.T) {
			stream := n.openStream("root")
			for i := range 2 {
				if err := stream.Send(&tocsinv1.PublishStreamRequest{Sequence: uint64(i + 1), Events: orders(name + strconv.Itoa(i))}); err != nil {
					t.Fatal(err)
				}
			}
			if err := stream.Send(tt.then); err != nil {
				t.Fatal(err)
			}
			var accepted uint64
			for {
				r, err := stream.Recv()
				if err != nil {
					wantCode(t, err, tt.code, tt.text)
					break
				}
				accepted += r.Accepted
			}
			if accepted != 2 {
				t.Errorf("%d events were acknowledged", accepted)
			}
		})
	}
}

func TestTokenEndsStream(t *testing.T) {
	t.Parallel()
	n := startNode(t, nil)
	n.putPolicy("", "shop", mayPublish)
	for name, tt := range map[string]struct {
		body string
		end  func(token string)
		text string
	}{
		"revoked": {`{"policies":["shop"]}`, func(token string) {
			n.must(ask{method: "PUT", path: "/v1/auth/token/revoke", body: `{"token":"` + token + `"}`})
		}, "token revoked"},
		"expired": {`{"policies":["shop"],"ttl":"1s"}`, func(string) {}, "token expired"},
	} {
		t.Run(name, func(t *testing.T) {
			token := n.newToken(tt.body)
			stream := n.openStream(token)
			exchange(t, stream, &tocsinv1.PublishStreamRequest{Sequence: 1, Events: orders(name)})
			tt.end(token)
			stored := len(n.shop())
			_, err := stream.Recv()
			wantCode(t, err, codes.Unauthenticated, tt.text)
			_ = stream.Send(&tocsinv1.PublishStreamRequest{Sequence: 2, Events: orders(name + "2")})
			if now := len(n.shop()); now != stored {
				t.Error("an event was stored after the end of its token")
			}
		})
	}
}

// While events are being sent without pause, nothing is stored after the answer to a
// revocation but what was handed over before.
func TestRevokedWhilePublishing(t *testing.T) {
	n := startNode(t, nil)
	n.putPolicy("", "shop", mayPublish)
	token := n.newToken(`{"policies":["shop"]}`)
	stream := n.openStream(token)
	ended := make(chan error, 1)
	var acknowledged atomic.Uint64
	go func() {
		for {
			r, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			acknowledged.Store(r.AcknowledgedSequence)
		}
	}()
	go func() {
		for i := uint64(1); stream.Send(&tocsinv1.PublishStreamRequest{Sequence: i, Events: orders(fmt.Sprint("a", i))}) == nil; i++ {
		}
	}()
	for acknowledged.Load() < 100 {
		time.Sleep(time.Millisecond)
	}
	n.must(ask{method: "PUT", path: "/v1/auth/token/revoke", body: `{"token":"` + token + `"}`})
	wantCode(t, <-ended, codes.Unauthenticated, "token revoked")
	stored := len(n.shop())
	if last := acknowledged.Load(); uint64(stored) < last {
		t.Errorf("%d events are stored, %d were acknowledged", stored, last)
	}
	if _, err := tocsinv1.NewPublisherClient(n.dial()).Publish(as(t, "root"), &tocsinv1.PublishRequest{Events: orders("last")}); err != nil {
		t.Fatal(err)
	}
	if all := n.shop(); len(all) != stored+1 {
		t.Errorf("%d events were stored after the stream had ended", len(all)-stored-1)
	}
}

func TestPoliciesChangeWhilePublishing(t *testing.T) {
	n := startNode(t, nil)
	n.putPolicy("", "shop", mayPublish)
	stream := n.openStream(n.newToken(`{"policies":["shop"]}`))
	exchange(t, stream, &tocsinv1.PublishStreamRequest{Sequence: 1, Events: orders("1")})
	n.putPolicy("", "shop", `path "sys/events/publish/shop/closed" { capabilities = ["create"] }`)
	r := exchange(t, stream, &tocsinv1.PublishStreamRequest{Sequence: 2, Events: []*tocsinv1.Event{order("2"), {Id: "3", Source: "/shop", Type: "shop/closed"}}})
	if r.Accepted != 1 || len(r.Refused) != 1 || r.Refused[0].Index != 0 || r.Refused[0].Code != tocsinv1.RefusalCode_REFUSAL_CODE_DENIED {
		t.Errorf("after the change: %v", r)
	}
	if e := n.await("publish-denied", 1); e.Path != "sys/events/publish/shop/order-placed" {
		t.Errorf("recorded with path %q", e.Path)
	}
	n.putPolicy("", "shop", mayPublish)
	if r := exchange(t, stream, &tocsinv1.PublishStreamRequest{Sequence: 3, Events: orders("4")}); r.Accepted != 1 {
		t.Errorf("after the next change: %v", r)
	}
	if got := n.shop(); len(got) != 3 {
		t.Errorf("%d events are stored", len(got))
	}
}

// sendUntilStuck sends requests until none was taken for a while, and returns how many
// were; next makes them.
func sendUntilStuck(t *testing.T, stream publishStream, next func(i uint64) *tocsinv1.PublishStreamRequest) uint64 {
	t.Helper()
	var sent atomic.Uint64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for i := uint64(1); stream.Send(next(i)) == nil; i++ {
			sent.Store(i)
		}
	}()
	t.Cleanup(func() { <-ended })
	for before := ^uint64(0); ; {
		select {
		case <-ended:
			t.Fatal("the stream ended")
		case <-time.After(500 * time.Millisecond):
		}
		now := sent.Load()
		if now == before {
			return now
		}
		before = now
	}
}

// A client that does not read what is answered is not read from any more.
func TestAcknowledgementsAreNotRead(t *testing.T) {
	n := startNode(t, nil)
	ctx, cancel := context.WithCancel(as(t, "root"))
	defer cancel()
	stream, err := tocsinv1.NewPublisherClient(n.dial()).PublishStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	bad := make([]*tocsinv1.Event, 5000) // 10 kB, answered by 200 kB and more
	for i := range bad {
		bad[i] = new(tocsinv1.Event)
	}
	sent := sendUntilStuck(t, stream, func(i uint64) *tocsinv1.PublishStreamRequest {
		return &tocsinv1.PublishStreamRequest{Sequence: i, Events: bad}
	})
	if sent > 500 { // 5 MB
		t.Errorf("%d requests were sent", sent)
	}
	// It is not lost: who reads again gets all of it.
	for last := uint64(0); last < sent; {
		r, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		last = max(last, r.AcknowledgedSequence)
	}
	cancel()
}

// While the journal takes nothing, clients are slowed down by flow control.
func TestJournalIsSlow(t *testing.T) {
	t.Parallel()
	n := startNode(t, nil)
	n.published.mu.Lock()
	n.published.block = make(chan struct{})
	n.published.mu.Unlock()
	ctx, cancel := context.WithCancel(as(t, "root"))
	defer cancel()
	stream, err := tocsinv1.NewPublisherClient(n.dial()).PublishStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	sent := sendUntilStuck(t, stream, func(i uint64) *tocsinv1.PublishStreamRequest {
		e := order(fmt.Sprint(i))
		e.Data = make([]byte, 200<<10)
		return &tocsinv1.PublishStreamRequest{Sequence: i, Events: []*tocsinv1.Event{e}}
	})
	if sent*200<<10 > 16<<20 {
		t.Errorf("%d kB were sent", sent*200)
	}
	close(n.published.block)
	for last := uint64(0); last < sent; {
		r, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		last = r.AcknowledgedSequence
	}
	cancel()
}

func TestJournalIsFull(t *testing.T) {
	t.Parallel()
	n := startNode(t, nil)
	n.health.Register("journal", health.Readiness, n.published.Health)
	conn := n.dial()
	c, h := tocsinv1.NewPublisherClient(conn), healthpb.NewHealthClient(conn)
	check := func(want healthpb.HealthCheckResponse_ServingStatus) {
		t.Helper()
		for _, service := range []string{"", "tocsin.v1.Publisher"} {
			if r, err := h.Check(as(t, ""), &healthpb.HealthCheckRequest{Service: service}); err != nil || r.Status != want {
				t.Errorf("%q is %v, %v, want %v", service, r.GetStatus(), err, want)
			}
		}
	}
	watch, err := h.Watch(as(t, ""), &healthpb.HealthCheckRequest{Service: "tocsin.v1.Publisher"})
	if err != nil {
		t.Fatal(err)
	}
	watched := func(want healthpb.HealthCheckResponse_ServingStatus) {
		t.Helper()
		if r, err := watch.Recv(); err != nil || r.Status != want {
			t.Fatalf("watching: %v, %v, want %v", r.GetStatus(), err, want)
		}
	}
	check(healthpb.HealthCheckResponse_SERVING)
	watched(healthpb.HealthCheckResponse_SERVING)
	stream := n.openStream("root")
	exchange(t, stream, &tocsinv1.PublishStreamRequest{Sequence: 1, Events: orders("1")})

	n.published.fail(fmt.Errorf("test: %w", journal.ErrFull))
	check(healthpb.HealthCheckResponse_NOT_SERVING)
	watched(healthpb.HealthCheckResponse_NOT_SERVING)
	if err := stream.Send(&tocsinv1.PublishStreamRequest{Sequence: 2, Events: orders("2")}); err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	if d := detail[*errdetails.RetryInfo](t, wantCode(t, err, codes.Unavailable, "no space left")); d.RetryDelay.AsDuration() <= 0 {
		t.Errorf("retry after %v", d.RetryDelay)
	}
	_, err = c.Publish(as(t, "root"), &tocsinv1.PublishRequest{Events: orders("3")})
	detail[*errdetails.RetryInfo](t, wantCode(t, err, codes.Unavailable, "no space left"))
	n.published.fail(fmt.Errorf("test: %w", journal.ErrBusy))
	_, err = c.Publish(as(t, "root"), &tocsinv1.PublishRequest{Events: orders("3")})
	detail[*errdetails.RetryInfo](t, wantCode(t, err, codes.ResourceExhausted, "too many events are waiting"))

	n.published.fail(nil)
	check(healthpb.HealthCheckResponse_SERVING)
	watched(healthpb.HealthCheckResponse_SERVING)
	if _, err := c.Publish(as(t, "root"), &tocsinv1.PublishRequest{Events: orders("1", "2")}); err != nil {
		t.Error(err)
	}
	if got := n.shop(); len(got) != 2 {
		t.Errorf("%d events are stored", len(got))
	}
	list, err := h.List(as(t, ""), &healthpb.HealthListRequest{})
	if err != nil || len(list.Statuses) != 2 {
		t.Errorf("list: %v, %v", list, err)
	}
	_, err = h.Check(as(t, ""), &healthpb.HealthCheckRequest{Service: "nobody"})
	wantCode(t, err, codes.NotFound, "")
}

func TestReflection(t *testing.T) {
	n := startNode(t, nil)
	conn := n.dial()
	want := []string{"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection", "tocsin.v1.Publisher"}
	stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(as(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	ask := func(r *reflectionv1.ServerReflectionRequest) *reflectionv1.ServerReflectionResponse {
		t.Helper()
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
		response, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return response
	}
	var names []string
	for _, s := range ask(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}).GetListServicesResponse().Service {
		names = append(names, s.Name)
	}
	if !slices.Equal(names, want) {
		t.Errorf("there are %q, want %q", names, want)
	}
	if r := ask(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "tocsin.v1.Publisher"}}); len(r.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
		t.Errorf("no description: %v", r)
	}
	// The older version has the same messages.
	older, err := conn.NewStream(as(t, ""), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
	if err != nil {
		t.Fatal(err)
	}
	if err := older.SendMsg(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	r := new(reflectionv1.ServerReflectionResponse)
	if err := older.RecvMsg(r); err != nil || len(r.GetListServicesResponse().GetService()) != len(want) {
		t.Errorf("v1alpha: %v, %v", r, err)
	}
	// Without a token nobody may send much.
	long := &reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_FileByFilename{FileByFilename: strings.Repeat("x", 10<<10)}}
	for range 10 {
		if err = older.SendMsg(long); err != nil {
			break
		}
		if err = older.RecvMsg(r); err != nil {
			break
		}
	}
	if err == nil {
		t.Error("a call without a token sent 100 kB")
	}
}

// frame is a message as it is sent.
func frame(compressed byte, length int, message []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{compressed}, uint32(length)), message...)
}

// TestMalformedCalls sends what no client of gRPC would.
func TestMalformedCalls(t *testing.T) {
	n := startNode(t, nil)
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	h2 := &http.Transport{Protocols: protocols}
	t.Cleanup(h2.CloseIdleConnections)
	h1 := &http.Transport{DisableKeepAlives: true}
	good, err := proto.Marshal(&tocsinv1.PublishRequest{Events: orders("1")})
	if err != nil {
		t.Fatal(err)
	}
	// Invalid UTF-8 in a field of texts.
	bad := append(protowire.AppendTag(nil, 1, protowire.BytesType), 4, 0x0a, 2, 0xff, 0xfe)
	const unary, streaming = "/tocsin.v1.Publisher/Publish", "/tocsin.v1.Publisher/PublishStream"
	for _, tt := range []struct {
		name   string
		client *http.Transport
		method string
		path   string
		header map[string]string
		body   []byte
		http   int
		grpc   string // "" for none
	}{
		{"well-formed", h2, "POST", unary, nil, frame(0, len(good), good), 200, "0"},
		{"HTTP/1.1", h1, "POST", unary, nil, frame(0, len(good), good), 505, ""},
		{"HTTP/1.1 without token", h1, "POST", unary, map[string]string{"X-Vault-Token": ""}, nil, 505, ""},
		{"GET", h2, "GET", unary, nil, nil, 405, ""},
		{"token in the URL", h2, "POST", unary + "?token=root", nil, frame(0, len(good), good), 400, ""},
		{"no message", h2, "POST", unary, nil, nil, 200, "13"},
		{"half a header", h2, "POST", unary, nil, []byte{0, 0, 0}, 200, "13"},
		{"half a message", h2, "POST", unary, nil, frame(0, len(good), good[:5]), 200, "13"},
		{"half a message on a stream", h2, "POST", streaming, nil, frame(0, 100, good[:5]), 200, "13"},
		{"two messages", h2, "POST", unary, nil, bytes.Repeat(frame(0, len(good), good), 2), 200, "13"},
		{"no protobuf", h2, "POST", unary, nil, frame(0, 4, []byte("abcd")), 200, "3"},
		{"no protobuf on a stream", h2, "POST", streaming, nil, frame(0, 4, []byte("abcd")), 200, "3"},
		{"invalid UTF-8", h2, "POST", unary, nil, frame(0, len(bad), bad), 200, "3"},
		{"a huge length", h2, "POST", unary, nil, frame(0, 1<<32-1, good), 200, "8"},
		{"a huge length on a stream", h2, "POST", streaming, nil, frame(0, 1<<32-1, good), 200, "8"},
		{"compressed without saying how", h2, "POST", unary, nil, frame(1, len(good), good), 200, "13"},
		{"not compressed", h2, "POST", unary, map[string]string{"Grpc-Encoding": "gzip"}, frame(1, len(good), good), 200, "13"},
		{"unknown compression", h2, "POST", unary, map[string]string{"Grpc-Encoding": "zip"}, frame(1, len(good), good), 200, "12"},
		{"unknown flags", h2, "POST", unary, nil, frame(7, len(good), good), 200, "13"},
		{"unknown method", h2, "POST", "/tocsin.v1.Publisher/Nothing", nil, nil, 200, "12"},
		{"unknown service", h2, "POST", "/tocsin.v1.Nobody/Nothing", nil, nil, 200, "12"},
		{"bad timeout", h2, "POST", unary, map[string]string{"Grpc-Timeout": "soon"}, nil, 400, ""},
		{"unknown codec", h2, "POST", unary, map[string]string{"Content-Type": "application/grpc+json"}, frame(0, 2, []byte("{}")), 404, ""},
		{"grpc-web", h2, "POST", unary, map[string]string{"Content-Type": "application/grpc-web"}, nil, 404, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			r, err := http.NewRequestWithContext(ctx, tt.method, "http://"+n.addr+tt.path, bytes.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			r.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}, "X-Vault-Token": {"root"}}
			for name, value := range tt.header {
				r.Header.Set(name, value)
			}
			res, err := tt.client.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if _, err := io.Copy(io.Discard, res.Body); err != nil {
				t.Fatal(err)
			}
			got := res.Header.Get("Grpc-Status") + res.Trailer.Get("Grpc-Status")
			if res.StatusCode != tt.http || got != tt.grpc {
				t.Errorf("status %d, grpc %q %q, want %d, %q", res.StatusCode, got, res.Trailer.Get("Grpc-Message"), tt.http, tt.grpc)
			}
		})
	}
	// All of this has cost nobody else anything.
	if _, err := tocsinv1.NewPublisherClient(n.dial()).Publish(as(t, "root"), &tocsinv1.PublishRequest{Events: orders("last")}); err != nil {
		t.Error(err)
	}
}

// A message that becomes large when it is decompressed is not decompressed further.
func TestCompressedMessages(t *testing.T) {
	n := startNode(t, nil)
	c := tocsinv1.NewPublisherClient(n.dial())
	e := order("1")
	e.Data = make([]byte, 64<<20)
	_, err := c.Publish(as(t, "root"), &tocsinv1.PublishRequest{Events: []*tocsinv1.Event{e}}, grpc.UseCompressor(gzip.Name))
	wantCode(t, err, codes.ResourceExhausted, "larger than max")
}

// Clients that go away in the middle leave nothing behind; goleak sees goroutines.
func TestCancelledCalls(t *testing.T) {
	n := startNode(t, nil)
	for i := range 20 {
		ctx, cancel := context.WithCancel(as(t, "root"))
		stream, err := tocsinv1.NewPublisherClient(n.dial()).PublishStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&tocsinv1.PublishStreamRequest{Sequence: 1, Events: orders(fmt.Sprint(i))}); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			if _, err := stream.Recv(); err != nil {
				t.Fatal(err)
			}
		}
		cancel()
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := n.calls.Shutdown(ctx); err != nil {
		t.Errorf("calls are left: %v", err)
	}
}

func TestShutdownEndsStreams(t *testing.T) {
	n := startNode(t, nil)
	stream, idle := n.openStream("root"), n.openStream("root")
	exchange(t, idle, &tocsinv1.PublishStreamRequest{Sequence: 1})
	const requests = 200
	for i := range requests {
		if err := stream.Send(&tocsinv1.PublishStreamRequest{Sequence: uint64(i + 1), Events: orders(strconv.Itoa(i))}); err != nil {
			t.Fatal(err)
		}
	}
	r, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	watch, err := healthpb.NewHealthClient(n.dial()).Watch(as(t, ""), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := watch.Recv(); err != nil || r.Status != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("%v, %v", r, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := n.calls.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	for accepted := r.Accepted; ; accepted += r.Accepted {
		if r, err = stream.Recv(); err == nil {
			continue
		}
		wantCode(t, err, codes.Unavailable, "the server stops")
		if stored := len(n.shop()); uint64(stored) < accepted {
			t.Errorf("%d events were acknowledged, %d are stored", accepted, stored)
		}
		break
	}
	_, err = idle.Recv()
	wantCode(t, err, codes.Unavailable, "the server stops")
	if r, err := watch.Recv(); err != nil || r.Status != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("watching: %v, %v", r, err)
	}
	_, err = watch.Recv()
	wantCode(t, err, codes.Unavailable, "the server stops")
	_, err = tocsinv1.NewPublisherClient(n.dial()).Publish(as(t, "root"), &tocsinv1.PublishRequest{Events: orders("late")})
	wantCode(t, err, codes.Unavailable, "the server stops")
}
