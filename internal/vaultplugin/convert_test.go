package vaultplugin

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tocsin-events/tocsin/event"
	pb "github.com/tocsin-events/tocsin/proto/tocsin/vaultplugin/v1"
)

var fullAuth = &Auth{
	Lease:        Lease{TTL: time.Hour, MaxTTL: 2 * time.Hour, Increment: time.Minute, IssueTime: time.Unix(1e9, 5).UTC(), Renewable: true},
	InternalData: map[string]any{"a": json.Number("1")},
	DisplayName:  "dn", Policies: []string{"p"}, TokenPolicies: []string{"tp"}, IdentityPolicies: []string{"ip"}, NoDefaultPolicy: true,
	Metadata: map[string]string{"m": "1"}, ClientToken: "ct", Accessor: "ac", Period: 3, ExplicitMaxTTL: 4, NumUses: 5, EntityID: "ent",
	Alias:        &Alias{ID: "i", Name: "n", MountType: "mt", MountAccessor: "ma", Metadata: map[string]string{"x": "y"}, CustomMetadata: map[string]string{"c": "m"}, NamespaceID: "ns", Local: true, ExternalID: "ex", Issuer: "is"},
	GroupAliases: []*Alias{{Name: "g"}}, BoundCIDRs: []string{"10.0.0.0/8"}, TokenType: TokenBatch,
}

// Every field of what goes both ways survives.
func TestAuthAndSecretRoundTrip(t *testing.T) {
	for i := range reflect.TypeFor[Auth]().NumField() {
		if reflect.ValueOf(*fullAuth).Field(i).IsZero() {
			t.Fatalf("the test leaves %s out", reflect.TypeFor[Auth]().Field(i).Name)
		}
	}
	secret := &Secret{Lease: fullAuth.Lease, InternalData: map[string]any{"s": nil}, LeaseID: "l"}
	auth, err := authToWire(fullAuth)
	if err != nil {
		t.Fatal(err)
	}
	gotAuth, err := authFromWire(auth)
	if err != nil || !reflect.DeepEqual(gotAuth, fullAuth) {
		t.Errorf("got  %+v, %v\nwant %+v", gotAuth, err, fullAuth)
	}
	wire, err := secretToWire(secret)
	if err != nil {
		t.Fatal(err)
	}
	gotSecret, err := secretFromWire(wire)
	if err != nil || !reflect.DeepEqual(gotSecret, secret) {
		t.Errorf("got  %+v, %v\nwant %+v", gotSecret, err, secret)
	}
	// Plugins cannot do without a time.
	if wire, _ := secretToWire(new(Secret)); wire.Lease.IssueTime == nil || wire.InternalData != "null" {
		t.Errorf("got %v", wire)
	}
}

// Every field of a request is sent.
func TestRequestToWire(t *testing.T) {
	r := &Request{
		ID: "1", Operation: UpdateOperation, Path: "p", Data: map[string]any{"a": json.Number("1")}, Secret: new(Secret), Auth: new(Auth),
		Headers: map[string][]string{"H": {"a", "b"}}, ClientToken: "2", ClientTokenAccessor: "3", ClientTokenRemainingUses: 4, DisplayName: "5", EntityID: "6",
		MountPoint: "7", MountType: "8", MountAccessor: "9", Unauthenticated: true,
		Connection: &Connection{RemoteAddr: "10", RemotePort: 11, TLS: &tls.ConnectionState{
			Version: 12, HandshakeComplete: true, DidResume: true, CipherSuite: 13, NegotiatedProtocol: "h2", ServerName: "14",
			PeerCertificates: []*x509.Certificate{{Raw: []byte("15")}}, VerifiedChains: [][]*x509.Certificate{{{Raw: []byte("16")}}},
			SignedCertificateTimestamps: [][]byte{{17}}, OCSPResponse: []byte{18}, TLSUnique: []byte{19},
		}},
	}
	for i := range reflect.TypeFor[Request]().NumField() {
		if reflect.ValueOf(*r).Field(i).IsZero() {
			t.Fatalf("the test leaves %s out", reflect.TypeFor[Request]().Field(i).Name)
		}
	}
	got, err := requestToWire(r)
	if err != nil {
		t.Fatal(err)
	}
	lease := leaseToWire(Lease{})
	want := &pb.Request{
		Id: "1", Operation: "update", Path: "p", Data: `{"a":1}`, Secret: &pb.Secret{Lease: lease, InternalData: "null"}, Auth: &pb.Auth{Lease: lease, InternalData: "null"},
		Headers: map[string]*pb.Header{"H": {Values: []string{"a", "b"}}}, ClientToken: "2", ClientTokenAccessor: "3", ClientTokenRemainingUses: 4, DisplayName: "5", EntityId: "6",
		MountPoint: "7", MountType: "8", MountAccessor: "9", Unauthenticated: true,
		Connection: &pb.Connection{RemoteAddr: "10", RemotePort: 11, Tls: &pb.TLSState{
			Version: 12, HandshakeComplete: true, DidResume: true, CipherSuite: 13, NegotiatedProtocol: "h2", NegotiatedProtocolIsMutual: true, ServerName: "14",
			PeerCertificates:            &pb.CertificateChain{Certificates: []*pb.Certificate{{Der: []byte("15")}}},
			VerifiedChains:              []*pb.CertificateChain{{Certificates: []*pb.Certificate{{Der: []byte("16")}}}},
			SignedCertificateTimestamps: [][]byte{{17}}, OcspResponse: []byte{18}, TlsUnique: []byte{19},
		}},
	}
	if !proto.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestErrorText(t *testing.T) {
	for _, tt := range []struct {
		r    *Response
		want string
	}{
		{nil, ""},
		{&Response{}, ""},
		{&Response{Data: map[string]any{"error": "x"}}, "x"},
		{&Response{Data: map[string]any{"error": "x", "data": 1}}, "x"},
		{&Response{Data: map[string]any{"error": "x", "data": nil}}, ""},
		{&Response{Data: map[string]any{"error": "x", "other": 1}}, ""},
		{&Response{Data: map[string]any{"error": 1}}, ""},
	} {
		if got, failed := tt.r.ErrorText(); got != tt.want || failed != (tt.want != "") {
			t.Errorf("%+v: got %q, %v", tt.r, got, failed)
		}
	}
}

func TestHTTPStatus(t *testing.T) {
	for kind, want := range []int{500, 400, 500, 418, 400, 405, 404, 400, 403, 500, 500, 500} {
		if got := (&RemoteError{Kind: Kind(kind), Code: 418}).HTTPStatus(); got != want {
			t.Errorf("kind %d: got %d, want %d", kind, got, want)
		}
	}
	for _, code := range []int{-1, 0, 200, 302, 600} {
		if got := (&RemoteError{Kind: KindCoded, Code: code}).HTTPStatus(); got != 500 {
			t.Errorf("code %d: got %d", code, got)
		}
	}
}

func TestFieldsFromWire(t *testing.T) {
	deep := structpb.NewNullValue()
	for range maxDepth {
		deep = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{deep}})
	}
	for _, tt := range []struct {
		in   map[string]*structpb.Value
		want event.Fields
		err  error
	}{
		{in: nil, want: event.Fields{}},
		{in: map[string]*structpb.Value{"b": structpb.NewStringValue("x"), "a": structpb.NewBoolValue(true), "": nil},
			want: event.Fields{{Key: "", Value: "null", JSON: true}, {Key: "a", Value: "true", JSON: true}, {Key: "b", Value: "x"}}},
		{in: map[string]*structpb.Value{"n": structpb.NewNumberValue(1e300), "i": structpb.NewNumberValue(-3)},
			want: event.Fields{{Key: "i", Value: "-3", JSON: true}, {Key: "n", Value: "1e+300", JSON: true}}},
		{in: map[string]*structpb.Value{"n": structpb.NewNumberValue(math.Inf(1))}, err: errNumber},
		{in: map[string]*structpb.Value{"n": deep}, err: errDepth},
		{in: map[string]*structpb.Value{"n": deep.GetListValue().Values[0]}, want: event.Fields{{Key: "n", Value: strings.Repeat("[", maxDepth-1) + "null" + strings.Repeat("]", maxDepth-1), JSON: true}}},
	} {
		got, err := fieldsFromWire(&structpb.Struct{Fields: tt.in})
		if !errors.Is(err, tt.err) || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%v: got %v, %v, want %v, %v", tt.in, got, err, tt.want, tt.err)
		}
	}
	if got, err := fieldsFromWire(nil); got != nil || err != nil {
		t.Errorf("got %v, %v", got, err)
	}
}

func FuzzHandleReply(f *testing.F) {
	for _, m := range []*pb.HandleReply{
		{},
		{Response: &pb.Response{Data: `{"a":[1,null,{"b":"c"}]}`, Warnings: []string{"w"}, Headers: map[string]*pb.Header{"a": nil, "b": {Values: []string{""}}}}},
		{Response: &pb.Response{Data: "{}{}"}, Error: &pb.Error{Kind: 3, Code: 404}},
		{Response: &pb.Response{Auth: &pb.Auth{Lease: leaseToWire(fullAuth.Lease), Alias: &pb.Alias{}, GroupAliases: []*pb.Alias{nil, {}}}, Secret: &pb.Secret{InternalData: "{}"}}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var reply pb.HandleReply
		if proto.Unmarshal(b, &reply) != nil {
			return
		}
		var remote *RemoteError
		if err := errorFromWire(reply.Error); err != nil && (!errors.As(err, &remote) || remote.Error() == "" || remote.HTTPStatus() < 400) {
			t.Errorf("error is %#v", err)
		}
		r, err := responseFromWire(reply.Response)
		if err != nil {
			if !errors.Is(err, ErrProtocol) {
				t.Errorf("got %v", err)
			}
			return
		}
		if r == nil {
			return
		}
		r.ErrorText()
		if _, err := json.Marshal(r.Data); err != nil {
			t.Errorf("data cannot be passed on: %v", err)
		}
		if _, err := requestToWire(&Request{Data: r.Data, Auth: r.Auth, Secret: r.Secret, Headers: r.Headers}); err != nil {
			t.Errorf("what came from a plugin cannot go back: %v", err)
		}
	})
}

func FuzzSendEvent(f *testing.F) {
	metadata, err := structpb.NewStruct(map[string]any{"path": "a/b", "n": 1.5, "l": []any{nil, true, map[string]any{"x": "y"}}})
	if err != nil {
		f.Fatal(err)
	}
	for _, m := range []*pb.SendEventRequest{
		{},
		{EventType: "a/b", Event: &pb.EventData{Id: "1", Metadata: metadata, EntityIds: []string{"e"}, Note: "n"}},
		{Event: &pb.EventData{Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{"": {}, "n": structpb.NewNumberValue(math.NaN())}}}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var request pb.SendEventRequest
		if proto.Unmarshal(b, &request) != nil {
			return
		}
		data, err := eventFromWire(request.Event)
		if err != nil {
			return
		}
		if data == nil || (data.Metadata == nil) != (request.GetEvent().GetMetadata() == nil) {
			t.Errorf("got %+v", data)
		}
		for i, field := range data.Metadata {
			if i > 0 && data.Metadata[i-1].Key >= field.Key {
				t.Error("keys are not in order")
			}
			if field.JSON && (!json.Valid([]byte(field.Value)) || field.Value[0] == '"') {
				t.Errorf("%q is not JSON", field.Value)
			}
		}
	})
}
