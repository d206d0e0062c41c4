package scapevent

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

// The bytes of an event, spelt out from the layout.
func TestAppend(t *testing.T) {
	for name, tc := range map[string]struct {
		got  []byte
		want string
	}{
		"plugin": {Append(nil, 3, 0x0102, []byte("hi")),
			"0201000000000000 ffffffffffffffff 28000000 4201 02000000 04000000 02000000 03000000 6869"},
		"func": {AppendFunc([]byte{}, 3, 0x0102, func(b []byte) []byte { return append(b, "hi"...) }),
			"0201000000000000 ffffffffffffffff 28000000 4201 02000000 04000000 02000000 03000000 6869"},
		"empty": {Append(nil, 3, NoTime, nil),
			"ffffffffffffffff ffffffffffffffff 26000000 4201 02000000 04000000 00000000 03000000"},
		"async": {AppendAsync(nil, 3, 1, "ab", []byte("hi")),
			"0100000000000000 ffffffffffffffff 2f000000 9201 03000000 04000000 03000000 02000000 03000000 616200 6869"},
	} {
		if want := strings.ReplaceAll(tc.want, " ", ""); hex.EncodeToString(tc.got) != want {
			t.Errorf("%s:\n%x\n%s", name, tc.got, want)
		}
	}
}

func TestNext(t *testing.T) {
	b := AppendAsync(Append(nil, 7, 5, []byte("payload")), 0, NoTime, "name", nil)
	e, rest, err := Next(b)
	if err != nil || e.PluginID() != 7 || e.Nanos() != 5 || string(e.Data()) != "payload" || e.Name() != "" || e.Thread() != NoThread {
		t.Fatalf("%x %v", e, err)
	}
	e, rest, err = Next(rest)
	if err != nil || e.Name() != "name" || len(e.Data()) != 0 || len(rest) != 0 {
		t.Fatalf("%x %x %v", e, rest, err)
	}
	e.SetPluginID(9)
	e.SetNanos(8)
	e.SetThread(1)
	if e.PluginID() != 9 || e.Nanos() != 8 || e.Thread() != 1 || e.Time().UnixNano() != 8 {
		t.Fatalf("%x", e)
	}
}

func TestMalformed(t *testing.T) {
	change := func(at int, with ...byte) []byte {
		b := Append(nil, 1, 1, []byte("data"))
		copy(b[at:], with)
		return b
	}
	async := AppendAsync(nil, 1, 1, "n", []byte("data"))
	noNUL := bytes.Clone(async)
	noNUL[HeaderSize+12+4+1] = 'x'
	for name, b := range map[string][]byte{
		"empty":              nil,
		"cut":                change(0)[:30],
		"short":              change(16, 25),
		"long":               change(16, 255),
		"other type":         change(20, 1, 0),
		"one parameter":      change(22, 1),
		"many parameters":    change(22, 255, 255, 255, 255),
		"parameter too long": change(30, 5),
		"lengths overflow":   change(26, 255, 255, 255, 255, 9, 0, 0, 0),
		"short id":           change(26, 3, 0, 0, 0, 5),
		"name without NUL":   noNUL,
	} {
		if _, _, err := Next(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzNext: whatever is accepted is what the accessors say, byte for byte.
func FuzzNext(f *testing.F) {
	f.Add(Append(nil, 1, 2, []byte("data")))
	f.Add(AppendAsync(nil, 1, NoTime, "name", []byte("data")))
	f.Add(Append(nil, 0, 0, nil)[:37])
	f.Fuzz(func(t *testing.T, b []byte) {
		e, rest, err := Next(b)
		if err != nil {
			return
		}
		var again Event
		if e.Type() == Async {
			again = AppendAsync(nil, e.PluginID(), e.Nanos(), e.Name(), e.Data())
		} else {
			again = Append(nil, e.PluginID(), e.Nanos(), e.Data())
		}
		again.SetThread(e.Thread())
		if !bytes.Equal(e, again) || len(e)+len(rest) != len(b) {
			t.Errorf("%x became %x", e, again)
		}
	})
}
