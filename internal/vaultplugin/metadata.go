package vaultplugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tocsin-events/tocsin/event"
	pb "github.com/tocsin-events/tocsin/proto/tocsin/vaultplugin/v1"
)

// maxDepth bounds how deep values of metadata are nested.
const maxDepth = 64

var (
	errDepth  = fmt.Errorf("a value is nested more than %d levels deep", maxDepth)
	errNumber = errors.New("a number is not finite, which JSON does not have")
)

func eventFromWire(e *pb.EventData) (*EventData, error) {
	metadata, err := fieldsFromWire(e.GetMetadata())
	if err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	return &EventData{
		ID:        e.GetId(),
		Metadata:  metadata,
		EntityIDs: e.GetEntityIds(),
		Note:      e.GetNote(),
	}, nil
}

// fieldsFromWire keeps the difference between none and empty.
func fieldsFromWire(s *structpb.Struct) (event.Fields, error) {
	if s == nil {
		return nil, nil
	}
	fields := make(event.Fields, 0, len(s.Fields))
	for _, key := range slices.Sorted(maps.Keys(s.Fields)) {
		value := s.Fields[key]
		if text, ok := value.GetKind().(*structpb.Value_StringValue); ok {
			fields = append(fields, event.Field{Key: key, Value: text.StringValue})
			continue
		}
		text, err := appendValue(nil, value, maxDepth)
		if err != nil {
			return nil, fmt.Errorf("%.100q: %w", key, err)
		}
		fields = append(fields, event.Field{Key: key, Value: string(text), JSON: true})
	}
	return fields, nil
}

// appendValue appends the JSON text of a value. One without a kind is null.
func appendValue(dst []byte, v *structpb.Value, depth int) ([]byte, error) {
	if depth == 0 {
		return nil, errDepth
	}
	var err error
	switch kind := v.GetKind().(type) {
	case *structpb.Value_StringValue:
		return appendJSON(dst, kind.StringValue)
	case *structpb.Value_NumberValue:
		if math.IsNaN(kind.NumberValue) || math.IsInf(kind.NumberValue, 0) {
			return nil, errNumber
		}
		return appendJSON(dst, kind.NumberValue)
	case *structpb.Value_BoolValue:
		return appendJSON(dst, kind.BoolValue)
	case *structpb.Value_StructValue:
		dst = append(dst, '{')
		fields := kind.StructValue.GetFields()
		for i, key := range slices.Sorted(maps.Keys(fields)) {
			if i > 0 {
				dst = append(dst, ',')
			}
			if dst, err = appendJSON(dst, key); err != nil {
				return nil, err
			}
			dst = append(dst, ':')
			if dst, err = appendValue(dst, fields[key], depth-1); err != nil {
				return nil, err
			}
		}
		return append(dst, '}'), nil
	case *structpb.Value_ListValue:
		dst = append(dst, '[')
		for i, element := range kind.ListValue.GetValues() {
			if i > 0 {
				dst = append(dst, ',')
			}
			if dst, err = appendValue(dst, element, depth-1); err != nil {
				return nil, err
			}
		}
		return append(dst, ']'), nil
	}
	return append(dst, "null"...), nil
}

func appendJSON(dst []byte, v any) ([]byte, error) {
	b, err := json.Marshal(v)
	return append(dst, b...), err
}
