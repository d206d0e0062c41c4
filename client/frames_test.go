package client

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/coder/websocket"

	"github.com/tocsin-events/tocsin/event"
)

// frame returns a frame of a server.
func frame(op byte, final bool, payload string) []byte {
	b := []byte{op, 0}
	if final {
		b[0] |= 0x80
	}
	switch n := len(payload); {
	case n < 126:
		b[1] = byte(n)
	case n < 1<<16:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	default:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	return append(b, payload...)
}

// peer is what a server has sent, and what it gets.
type peer struct {
	io.Reader
	got bytes.Buffer
}

func (p *peer) Write(b []byte) (int, error) { return p.got.Write(b) }
func (p *peer) Close() error                { return nil }

// readFrames reads messages until there is an error.
func readFrames(r io.Reader, most int64) (messages []string, p *peer, f *frames, err error) {
	p = &peer{Reader: r}
	f = newFrames(p, most, func() {})
	for {
		m, err := f.next()
		if err != nil {
			return messages, p, f, err
		}
		messages = append(messages, string(m))
	}
}

func TestFrames(t *testing.T) {
	long, huge := strings.Repeat("l", 1000), strings.Repeat("h", 300_000)
	sent := slices.Concat(
		frame(opText, true, "a"), frame(opPing, true, "are you there"), frame(opText, true, ""), frame(opBinary, true, long),
		frame(opText, false, "one "), frame(opPong, true, ""), frame(opContinuation, false, "two "), frame(opPing, true, ""), frame(opContinuation, true, "three"),
		frame(opText, true, huge), frame(opText, true, "z"), frame(opClose, true, "\x11\x3agone away"), frame(opText, true, "not read"),
	)
	want := []string{"a", "", long, "one two three", huge, "z"}
	for name, r := range map[string]io.Reader{"at once": bytes.NewReader(sent), "halves": iotest.HalfReader(bytes.NewReader(sent)), "single bytes": iotest.OneByteReader(bytes.NewReader(sent))} {
		got, p, _, err := readFrames(r, 1<<20)
		if !slices.Equal(got, want) {
			t.Errorf("%s: %.200q", name, got)
		}
		if e, ok := errors.AsType[websocket.CloseError](err); !ok || e.Code != 4410 || e.Reason != "gone away" {
			t.Errorf("%s: %v", name, err)
		}
		// Masked, with zeros.
		answers := "\x8a\x8d\x00\x00\x00\x00are you there" + "\x8a\x80\x00\x00\x00\x00" + "\x88\x8b\x00\x00\x00\x00\x11\x3agone away"
		if p.got.String() != answers {
			t.Errorf("%s: answered %q", name, p.got.String())
		}
	}
}

func TestFramesRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		sent []byte
		want string
	}{
		"reserved bits":        {[]byte{0xc1, 0}, "reserved bits"},
		"masked":               {[]byte{0x81, 0x80, 0, 0, 0, 0}, "is masked"},
		"kind":                 {frame(3, true, ""), "frame of kind 3"},
		"control in parts":     {frame(opPing, false, ""), "control frame is too long or in parts"},
		"long control":         {frame(opPing, true, strings.Repeat("x", 126)), "control frame is too long"},
		"nothing to continue":  {frame(opContinuation, true, ""), "not the next of its message"},
		"not continued":        {append(frame(opText, false, "x"), frame(opText, true, "y")...), "not the next of its message"},
		"too large":            {frame(opText, true, strings.Repeat("x", 101)), "too big"},
		"too large in parts":   {append(frame(opText, false, strings.Repeat("x", 60)), frame(opContinuation, true, strings.Repeat("x", 60))...), "too big"},
		"negative length":      {[]byte{0x81, 127, 0xff, 0, 0, 0, 0, 0, 0, 0}, "too big"},
		"end within a header":  {[]byte{0x81}, "EOF"},
		"end within a message": {frame(opText, true, "abc")[:4], "EOF"},
	} {
		messages, _, _, err := readFrames(bytes.NewReader(tc.sent), 100)
		if len(messages) > 0 || err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %q %v", name, messages, err)
		}
	}
	// A length that is only claimed takes no memory.
	claim := append([]byte{0x81, 127}, binary.BigEndian.AppendUint64(nil, 1<<40)...)
	_, _, f, err := readFrames(bytes.NewReader(claim), 1<<50)
	if err != io.EOF || cap(f.buf) > frameBuffer {
		t.Errorf("%v, %d bytes", err, cap(f.buf))
	}
}

// The buffer of a large message is given back.
func TestFramesShrink(t *testing.T) {
	sent := append(frame(opText, true, strings.Repeat("x", 80*frameBuffer)), frame(opText, true, "small")...)
	messages, _, f, _ := readFrames(bytes.NewReader(sent), 1<<30)
	if len(messages) != 2 || messages[1] != "small" || cap(f.buf) != frameBuffer {
		t.Errorf("%d messages, %d bytes", len(messages), cap(f.buf))
	}
}

// FuzzFrames: what a server sends means the same however it is cut to pieces.
func FuzzFrames(f *testing.F) {
	f.Add(slices.Concat(frame(opText, true, "a"), frame(opPing, true, "b"), frame(opText, false, "c"), frame(opContinuation, true, "d"), frame(opClose, true, "")))
	f.Add(frame(opBinary, true, strings.Repeat("x", 200)))
	f.Add([]byte{0x81, 127, 0, 0, 0, 0, 0, 0, 0, 1, 'x'})
	f.Fuzz(func(t *testing.T, sent []byte) {
		once, p, state, err := readFrames(bytes.NewReader(sent), 1000)
		bytewise, q, _, err2 := readFrames(iotest.OneByteReader(bytes.NewReader(sent)), 1000)
		if !slices.Equal(once, bytewise) || p.got.String() != q.got.String() || fmt.Sprint(err) != fmt.Sprint(err2) {
			t.Errorf("%q %v and %q %v", once, err, bytewise, err2)
		}
		total := 0
		for _, m := range once {
			if total += len(m); len(m) > 1000 {
				t.Errorf("%d bytes", len(m))
			}
		}
		if total > len(sent) || cap(state.buf) > frameBuffer {
			t.Errorf("%d bytes of %d, and %d of memory", total, len(sent), cap(state.buf))
		}
	})
}

// FuzzRawHead: of events that are events, it finds what decoding them finds.
func FuzzRawHead(f *testing.F) {
	for _, e := range []*event.Event{numbered(1), numbered(200_000)} {
		e.Metadata.Set("sequence", "no")
		f.Add(event.AppendCloudEvent(nil, e, position(7)))
		f.Add(event.AppendCloudEvent(nil, e, ""))
	}
	f.Add([]byte(` { "a" : [1, {"sequence":"x"}] , "sequence" : "y", "time":null, "b": 1.5e3}` + "\n"))
	f.Add([]byte(`{"a":{"sequence":"\""},"b":"\\","sequence":"y"`))
	f.Fuzz(func(t *testing.T, b []byte) {
		position, at := rawHead(b)
		if !json.Valid(b) || bytes.IndexByte(bytes.TrimSpace(b), '{') != 0 {
			return // whatever: but it has not panicked
		}
		var all map[string]json.RawMessage
		if json.Unmarshal(b, &all) != nil || strings.Contains(string(b), `\`) {
			return // names may have escapes
		}
		if strings.Count(string(b), `"sequence"`) > 1 || strings.Count(string(b), `"time"`) > 1 {
			return // which of them counts?
		}
		for name, got := range map[string][]byte{"sequence": position, "time": at} {
			var want string
			if json.Unmarshal(all[name], &want) != nil {
				want = ""
			}
			if reflect.DeepEqual(bytes.ToValidUTF8(got, nil), got) && string(got) != want {
				t.Errorf("%s of %s is %q instead of %q", name, b, got, want)
			}
		}
	})
}

// NextRaw gives what has come at once, each event once, over connections that end, and mixes with
// Next.
func TestNextRaw(t *testing.T) {
	cloud := func(n int) []byte {
		e := numbered(n)
		e.Source = "test"
		return append(event.AppendCloudEvent(nil, e, position(n)), '\n')
	}
	h := newFakeHub(t, func(n int, w http.ResponseWriter, r *http.Request) {
		c, ctx := accept(t, w, r)
		if c == nil {
			return
		}
		first := 3 * n
		send(ctx, c, cloud(first), cloud(first+1), cloud(first+2), cloud(first+3)) // the last comes again
		if n == 3 {
			<-ctx.Done()
		}
		c.CloseNow()
	})
	s := h.subscribe(t, Options{Format: FormatCloudEvents})
	var got []string
	for len(got) < 13 {
		if len(got) == 5 {
			m, err := s.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, m.Position)
			continue
		}
		err := s.NextRaw(t.Context(), func(r Raw) bool {
			e, err := event.ParseCloudEvent(r.Message)
			if err != nil || !bytes.HasSuffix(r.Message, []byte("\n")) {
				t.Errorf("%q: %v", r.Message, err)
			}
			if at, err := e.Time.MarshalText(); err != nil || string(at) != string(r.Time) {
				t.Errorf("%q instead of %q", r.Time, at)
			}
			got = append(got, string(r.Position))
			return len(got) != 5 && len(got) != 8
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for n, p := range got {
		if p != position(n) {
			t.Fatalf("%q", got)
		}
	}
	if since := h.queries("since"); len(since) != 4 || since[1] != position(3) || since[3] != position(9) {
		t.Errorf("%q", since)
	}
	plain := h.subscribe(t, Options{})
	if err := plain.NextRaw(t.Context(), nil); err == nil {
		t.Error("NextRaw of Vault's format")
	}
}
