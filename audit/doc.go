// Package audit gives a Go service an audit trail: who did what, to what, when, from where,
// and what became of it. A [Logger] takes events, keeps them in a queue in memory or on
// disk, and brings them to sinks, each at its own pace: a Tocsin hub, files, webhooks, and
// whatever implements [Sink]. A sink that is down delays neither the service nor another
// sink.
//
// With a durable queue, [Logger.Log] returns when the event is on the disk, and the event is
// delivered at least once, whatever happens to the process.
//
// [Middleware] makes an event of each HTTP request; package auditgrpc does so for gRPC.
package audit
