// Package flipt is an audit package with the events of Flipt v1: the same JSON (version 0.2, and
// reading 0.1), the same "noun:verb" pairs, the same sinks, by our own code. It is for
// programs that used Flipt's audit package, and for receivers that know its events.
//
// [NewEvent] makes an event, a [Logger] asks an [EventPairChecker] whether it is wanted and gives it to a
// [Fanout], which brings it to sinks: [NewWebhookSink], [NewTemplateSink], [NewLogSink], or your own
// [Sink].
//
//	checker, err := flipt.NewChecker([]string{"*:created", "flag:deleted"})
//	...
//	logger := flipt.NewLogger(checker, flipt.NewFanout([]flipt.Sink{webhook, file}, flipt.FanoutOptions{}))
//	defer logger.Shutdown(ctx)
//	err = logger.Log(ctx, flipt.NewEvent(request, actor, payload))
//
// Events that were put into spans of OpenTelemetry come by way of package fliptotel, package
// fliptzap writes them with zap. Package audit is the larger library, with a queue on disk:
// package fliptaudit gives it to these events and these sinks.
//
// # What differs
//
// The formats do not. What happens to an event does:
//
//   - No span is needed, so that sampling and limits of tracing drop nothing.
//   - Each sink has a queue of its own. One that is down or slow holds up no other.
//   - A sink says which events it failed to deliver ([DeliveryError]) and whether trying again can
//     help. Those are tried again until the queue is full or the program ends; what is given up is
//     counted and handed to [FanoutOptions.GiveUp] with the event, never only logged.
//   - Redirects are not followed, every 2xx is a success, and every other answer a failure.
//   - Values in templates are escaped unless [TemplateOptions.Verbatim] is set.
//   - Errors of writing a log are returned.
package flipt
