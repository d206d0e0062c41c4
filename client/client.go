// Package client subscribes to the events of a Tocsin hub, and publishes events to it.
//
// [Subscribe] reads event notifications (also from a Vault server, which speaks the same
// protocol) and resumes by itself: when a
// connection ends, it connects again and goes on behind the last event, so each
// event is returned once. What the hub has removed in the meantime is reported,
// never skipped silently.
//
// A server that is not a Tocsin hub keeps no history. There the client connects
// again as well, and reports that events may have been missed.
//
// A [Publisher] takes events without waiting ([SendEvent]) or returns when they are
// durable ([Publisher.Publish]). It keeps them while the hub cannot be reached, in
// memory or in a [Spool] on disk.
package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/tocsin-events/tocsin/internal/address"
)

// Format is the encoding of the events that the server sends.
type Format string

// The formats of a subscription.
const (
	FormatVault       Format = "vault"       // Vault's JSON envelope; the default
	FormatCloudEvents Format = "cloudevents" // CloudEvents 1.0 JSON, with the data of the event
)

// DefaultMaxMessageBytes is the largest message that a subscription accepts
// unless told otherwise. It leaves room for the largest event that a hub can be
// configured to accept (8 MiB) with escapes.
const DefaultMaxMessageBytes = 64 << 20

// Options say what to subscribe to. Address is required.
type Options struct {
	// Address is the URL of the server, "http://127.0.0.1:8280". A host and port
	// alone mean http. A path is kept as a prefix.
	Address string
	// Token is sent in the header X-Vault-Token, never in the URL.
	Token string
	// Namespace is the namespace of the request; empty for root.
	Namespace string
	// Namespaces are globs, relative to Namespace, of further namespaces whose
	// events are wanted: "*" for all below.
	Namespaces []string
	// Filter is a go-bexpr expression over event_type, operation,
	// source_plugin_mount, data_path, namespace and source_plugin_is_local.
	Filter string
	// Since is where to begin: a position that a [Message] told, an event id, an
	// RFC 3339 time or a duration ("1h": what happened in the last hour). Empty
	// means only events from now on.
	Since string
	// NoFollow ends the subscription when all has come that the server had at the beginning:
	// Next then returns io.EOF. Only a Tocsin hub can do that.
	NoFollow bool
	// Format is FormatVault if empty.
	Format Format
	// MaxMessageBytes bounds one message; 0 means [DefaultMaxMessageBytes].
	MaxMessageBytes int64
	// HTTPClient makes the handshake, for example with a private CA or a client
	// certificate. A nil HTTPClient means [http.DefaultClient]. Unless it has a
	// CheckRedirect of its own, up to ten redirects are followed, as the standby nodes
	// of a cluster answer them, but none from https to http.
	HTTPClient *http.Client
	// Notify is called by [Subscription.Next], in its goroutine, about what
	// happens to the connection. It may be nil.
	Notify func(Notice)
}

// Notice is news about the connection of a subscription or publisher.
type Notice struct {
	Kind NoticeKind
	// Err is why the connection ended or could not be made, or what was missed, refused or
	// lost. It is nil for [Reconnected] and [SpoolWorks].
	Err error
	// Retry is how long it waits before it connects; only of [Disconnected].
	Retry time.Duration
	// Refusal is what Err says about an event; only of [Refused].
	Refusal *Refusal
}

// NoticeKind is what a [Notice] is about.
type NoticeKind int

// The kinds of notices.
const (
	// Disconnected: there is no connection; another attempt follows.
	Disconnected NoticeKind = iota
	// Reconnected: events flow again, from the one after the last.
	Reconnected
	// Gap: events that the subscriber was due are not there any more; it goes on
	// with the oldest that is.
	Gap
	// Refused: the hub does not want an event of a publisher.
	Refused
	// Warned: the hub stored an event of a publisher, which is not as it should be.
	Warned
	// SpoolFailed: the disk does not take the events of a publisher; they are kept in
	// memory.
	SpoolFailed
	// SpoolWorks: it takes them again.
	SpoolWorks
	// Lost: events in the spool cannot be read. Err is wrapped with the file, which is
	// kept.
	Lost
)

// Subscribe connects to the server and returns when the subscription is live:
// an event that is recorded after Subscribe has returned is delivered. The first
// connection is tried once; later ones are repeated until they succeed or are
// refused.
//
// The eventType is a glob such as "kv-v2/*"; "*" means every event. The context
// covers the first connection only. Errors are described at [StatusError].
func Subscribe(ctx context.Context, eventType string, o Options) (*Subscription, error) {
	return subscribe(ctx, eventType, o, defaultTiming)
}

func subscribe(ctx context.Context, eventType string, o Options, t timing) (*Subscription, error) {
	target, err := subscribeURL(eventType, o)
	if err != nil {
		return nil, err
	}
	o.MaxMessageBytes = cmp.Or(o.MaxMessageBytes, DefaultMaxMessageBytes)
	httpClient := *cmp.Or(o.HTTPClient, http.DefaultClient)
	if httpClient.CheckRedirect == nil {
		httpClient.CheckRedirect = checkRedirect
	}
	o.HTTPClient = &httpClient
	s := &Subscription{target: target, options: o, timing: t}
	s.done, s.close = context.WithCancel(context.Background())
	if err := s.connect(ctx); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// checkRedirect follows a redirect unless it would send the token unencrypted
// although it was to be encrypted.
func checkRedirect(r *http.Request, via []*http.Request) error {
	switch {
	case len(via) > 10:
		return errors.New("stopped after 10 redirects")
	case via[0].URL.Scheme == "https" && r.URL.Scheme != "https":
		return fmt.Errorf("the server redirects from https to %s, which would send the token unencrypted", r.URL.Scheme)
	}
	return nil
}

// subscribeURL returns the URL of the endpoint without the query.
func subscribeURL(eventType string, o Options) (*url.URL, error) {
	u, err := address.Parse(o.Address)
	switch {
	case err != nil:
		return nil, err
	case eventType == "":
		return nil, errors.New("no event type is given; \"*\" means every type")
	}
	u.Path += "/v1/sys/events/subscribe/" + eventType
	return u, nil
}

// query returns the query of a connection that begins after since.
func (o *Options) query(since string) string {
	q := url.Values{"json": {"true"}, "sequence": {"true"}}
	for _, ns := range o.Namespaces {
		q.Add("namespaces", ns)
	}
	if o.Filter != "" {
		q.Set("filter", o.Filter)
	}
	if since != "" {
		q.Set("since", since)
	}
	if o.NoFollow {
		q.Set("follow", "false")
	}
	if o.Format == FormatCloudEvents {
		q.Set("format", "cloudevents")
	}
	return q.Encode()
}

func (o *Options) header() http.Header {
	h := http.Header{"X-Vault-Request": {"true"}}
	if o.Token != "" {
		h.Set("X-Vault-Token", o.Token)
	}
	if o.Namespace != "" {
		h.Set("X-Vault-Namespace", o.Namespace)
	}
	return h
}
