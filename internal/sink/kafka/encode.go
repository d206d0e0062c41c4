package kafka

import (
	_ "embed" // the schemas
	"fmt"

	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/fliptevent"
	"github.com/tocsin-events/tocsin/internal/sink/format"
	kafkav1 "github.com/tocsin-events/tocsin/proto/tocsin/kafka/v1"
)

// Encoding is what the value of a record is.
type Encoding string

// The encodings.
const (
	CloudEvents   Encoding = "cloudevents" // JSON, the structured mode of CloudEvents
	Raw           Encoding = "raw"         // the data, the binary mode of CloudEvents
	Vault         Encoding = "vault"
	Flipt         Encoding = "flipt" // JSON
	Avro          Encoding = "avro"
	Protobuf      Encoding = "protobuf"
	FliptAvro     Encoding = "flipt_avro"     // as Flipt's own Kafka sink
	FliptProtobuf Encoding = "flipt_protobuf" // as Flipt's own Kafka sink
)

// HasSchema reports whether values are of a schema that a registry can have.
func (e Encoding) HasSchema() bool {
	switch e {
	case Avro, Protobuf, FliptAvro, FliptProtobuf:
		return true
	}
	return false
}

// The schemas.
var (
	//go:embed schema/event.avsc
	avroSchema string
	//go:embed schema/flipt.avsc
	fliptAvroSchema string
	//go:embed schema/flipt.proto
	fliptProtoSchema string
)

const (
	schemaAvro     = "AVRO"
	schemaProtobuf = "PROTOBUF"
)

// encoder makes values of events.
type encoder struct {
	// append appends the value; an error means that the event cannot be made that.
	append func(dst []byte, item deliver.Item) ([]byte, kind, error)
	schema schema // zero: there is none
}

// kind is what a value is.
type kind struct {
	contentType string
	name        string // for [KeyType]
}

// schema is what readers of values need to know.
type schema struct {
	form string // AVRO or PROTOBUF, as registries call them
	text string
	// message says where the message of values is in the schema of protobuf: the indexes, of
	// all messages around it, in Confluent's encoding.
	message []byte
}

func newEncoder(e Encoding) (encoder, error) {
	switch e {
	case CloudEvents, Raw, Vault, Flipt:
		f, err := format.Named(string(e))
		if err != nil {
			return encoder{}, err
		}
		return encoder{append: func(dst []byte, item deliver.Item) ([]byte, kind, error) {
			dst, err := f.Append(dst, item)
			return dst, kind{f.ContentType(item.Event), item.Event.Type}, err
		}}, nil
	case Avro:
		return encoder{
			append: func(dst []byte, item deliver.Item) ([]byte, kind, error) {
				return appendEventAvro(dst, item), kind{"application/avro", item.Event.Type}, nil
			},
			schema: schema{form: schemaAvro, text: avroSchema},
		}, nil
	case Protobuf:
		return encoder{
			append: func(dst []byte, item deliver.Item) ([]byte, kind, error) {
				return appendEventProto(dst, item), kind{"application/protobuf", item.Event.Type}, nil
			},
			// Its message is the first one, for which there is a short form.
			schema: schema{form: schemaProtobuf, text: kafkav1.Schema, message: []byte{0}},
		}, nil
	case FliptAvro:
		return encoder{
			append: func(dst []byte, item deliver.Item) ([]byte, kind, error) {
				f, err := fliptevent.FromEvent(item.Event)
				if err != nil {
					return dst, kind{}, err
				}
				dst, err = appendFliptAvro(dst, f)
				return dst, kind{"application/avro", f.Type}, err
			},
			schema: schema{form: schemaAvro, text: fliptAvroSchema},
		}, nil
	case FliptProtobuf:
		return encoder{
			append: func(dst []byte, item deliver.Item) ([]byte, kind, error) {
				f, err := fliptevent.FromEvent(item.Event)
				if err != nil {
					return dst, kind{}, err
				}
				dst, err = appendFliptProto(dst, f, item.Event.Time)
				return dst, kind{"application/protobuf", f.Type}, err
			},
			// Its message is the third one: a list of one index, which is 2, in zigzag varints.
			// Flipt itself leaves the list out, which readers by Confluent's rules cannot read.
			schema: schema{form: schemaProtobuf, text: fliptProtoSchema, message: []byte{2, 4}},
		}, nil
	}
	return encoder{}, fmt.Errorf("unknown encoding %.40q; it is one of cloudevents, raw, vault, flipt, avro, protobuf, flipt_avro, flipt_protobuf", string(e))
}
