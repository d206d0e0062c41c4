// Package deliver brings events to sinks: one engine for all kinds of them. Each sink has a
// [Delivery] of its own, a cursor that reads the journal at its own pace, sends in batches,
// tries again for as long as it must, sets aside what the endpoint refuses, and remembers
// durably how far it has come. So a sink that is slow, or whose receiver is down for days,
// delays nobody else, costs a bounded amount of memory, and loses nothing that the journal
// still has.
//
// Delivered is at least once: what was on its way in a crash, or delivered since the
// progress was stored last, is sent again, with the same event ids.
//
// # How it works
//
// A goroutine reads records of the journal, leaves out what is not for the sink, and puts the
// rest into a stream in one go. It reads on until the window is full: so many events, or
// so much memory, beginning with the oldest event that is not decided. Few events of large
// records are copied, so that they do not keep these in memory.
//
// Up to Policy.Concurrency workers cut batches from the front of the stream and hand them to
// the sink. There is no queue per worker or path: what can be sent is in one line in the
// order of the journal, so that batches are full however many paths there are. A path that
// has an event on its way, or one that has to wait, is owned by it; later events of the path
// step aside until it is decided, and then to the front again (see lane.go).
//
// All workers pass a gate. After a failure that says nothing about the events, or nothing
// certain, nobody sends until a random time is over that doubles with each failure, or the
// one that the receiver asked for. Then one batch is tried at a time, until one is taken.
// During such an outage fresh events and those that have failed before are tried alternately,
// so that one bad event does not look like an endpoint that is down.
//
// A batch that is refused as a whole, or with which the sink fails, is sent again in halves,
// until those events are alone that are to blame. An event is decided when it is delivered,
// or durably a dead letter. Setting aside is the work of another goroutine, the clerk: while
// the store has no room, the path waits and others go on.
//
// The place up to which everything is decided is stored in the background, soon after
// something was delivered, but not more often than the store can bear. A sink that is a
// [Syncer] is synced before. When that fails, nobody knows what is lost, and everything
// since the stored place is sent again.
//
// Replays and redrives are streams like the live one, with a small share of the workers.
//
// Everything above is guarded by one lock per delivery, which is held for a moment per batch
// and per record.
package deliver
