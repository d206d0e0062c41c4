package fliptzap

import (
	"bufio"
	"bytes"
	"os"
	"reflect"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tocsin-events/tocsin/audit/flipt"
)

// Behaviour 14: the fields, and the lines that real servers wrote with zap.
func TestObject(t *testing.T) {
	actor, payload := &flipt.Actor{Authentication: "token"}, map[string]any{"key": "k"}
	e := &flipt.Event{Version: "0.2", Type: "flag", Action: "created", Status: "success", Metadata: flipt.Metadata{Actor: actor}, Payload: payload, Timestamp: "t"}
	enc := zapcore.NewMapObjectEncoder()
	if err := Object(e).MarshalLogObject(enc); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"version": "0.2", "type": "flag", "action": "created", "status": "success",
		"metadata": flipt.Metadata{Actor: actor}, "payload": payload, "timestamp": "t"}
	if !reflect.DeepEqual(enc.Fields, want) {
		t.Errorf("%v", enc.Fields)
	}

	f, err := os.Open("../../../internal/fliptevent/testdata/log.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := 0
	for s := bufio.NewScanner(f); s.Scan(); n++ {
		e, err := flipt.Decode(s.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		log := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zapcore.EncoderConfig{}), zapcore.AddSync(&out), zap.InfoLevel))
		log.Info("AUDIT", zap.Inline(Object(&e)))
		if out.String() != s.Text()+"\n" {
			t.Errorf(" got %swant %s\n", out.String(), s.Text())
		}
	}
	if n != 56 {
		t.Error(n)
	}
	if err := Object(nil).MarshalLogObject(enc); err != nil {
		t.Error(err)
	}
	enc2 := zapcore.NewJSONEncoder(zapcore.EncoderConfig{})
	if err := Object(&flipt.Event{Payload: func() {}}).MarshalLogObject(enc2); err == nil {
		t.Error("a function was encoded")
	}
}
