// Package deliver brings events to sinks: one engine for all kinds of them. Each sink has a
// [Delivery] of its own, a cursor that reads the journal at its own pace, sends in batches,
// tries again for as long as it must, sets aside what the endpoint refuses, and remembers
// durably how far it has come. So a sink that is slow, or whose receiver is down for days,
// delays nobody else, costs no memory, and loses nothing that the journal still has.
//
// Delivered is at least once: what was on its way in a crash, or delivered since the
// progress was stored last, is sent again, with the same event ids.
package deliver
