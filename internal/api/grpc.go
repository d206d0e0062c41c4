package api

import (
	"net/http"

	"google.golang.org/grpc/codes"

	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/grpcapi"
	"github.com/tocsin-events/tocsin/internal/publish"
)

// serveGRPC says who makes a gRPC call, or refuses it, before anything of its messages
// is read.
func (a *API) serveGRPC(w http.ResponseWriter, r *http.Request) {
	if !grpcapi.NeedsCaller(r.URL.Path) {
		a.grpc.Serve(w, r, nil)
		return
	}
	namespace, id, refused := a.admitCaller(r)
	denied := publishAttempt(r, namespace, id)
	if refused != nil {
		a.requests.Refused(refused.reason()).Inc()
		a.recordRefusal(denied, refused)
		grpcapi.Refuse(w, r, refused.grpc())
		return
	}
	a.grpc.Serve(w, r, &grpcapi.Caller{
		Publisher: id,
		Namespace: namespace,
		Follow: func(ended func(string)) func() {
			// Changed policies count for the next event by themselves.
			return a.authority.Follow(id, func() {}, func(reason access.Ended) { ended(string(reason)) })
		},
		Refused: func(all []*publish.Refusal) { a.recordDenied(denied, all) },
	})
}

// admitCaller returns who makes a call in which namespace, and takes a use of the token.
func (a *API) admitCaller(r *http.Request) (namespace string, id access.Identity, refused *refusal) {
	if namespace, refused = headerNamespace(r); refused != nil {
		return "", id, refused
	}
	if namespace, refused = joinNamespace(namespace, ""); refused != nil {
		return "", id, refused
	}
	if id, refused = a.authenticate(r, namespace); refused != nil {
		return namespace, id, refused
	}
	return namespace, id, a.use(r, id)
}

// grpc is the refusal as the status of a call.
func (f *refusal) grpc() error {
	code := codes.Internal
	switch f.status {
	case http.StatusBadRequest:
		code = codes.InvalidArgument
	case http.StatusForbidden: // nothing but authentication is refused like that
		code = codes.Unauthenticated
	case http.StatusTooManyRequests:
		code = codes.ResourceExhausted
	case http.StatusServiceUnavailable:
		code = codes.Unavailable
	}
	return grpcapi.Status(code, denial(f.text), f.after)
}
