package vaultplugin

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/tocsin-events/tocsin/proto/tocsin/vaultplugin/v1"
)

func requestToWire(r *Request) (*pb.Request, error) {
	data, err := objectToWire(r.Data)
	if err != nil {
		return nil, fmt.Errorf("data of the request: %w", err)
	}
	secret, err := secretToWire(r.Secret)
	if err != nil {
		return nil, err
	}
	auth, err := authToWire(r.Auth)
	if err != nil {
		return nil, err
	}
	return &pb.Request{
		Id:                       r.ID,
		Operation:                string(r.Operation),
		Path:                     r.Path,
		Data:                     data,
		Secret:                   secret,
		Auth:                     auth,
		Headers:                  headersToWire(r.Headers),
		ClientToken:              r.ClientToken,
		ClientTokenAccessor:      r.ClientTokenAccessor,
		ClientTokenRemainingUses: int64(r.ClientTokenRemainingUses),
		DisplayName:              r.DisplayName,
		EntityId:                 r.EntityID,
		MountPoint:               r.MountPoint,
		MountType:                r.MountType,
		MountAccessor:            r.MountAccessor,
		Unauthenticated:          r.Unauthenticated,
		Connection:               connectionToWire(r.Connection),
	}, nil
}

func responseFromWire(r *pb.Response) (*Response, error) {
	if r == nil {
		return nil, nil
	}
	data, err := objectFromWire("data", r.Data)
	if err != nil {
		return nil, err
	}
	auth, err := authFromWire(r.Auth)
	if err != nil {
		return nil, err
	}
	secret, err := secretFromWire(r.Secret)
	if err != nil {
		return nil, err
	}
	response := &Response{
		Data:      data,
		Warnings:  r.Warnings,
		Redirect:  r.Redirect,
		Auth:      auth,
		Secret:    secret,
		Headers:   headersFromWire(r.Headers),
		MountType: r.MountType,
	}
	if w := r.WrapInfo; w != nil {
		response.Wrap = &WrapInfo{TTL: time.Duration(w.Ttl), Format: w.Format}
	}
	return response, nil
}

// objectToWire makes the JSON text of an object; nil is null, as plugins expect.
func objectToWire(object map[string]any) (string, error) {
	b, err := json.Marshal(object)
	return string(b), err
}

// maxValues bounds the values in an object of a plugin, each of which takes many times its
// bytes in memory.
const maxValues = 1 << 20

// tooMany says whether a JSON text may have more values than maxValues, without parsing it.
func tooMany(text string) bool {
	values, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ',' || c == '[' || c == '{'):
			values++
		}
	}
	return values > maxValues
}

// objectFromWire reads the JSON text of an object. Numbers keep all their digits.
func objectFromWire(what, text string) (map[string]any, error) {
	if text == "" || text == "null" {
		return nil, nil
	}
	if tooMany(text) {
		return nil, fmt.Errorf("%w: %s has more than %d values", ErrProtocol, what, maxValues)
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var object map[string]any
	if err := d.Decode(&object); err != nil {
		return nil, fmt.Errorf("%w: %s is not a JSON object: %w", ErrProtocol, what, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: %s has more than a JSON object", ErrProtocol, what)
	}
	return object, nil
}

func headersToWire(headers map[string][]string) map[string]*pb.Header {
	if len(headers) == 0 {
		return nil
	}
	wire := make(map[string]*pb.Header, len(headers))
	for name, values := range headers {
		wire[name] = &pb.Header{Values: values}
	}
	return wire
}

func headersFromWire(wire map[string]*pb.Header) map[string][]string {
	if len(wire) == 0 {
		return nil
	}
	headers := make(map[string][]string, len(wire))
	for name, h := range wire {
		headers[name] = h.GetValues()
	}
	return headers
}

func leaseToWire(l Lease) *pb.Lease {
	return &pb.Lease{
		Ttl:       int64(l.TTL),
		MaxTtl:    int64(l.MaxTTL),
		Increment: int64(l.Increment),
		IssueTime: timestamppb.New(l.IssueTime), // required also when zero
		Renewable: l.Renewable,
	}
}

func leaseFromWire(l *pb.Lease) (Lease, error) {
	lease := Lease{
		TTL:       time.Duration(l.GetTtl()),
		MaxTTL:    time.Duration(l.GetMaxTtl()),
		Increment: time.Duration(l.GetIncrement()),
		Renewable: l.GetRenewable(),
	}
	if t := l.GetIssueTime(); t != nil {
		if err := t.CheckValid(); err != nil {
			return Lease{}, fmt.Errorf("%w: issue time: %w", ErrProtocol, err)
		}
		lease.IssueTime = t.AsTime()
	}
	return lease, nil
}

func secretToWire(s *Secret) (*pb.Secret, error) {
	if s == nil {
		return nil, nil
	}
	data, err := objectToWire(s.InternalData)
	if err != nil {
		return nil, fmt.Errorf("internal data of the secret: %w", err)
	}
	return &pb.Secret{Lease: leaseToWire(s.Lease), InternalData: data, LeaseId: s.LeaseID}, nil
}

func secretFromWire(s *pb.Secret) (*Secret, error) {
	if s == nil {
		return nil, nil
	}
	data, err := objectFromWire("internal data of the secret", s.InternalData)
	if err != nil {
		return nil, err
	}
	lease, err := leaseFromWire(s.Lease)
	if err != nil {
		return nil, err
	}
	return &Secret{Lease: lease, InternalData: data, LeaseID: s.LeaseId}, nil
}

func authToWire(a *Auth) (*pb.Auth, error) {
	if a == nil {
		return nil, nil
	}
	data, err := objectToWire(a.InternalData)
	if err != nil {
		return nil, fmt.Errorf("internal data of the login: %w", err)
	}
	wire := &pb.Auth{
		Lease:            leaseToWire(a.Lease),
		InternalData:     data,
		DisplayName:      a.DisplayName,
		Policies:         a.Policies,
		TokenPolicies:    a.TokenPolicies,
		IdentityPolicies: a.IdentityPolicies,
		NoDefaultPolicy:  a.NoDefaultPolicy,
		Metadata:         a.Metadata,
		ClientToken:      a.ClientToken,
		Accessor:         a.Accessor,
		Period:           int64(a.Period),
		ExplicitMaxTtl:   int64(a.ExplicitMaxTTL),
		NumUses:          int64(a.NumUses),
		EntityId:         a.EntityID,
		Alias:            aliasToWire(a.Alias),
		BoundCidrs:       a.BoundCIDRs,
		TokenType:        uint32(a.TokenType),
	}
	for _, alias := range a.GroupAliases {
		if alias != nil {
			wire.GroupAliases = append(wire.GroupAliases, aliasToWire(alias))
		}
	}
	return wire, nil
}

func authFromWire(a *pb.Auth) (*Auth, error) {
	if a == nil {
		return nil, nil
	}
	data, err := objectFromWire("internal data of the login", a.InternalData)
	if err != nil {
		return nil, err
	}
	lease, err := leaseFromWire(a.Lease)
	if err != nil {
		return nil, err
	}
	auth := &Auth{
		Lease:            lease,
		InternalData:     data,
		DisplayName:      a.DisplayName,
		Policies:         a.Policies,
		TokenPolicies:    a.TokenPolicies,
		IdentityPolicies: a.IdentityPolicies,
		NoDefaultPolicy:  a.NoDefaultPolicy,
		Metadata:         a.Metadata,
		ClientToken:      a.ClientToken,
		Accessor:         a.Accessor,
		Period:           time.Duration(a.Period),
		ExplicitMaxTTL:   time.Duration(a.ExplicitMaxTtl),
		NumUses:          int(a.NumUses),
		EntityID:         a.EntityId,
		Alias:            aliasFromWire(a.Alias),
		BoundCIDRs:       a.BoundCidrs,
		TokenType:        TokenType(a.TokenType),
	}
	for _, alias := range a.GroupAliases {
		auth.GroupAliases = append(auth.GroupAliases, aliasFromWire(alias))
	}
	return auth, nil
}

func aliasToWire(a *Alias) *pb.Alias {
	if a == nil {
		return nil
	}
	return &pb.Alias{
		Id:             a.ID,
		Name:           a.Name,
		MountType:      a.MountType,
		MountAccessor:  a.MountAccessor,
		Metadata:       a.Metadata,
		CustomMetadata: a.CustomMetadata,
		NamespaceId:    a.NamespaceID,
		Local:          a.Local,
		ExternalId:     a.ExternalID,
		Issuer:         a.Issuer,
	}
}

func aliasFromWire(a *pb.Alias) *Alias {
	if a == nil {
		return nil
	}
	return &Alias{
		ID:             a.Id,
		Name:           a.Name,
		MountType:      a.MountType,
		MountAccessor:  a.MountAccessor,
		Metadata:       a.Metadata,
		CustomMetadata: a.CustomMetadata,
		NamespaceID:    a.NamespaceId,
		Local:          a.Local,
		ExternalID:     a.ExternalId,
		Issuer:         a.Issuer,
	}
}

func entityToWire(e *Entity) *pb.Entity {
	if e == nil {
		return nil
	}
	wire := &pb.Entity{Id: e.ID, Name: e.Name, Metadata: e.Metadata, Disabled: e.Disabled, NamespaceId: e.NamespaceID}
	for _, a := range e.Aliases {
		if a != nil {
			wire.Aliases = append(wire.Aliases, aliasToWire(a))
		}
	}
	return wire
}

func groupsToWire(groups []*Group) []*pb.Group {
	var wire []*pb.Group
	for _, g := range groups {
		if g != nil {
			wire = append(wire, &pb.Group{Id: g.ID, Name: g.Name, Metadata: g.Metadata, NamespaceId: g.NamespaceID})
		}
	}
	return wire
}

func pathsFromWire(p *pb.Paths) Paths {
	return Paths{
		Root:                  p.GetRoot(),
		Unauthenticated:       p.GetUnauthenticated(),
		LocalStorage:          p.GetLocalStorage(),
		SealWrapStorage:       p.GetSealWrapStorage(),
		WriteForwardedStorage: p.GetWriteForwardedStorage(),
		Binary:                p.GetBinary(),
		Limited:               p.GetLimited(),
		AllowSnapshotRead:     p.GetAllowSnapshotRead(),
	}
}

// errorFromWire returns an untyped nil for no error.
func errorFromWire(e *pb.Error) error {
	if e == nil {
		return nil
	}
	remote := &RemoteError{Kind: Kind(e.Kind), Message: e.Message}
	if remote.Kind == KindCoded {
		remote.Code = int(e.Code)
	}
	if remote.Message == "" {
		remote.Message = "the plugin failed and did not say why"
	}
	return remote
}

func connectionToWire(c *Connection) *pb.Connection {
	if c == nil {
		return nil
	}
	return &pb.Connection{RemoteAddr: c.RemoteAddr, RemotePort: int32(c.RemotePort), Tls: tlsToWire(c.TLS)}
}

func tlsToWire(s *tls.ConnectionState) *pb.TLSState {
	if s == nil {
		return nil
	}
	wire := &pb.TLSState{
		Version:                     uint32(s.Version),
		HandshakeComplete:           s.HandshakeComplete,
		DidResume:                   s.DidResume,
		CipherSuite:                 uint32(s.CipherSuite),
		NegotiatedProtocol:          s.NegotiatedProtocol,
		NegotiatedProtocolIsMutual:  s.NegotiatedProtocol != "",
		ServerName:                  s.ServerName,
		PeerCertificates:            chainToWire(s.PeerCertificates),
		SignedCertificateTimestamps: s.SignedCertificateTimestamps,
		OcspResponse:                s.OCSPResponse,
		TlsUnique:                   s.TLSUnique,
	}
	for _, chain := range s.VerifiedChains {
		wire.VerifiedChains = append(wire.VerifiedChains, chainToWire(chain))
	}
	return wire
}

func chainToWire(chain []*x509.Certificate) *pb.CertificateChain {
	if len(chain) == 0 {
		return nil
	}
	wire := new(pb.CertificateChain)
	for _, c := range chain {
		wire.Certificates = append(wire.Certificates, &pb.Certificate{Der: c.Raw})
	}
	return wire
}
