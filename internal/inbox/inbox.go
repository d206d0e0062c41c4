// Package inbox takes lines from senders that must never wait, such as audit devices,
// and keeps them until whoever reads them has made them durable: in a bounded memory
// buffer first, then in a spool of files, from which they are read in order.
//
// [Inbox.Put] costs a sender no disk access and no lock that the disk holds. What it
// took is in a file, and so survives the end of the process, within a moment; it
// survives the machine once it is synced or durable elsewhere, which [Inbox.Durable]
// waits for. A part of the space is taken from the disk beforehand, so that lines
// are still kept when the disk is full. What does not fit is counted and told to the
// reader in its place.
//
// It knows lines, not what they say.
package inbox
