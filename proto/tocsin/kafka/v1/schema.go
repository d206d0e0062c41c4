package kafkav1

import _ "embed" // the schema

// Schema is event.proto. [Event] is its first message.
//
//go:embed event.proto
var Schema string
