// Package vaultaudit is the source for the audit logs of Vault and OpenBao. A
// [Translator] turns a line of the log into events: the audit event, which keeps
// the bytes of the entry, and the notifications derived from it. A [File] follows
// the file of an audit device and brings these events into the journal, each line
// once, over rotations of the file and crashes of the program. [Events] does
// the same for a log that is read once, without a journal.
//
// How entries are understood is the business of the packages auditlog and
// derivation, how files are followed that of package tail.
package vaultaudit

// PayloadBucket is the object store that keeps the bytes of audit entries that are
// too large for an event. The name of an object is the SHA-256 of its bytes in
// hexadecimal.
const PayloadBucket = "tocsin-payloads"

// PayloadPath and the name of an object in [PayloadBucket] are the DataRef of the
// event whose bytes it has.
const PayloadPath = "/api/v1/payloads/"
