package trace

import (
	"regexp"
	"time"

	"github.com/tocsin-events/tocsin/event"
)

// Defaults of [Options].
const (
	DefaultWindow        = 3 * time.Minute
	DefaultMaxBytes      = 90 << 20 // more than 100,000 requests
	DefaultMaxText       = 1 << 10
	DefaultMaxElements   = 64
	DefaultMaxAttributes = 128
	DefaultMaxNames      = 2_000
)

// Options of a Tracer. The zero value is usable.
type Options struct {
	// Window is how long the second entry of a request is waited for. The server lets a
	// request take 90 seconds, and each of the entries may be that late. Zero:
	// DefaultWindow.
	Window time.Duration
	// MaxBytes bounds the memory of open requests; the oldest are closed first. Zero:
	// DefaultMaxBytes.
	MaxBytes int64
	// Resume is the progress to go on from. The events given to Add must then begin
	// behind Resume.Read.
	Resume Progress
	// Fetch returns the data of an event that has DataRef instead. It is called by Add,
	// Flush, Expire and Close, and should give up after some seconds: the span is then
	// made of what the event itself tells. Nil: always so.
	Fetch func(e *event.Event) ([]byte, error)

	// Names are rules for the names of spans, which come before those built in.
	Names []NameRule
	// MaxNames bounds how many different names there are; what would be one more is
	// named by operation and mount type only. Zero: DefaultMaxNames.
	MaxNames int

	// Bare makes spans without attributes, at a fraction of the cost: for those who count
	// requests.
	Bare       bool
	Attributes AttributeOptions
	// Redactions are applied to the texts of attributes and to [Span.Message].
	Redactions []Redaction
}

// AttributeOptions say which attributes a span has.
type AttributeOptions struct {
	// Allow and Deny are globs on names of attributes, in which * stands for any text, for
	// example "request.headers.*". What Deny matches is left out. Otherwise, if Allow is
	// not empty, what it does not match is left out, except the attributes whose names
	// do not begin with "auth.", "request." or "response.". What is below request.data and
	// response.data is left out unless Allow matches it.
	Allow, Deny []string
	// MaxText is how many bytes of a text are kept. Zero: DefaultMaxText.
	MaxText int
	// MaxElements is how many elements of a list are kept. Zero: DefaultMaxElements.
	MaxElements int
	// MaxAttributes is how many attributes a span has at most. Zero: DefaultMaxAttributes.
	MaxAttributes int
	// OmitHashed leaves out texts that are hashes made by the audit device.
	OmitHashed bool
}

// NameRule names the spans of some requests.
type NameRule struct {
	// Path is compared with the path of the request, without its namespace: {name} stands
	// for one element, {name...} at the end for all that follow, * in an element for any
	// text in it.
	Path string
	// Name follows the operation in the name of the span; {name} is replaced by what stood
	// there, so the number of names is up to the rule.
	Name string
}

// Redaction replaces parts of texts.
type Redaction struct {
	Key     string         // glob on the name of the attribute; the message of a span counts as "error"
	Pattern *regexp.Regexp // what is replaced
	Replace string         // by what, as in [regexp.Regexp.ReplaceAllString]
}

// Stats count what a Tracer has done. Spans that were suppressed after a restart, because
// they had been given out before, are in Repeated only.
type Stats struct {
	Complete     uint64 // spans of two entries
	Expected     uint64 // spans of one entry that has no other
	RequestOnly  uint64 // spans of a request whose response did not come
	ResponseOnly uint64 // spans of a response whose request was not seen
	Failed       uint64 // of all these, those of requests that failed
	Evicted      uint64 // of RequestOnly and ResponseOnly, those closed early because of MaxBytes
	Duplicates   uint64 // entries that repeat another one, and were passed over
	Repeated     uint64 // spans not given out again after a restart
	Unreadable   uint64 // entries whose data could not be had or understood
	Open         int    // requests that wait for an entry, now
	OpenBytes    int64  // memory that they take, now
}
