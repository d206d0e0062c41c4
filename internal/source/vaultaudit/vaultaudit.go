// Package vaultaudit is the source for the audit logs of Vault and OpenBao. A
// [Translator] turns a line of the log into events: the audit event, which keeps
// the bytes of the entry, and the notifications derived from it. A [Source] reads what
// the audit devices of one server write, from files and inboxes, and brings these
// events into the journal, each entry once, over rotations of files, several devices,
// and crashes of the program. [Events] does the same for a log that is read once,
// without a journal.
//
// How entries are understood is the business of the packages auditlog and
// derivation, how files are followed that of package tail, how lines are received
// that of package inbox and those who fill it.
//
// The way of a line:
//
//	readers, one for each file and inbox        source.go, files.go
//	the feed, which gives them turns            feed.go
//	translation: what is new becomes events     translation.go, window.go, replay.go
//	appender: events to the journal, in order   appending.go
//	progress: where to go on after a restart    progress.go, record.go
package vaultaudit

// PayloadBucket is the object store that keeps the bytes of audit entries that are
// too large for an event. The name of an object is the SHA-256 of its bytes in
// hexadecimal.
const PayloadBucket = "tocsin-payloads"

// PayloadPath and the name of an object in [PayloadBucket] are the DataRef of the
// event whose bytes it has.
const PayloadPath = "/api/v1/payloads/"
