package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tocsin-events/tocsin/internal/deliver"
)

// verdict is what became of one event.
type verdict struct {
	outcome deliver.Outcome
	reason  string
	status  int  // code of Kafka's protocol
	replace bool // the client cannot go on
}

// result makes a result of a verdict, without secrets.
func (s *Sink) result(v verdict) deliver.Result {
	return deliver.Result{Outcome: v.outcome, Status: v.status, Reason: s.clean(v.reason)}
}

// clean makes one printable line of what may be the words of a broker, and takes out secrets
// that it may have repeated.
func (s *Sink) clean(text string) string {
	if text == "" {
		return ""
	}
	text = s.secrets.hide(text)
	text = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	for len(text) > deliver.MaxReasonBytes {
		_, n := utf8.DecodeLastRuneInString(text)
		text = text[:len(text)-n]
	}
	return text
}

// judge says what an error means for an event.
func (a *attempt) judge(topic string, err error) verdict {
	v := verdict{outcome: deliver.Retry}
	var code *kerr.Error
	if errors.As(err, &code) {
		v.status = int(code.Code)
	}
	mechanism := a.sink.o.SASL.Mechanism
	if errors.Is(err, context.Canceled) && a.ended() != nil {
		err = a.ended()
	}
	switch {
	case errors.Is(err, errClosed), errors.Is(err, kgo.ErrClientClosed), errors.Is(err, context.Canceled):
		v.reason = "interrupted"
		if t := a.producer.lastTrouble(); t != nil {
			v.reason = "interrupted; " + a.trouble(t)
		}
	case errors.Is(err, context.DeadlineExceeded):
		v.reason = "no acknowledgement in time"
		if t := a.producer.lastTrouble(); t != nil {
			v.reason += "; " + a.trouble(t)
		}
	case errors.Is(err, kgo.ErrMaxBuffered):
		v.reason = "too much is on its way already"
	case code == nil:
		v.reason = a.trouble(err)
	case errors.Is(err, kerr.MessageTooLarge):
		// Its own size is below what is known to be possible, but other records may be in the
		// same batch. Doubtful batches are split, until it is alone.
		v.outcome = deliver.Doubtful
		v.reason = fmt.Sprintf("topic %q does not take %d bytes at once; raise max.message.bytes of the topic, or set max_message_bytes of the sink to what it is", topic, a.producer.maxBytes(topic))
	case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.UnknownTopicID):
		v.reason = fmt.Sprintf("topic %q does not exist; create it, or set auto_topics: true if the brokers make topics", topic)
		if a.sink.o.AutoTopics {
			v.reason = fmt.Sprintf("topic %q does not exist; create it, or set auto.create.topics.enable on the brokers", topic)
		}
		v.replace = errors.Is(err, kerr.UnknownTopicID)
		if a.sink.topic.variable() {
			v.outcome = deliver.Doubtful // the type of an event must not stop all others for ever
		}
	case errors.Is(err, kerr.InvalidTopicException):
		v.reason = fmt.Sprintf("the brokers do not take %q for a topic; names that differ in . and _ only cannot both exist", topic)
		if a.sink.topic.variable() {
			v.outcome = deliver.Doubtful
		}
	case errors.Is(err, kerr.TopicAuthorizationFailed):
		v.reason = fmt.Sprintf("%s may not write to topic %q; allow it WRITE and DESCRIBE there", a.who(), topic)
	case errors.Is(err, kerr.ClusterAuthorizationFailed):
		v.reason = fmt.Sprintf("%s may not write as an idempotent producer; allow it IDEMPOTENT_WRITE on the cluster, or set acks: leader", a.who())
		v.replace = true
	case errors.Is(err, kerr.SaslAuthenticationFailed), errors.Is(err, kerr.UnsupportedSaslMechanism), errors.Is(err, kerr.IllegalSaslState):
		v.reason = fmt.Sprintf("the broker did not let %s in with %s: %s", a.who(), mechanism, quote(err))
		if errors.Is(err, kerr.IllegalSaslState) {
			v.reason += "; it may be that this listener has no login: remove sasl, or name the port of one that has"
		}
	case errors.Is(err, kerr.InvalidRecord), errors.Is(err, kerr.InvalidTimestamp), errors.Is(err, kerr.PolicyViolation), errors.Is(err, kerr.CorruptMessage):
		v.outcome = deliver.Doubtful
		v.reason = fmt.Sprintf("topic %q refused a batch: %s", topic, quote(err))
		if errors.Is(err, kerr.InvalidRecord) && a.sink.o.Key == KeyNone {
			v.reason += "; a compacted topic needs keys, set key: path"
		}
	case code.Retriable:
		v.reason = fmt.Sprintf("topic %q: %s", topic, quote(err))
	default:
		v.outcome = deliver.Doubtful
		v.reason = fmt.Sprintf("topic %q: %s", topic, quote(err))
		v.replace = true
	}
	return v
}

// who names the sink as brokers know it.
func (a *attempt) who() string {
	if o := a.sink.o; o.SASL.Mechanism != SASLNone {
		return fmt.Sprintf("user %q", o.SASL.Username)
	}
	return "the sink"
}

// trouble says why there is no connection, and what to do.
func (a *attempt) trouble(err error) string {
	var first *kgo.ErrFirstReadEOF
	var code *kerr.Error
	var dns *net.DNSError
	switch {
	case errors.As(err, &first):
		return "the broker ends the connection at once: does it want TLS (use_tls), or no TLS, or a login (sasl)?"
	case errors.As(err, &code) && (code == kerr.SaslAuthenticationFailed || code == kerr.UnsupportedSaslMechanism || code == kerr.IllegalSaslState):
		return a.judge("", err).reason
	case errors.As(err, &dns):
		return fmt.Sprintf("cannot connect: %s", quote(err))
	}
	return quote(err)
}

// maxQuoted bounds what is repeated of the words of others.
const maxQuoted = 250

func quote(err error) string {
	text := strings.TrimRight(err.Error(), ". ")
	if len(text) > maxQuoted {
		text = text[:maxQuoted] + "..."
	}
	return text
}
