package capture

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/tocsin-events/tocsin/internal/scapevent"
)

// got is what a capture has.
type got struct {
	events []string // number, plugin, time, name and payload
	stats  Stats
	err    error
}

func readAll(in io.Reader, o ReaderOptions) (g got) {
	r, err := NewReader(in, o)
	if err != nil {
		g.err = err
		return g
	}
	for {
		e, err := r.Next()
		if err != nil {
			if _, again := r.Next(); again != err {
				panic("the error has changed")
			}
			if !errors.Is(err, io.EOF) {
				g.err = err
			}
			g.stats = r.Stats()
			return g
		}
		g.events = append(g.events, fmt.Sprintf("%d %d %d %s %.20s", e.Number, e.PluginID(), e.Nanos(), e.Name(), e.Data()))
	}
}

// block spells a block out. The length behind it is as given.
func block(blockType uint32, body []byte, behind int) []byte {
	b := appendBlockHeader(nil, blockType, uint32(12+len(body)))
	return binary.LittleEndian.AppendUint32(append(b, body...), uint32(12+len(body)+behind))
}

// inBlock is an event in a block, with what is before it.
func inBlock(blockType uint32, e []byte, prefix ...byte) []byte {
	body := append(bytes.Clone(prefix), e...)
	for (len(body)+12)%4 != 0 {
		body = append(body, 0)
	}
	return block(blockType, body, 0)
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func gzipped(t testing.TB, b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// rawEvent is an event with any type and parameters, whatever their lengths say.
func rawEvent(eventType uint16, lengths []uint32, params ...[]byte) []byte {
	body := join(params...)
	b := binary.LittleEndian.AppendUint64(nil, 7)
	b = binary.LittleEndian.AppendUint64(b, scapevent.NoThread)
	b = binary.LittleEndian.AppendUint32(b, uint32(26+4*len(lengths)+len(body)))
	b = binary.LittleEndian.AppendUint16(b, eventType)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(lengths)))
	for _, n := range lengths {
		b = binary.LittleEndian.AppendUint32(b, n)
	}
	return append(b, body...)
}

var (
	head    = appendSection(nil)
	machine = (&Machine{Hostname: "host", CPUs: 2}).appendBlock(nil)
	one     = scapevent.Append(nil, 3, 10, []byte("one"))
	two     = scapevent.Append(nil, 4, 5, []byte("two!"))
	three   = scapevent.AppendAsync(nil, 3, 11, "name", []byte("three"))
	large   = scapevent.Append(nil, 3, 12, bytes.Repeat([]byte("x"), 3<<20))
)

// What is read of files of all kinds, as they are read elsewhere; where not, it says so.
func TestAcceptance(t *testing.T) {
	one221, two221 := inBlock(0x221, one, 0, 0), inBlock(0x221, two, 0, 0)
	basic := join(head, one221, two221)
	version := func(major, minor byte) []byte {
		b := bytes.Clone(head)
		b[12], b[14] = major, minor
		return b
	}
	bigEndian := bytes.Clone(head)
	copy(bigEndian[4:], []byte{0, 0, 0, 28, 0x1a, 0x2b, 0x3c, 0x4d})
	options := block(0x0A0D0D0A, join(head[8:24], []byte{1, 0, 4, 0, 'o', 'p', 't', 's', 0, 0, 0, 0}), 0)
	badMagic := bytes.Clone(head)
	badMagic[8]++
	const o, w, big = "1 3 10  one", "2 4 5  two!", "1 3 12  xxxxxxxxxxxxxxxxxxxx"
	for name, tc := range map[string]struct {
		file   []byte
		events []string
		err    error // nil: none
	}{
		"events only":                          {basic, []string{o, w}, nil},
		"machine":                              {join(head, machine, one221), []string{o}, nil},
		"machine, unofficial number":           {join(head, block(0x8002ABCD, machine[8:188], 0), one221), []string{o}, nil},
		"0x216":                                {join(head, inBlock(0x216, one, 0, 0)), []string{o}, nil},
		"0x221 with 3 MiB":                     {join(head, inBlock(0x221, large, 0, 0), two221), []string{big, w}, nil},
		"0x216 above 64 KiB (not elsewhere)":   {join(head, inBlock(0x216, large, 0, 0)), []string{big}, nil},
		"0x222 without flags":                  {join(head, inBlock(0x222, one, 0, 0, 0, 0, 0, 0)), []string{o}, nil},
		"0x217 without flags":                  {join(head, inBlock(0x217, one, 0, 0, 0, 0, 0, 0)), []string{o}, nil},
		"0x222 for the state":                  {join(head, inBlock(0x222, one, 0, 0, 1, 0, 0, 0), two221), []string{w}, nil},
		"no padding":                           {join(head, block(0x221, append([]byte{0, 0}, one...), 0), two221), []string{o, w}, nil},
		"wrong length behind an event":         {join(head, block(0x221, append([]byte{0, 0}, one...), 8), two221), []string{o, w}, nil},
		"wrong length behind metadata":         {join(head, block(0x202, []byte("12345678"), 4), one221), nil, ErrMalformed},
		"wrong length behind the machine":      {join(head, block(0x201, machine[8:188], 4), one221), nil, ErrMalformed},
		"two files":                            {join(basic, head, machine, one221), []string{o, w, "3 3 10  one"}, nil},
		"truncated":                            {basic[:len(basic)-1], []string{o}, ErrTruncated},
		"truncated in a head":                  {basic[:len(basic)-len(two221)+3], []string{o}, ErrTruncated},
		"truncated behind a head":              {basic[:len(basic)-len(two221)+8], []string{o}, ErrTruncated},
		"truncated in metadata":                {join(head, machine[:100]), nil, ErrTruncated},
		"truncated in metadata, unknown":       {join(head, block(0x999, make([]byte, 1<<20), 0))[:1<<19], nil, ErrTruncated},
		"truncated in the header":              {head[:20], nil, ErrTruncated},
		"no event (not elsewhere)":             {join(head, machine), nil, nil},
		"unknown block before":                 {join(head, block(0x999, make([]byte, 1<<20), 0), one221), []string{o}, nil},
		"unknown block behind (not elsewhere)": {join(head, one221, block(0x999, make([]byte, 8), 0), two221), []string{o, w}, nil},
		"plugin 0":                             {join(head, inBlock(0x221, scapevent.Append(nil, 0, 1, nil), 0, 0)), []string{"1 0 1  "}, nil},
		"async":                                {join(head, inBlock(0x221, three, 0, 0)), []string{"1 3 11 name three"}, nil},
		"type 454":                             {join(head, inBlock(0x221, rawEvent(454, nil), 0, 0), one221), []string{o}, nil},
		"system call":                          {join(head, inBlock(0x216, rawEvent(1, nil), 0, 0), two221), []string{w}, nil},
		"one parameter":                        {join(head, inBlock(0x221, rawEvent(322, []uint32{4}, []byte{9, 0, 0, 0}), 0, 0)), []string{"1 9 7  "}, nil},
		"no parameters":                        {join(head, inBlock(0x221, rawEvent(322, nil), 0, 0)), []string{"1 0 7  "}, nil},
		"three parameters":                     {join(head, inBlock(0x221, rawEvent(322, []uint32{4, 1, 1}, []byte{9, 0, 0, 0, 'a', 'b'}), 0, 0)), []string{"1 9 7  a"}, nil},
		"bytes behind the parameters":          {join(head, inBlock(0x221, rawEvent(322, []uint32{4, 1}, []byte{9, 0, 0, 0, 'a', 'b'}), 0, 0)), []string{"1 9 7  a"}, nil},
		"async without name":                   {join(head, inBlock(0x221, rawEvent(402, []uint32{4}, []byte{9, 0, 0, 0}), 0, 0)), []string{"1 9 7  "}, nil},
		"parameter too long":                   {join(head, inBlock(0x221, rawEvent(322, []uint32{4, 9}, []byte{9, 0, 0, 0, 'a'}), 0, 0)), nil, ErrMalformed},
		"id of 3 bytes":                        {join(head, inBlock(0x221, rawEvent(322, []uint32{3, 0}, []byte{9, 0, 0}), 0, 0)), nil, ErrMalformed},
		"too many parameters":                  {join(head, inBlock(0x221, append(rawEvent(322, nil)[:22], 255, 255, 255, 255), 0, 0)), nil, ErrMalformed},
		"event longer than block":              {join(head, inBlock(0x221, append(join(one[:16], []byte{0, 1, 0, 0}), one[20:]...), 0, 0)), nil, ErrMalformed},
		"event shorter than its header":        {join(head, inBlock(0x221, append(join(one[:16], []byte{25, 0, 0, 0}), one[20:]...), 0, 0)), nil, ErrMalformed},
		"block too short for an event":         {join(head, block(0x221, make([]byte, 20), 0)), nil, ErrMalformed},
		"block of 11 bytes":                    {join(head, []byte{0x21, 2, 0, 0, 11, 0, 0, 0, 0, 0, 0}), nil, ErrMalformed},
		"block of 4 GiB":                       {join(head, []byte{0x21, 2, 0, 0, 255, 255, 255, 255}), nil, ErrTooLarge},
		"block of 100 MiB":                     {join(head, []byte{0x21, 2, 0, 0, 0, 0, 64, 6}), nil, ErrTruncated},
		"unknown block of 4 GiB":               {join(head, []byte{0x99, 9, 0, 0, 255, 255, 255, 255, 0, 0}), nil, ErrTruncated},
		"old block 0x204":                      {join(head, one221, inBlock(0x204, one, 0, 0)), []string{o}, ErrUnsupported},
		"old block 0x208":                      {join(head, inBlock(0x208, one, 0, 0)), nil, ErrUnsupported},
		"old block, unofficial":                {join(head, inBlock(0x8010ABCD, one, 0, 0)), nil, ErrUnsupported},
		"major 2":                              {join(version(2, 0), one221), nil, ErrUnsupported},
		"minor 9":                              {join(version(1, 9), one221), []string{o}, nil},
		"options in the header":                {join(options, one221), []string{o}, nil},
		"gzip":                                 {gzipped(t, basic), []string{o, w}, nil},
		"gzip, members":                        {join(gzipped(t, join(head, one221[:9])), gzipped(t, one221[9:]), gzipped(t, two221)), []string{o, w}, nil},
		"gzip, truncated":                      {gzipped(t, join(basic, inBlock(0x221, large, 0, 0)))[:200], []string{o, w}, ErrTruncated},
		"gzip, then something else":            {join(gzipped(t, basic), []byte("some more bytes")), []string{o, w}, ErrMalformed},
		"gzip, damaged":                        {damaged(gzipped(t, basic)), []string{o, w}, ErrMalformed},
		"gzip, head only":                      {gzipped(t, basic)[:5], nil, ErrTruncated},
		"big endian":                           {bigEndian, nil, ErrUnsupported},
		"bad magic":                            {badMagic, nil, ErrMalformed},
		"something else":                       {[]byte("{\"json\": 1}"), nil, ErrMalformed},
		"empty":                                {nil, nil, ErrMalformed},
		"short":                                {head[:3], nil, ErrTruncated},
		"short, something else":                {[]byte("abc"), nil, ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			for _, in := range []io.Reader{bytes.NewReader(tc.file), iotest.OneByteReader(bytes.NewReader(tc.file)), iotest.DataErrReader(bytes.NewReader(tc.file))} {
				if _, whole := in.(*bytes.Reader); !whole && len(tc.file) > 1<<20 {
					continue
				}
				g := readAll(in, ReaderOptions{})
				if strings.Join(g.events, "\n") != strings.Join(tc.events, "\n") {
					t.Errorf("%q", g.events)
				}
				if !errors.Is(g.err, tc.err) || tc.err == nil && g.err != nil {
					t.Errorf("error %v", g.err)
				}
			}
		})
	}
}

// damaged has another checksum.
func damaged(b []byte) []byte {
	b[len(b)-8]++
	return b
}

// Where a capture breaks off is told.
func TestOffset(t *testing.T) {
	first := join(head, inBlock(0x221, one, 0, 0))
	g := readAll(bytes.NewReader(join(first, inBlock(0x221, two, 0, 0)[:30])), ReaderOptions{})
	e, ok := errors.AsType[*Error](g.err)
	if !ok || e.Offset != int64(len(first)) || !strings.Contains(e.Error(), fmt.Sprintf("at byte %d: the capture is truncated: it ends 30 bytes into a block of 56", len(first))) {
		t.Errorf("%v", g.err)
	}
	g = readAll(bytes.NewReader(join(first, block(0x999, make([]byte, 1<<20), 0)[:1<<19])), ReaderOptions{})
	if e, ok := errors.AsType[*Error](g.err); !ok || e.Offset != int64(len(first)) || !strings.Contains(e.Error(), "524288 bytes into a block of 1048588") {
		t.Errorf("%v", g.err)
	}
	broken := errors.New("broken")
	g = readAll(io.MultiReader(bytes.NewReader(first), iotest.ErrReader(broken)), ReaderOptions{})
	if !errors.Is(g.err, broken) || len(g.events) != 1 {
		t.Errorf("%+v", g)
	}
	g = readAll(bytes.NewReader(first), ReaderOptions{MaxBlockBytes: 51})
	if !errors.Is(g.err, ErrTooLarge) {
		t.Errorf("%+v", g)
	}
}

// The capture that Falco has made is read exactly and, but for the list of interfaces, written
// again as it was.
func TestRecorded(t *testing.T) {
	file, err := os.ReadFile("testdata/falco-real.scap")
	if err != nil {
		t.Fatal(err)
	}
	input, err := os.ReadFile("testdata/falco-real.input.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.Split(bytes.TrimSpace(input), []byte("\n"))
	z, err := gzip.NewReader(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	const interfaces = 276 // bytes of their block
	want := join(plain[:28+192], plain[28+192+interfaces:])

	r, err := NewReader(bytes.NewReader(file), ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var again bytes.Buffer
	var w *Writer
	n := 0
	for ; ; n++ {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		// The plugin that made the events left the white space out, and took the time from them.
		var payload bytes.Buffer
		if err := json.Compact(&payload, lines[n]); err != nil {
			t.Fatal(err)
		}
		var said struct{ StageTimestamp time.Time }
		if err := json.Unmarshal(e.Data(), &said); err != nil || !said.StageTimestamp.Equal(e.Time()) {
			t.Errorf("event %d: %v, %v instead of %v", n, err, e.Time(), said.StageTimestamp)
		}
		if e.PluginID() != 1 || e.CPU != 0 || e.Number != uint64(n+1) || !bytes.Equal(e.Data(), payload.Bytes()) {
			t.Errorf("event %d: %d %s\n%s", n, e.PluginID(), e.Data(), payload.Bytes())
		}
		if at := int64(e.Offset); !bytes.Contains(plain[at:at+60], e.Event[:26]) {
			t.Errorf("event %d is not at %d", n, at)
		}
		if w == nil {
			w = NewWriter(&again, WriterOptions{Machine: e.Machine})
			if e.Machine.CPUs != 2 || e.Machine.Hostname == "" {
				t.Errorf("%+v", e.Machine)
			}
		}
		if err := w.Write(e.Event); err != nil {
			t.Fatal(err)
		}
	}
	if n != 10 || len(lines) != 10 || !r.Gzip() || r.Stats() != (Stats{Bytes: int64(len(plain)), Sections: 1, Events: 10, Blocks: 2}) {
		t.Errorf("%d events, %+v", n, r.Stats())
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again.Bytes(), want) {
		t.Errorf("written again:\n%x\n%x", again.Bytes(), want)
	}
}

func TestWriter(t *testing.T) {
	for _, compress := range []bool{false, true} {
		name := filepath.Join(t.TempDir(), "out.scap")
		w, err := Create(name, false, WriterOptions{Gzip: compress, Machine: &Machine{Hostname: strings.Repeat("h", 300)}})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
			t.Fatal("there is a file without an event")
		}
		var want []string
		write := func(e scapevent.Event) {
			t.Helper()
			if err := w.Write(e); err != nil {
				t.Fatal(err)
			}
			want = append(want, fmt.Sprintf("%d %d %d %s %.20s", len(want)+1, e.PluginID(), e.Nanos(), e.Name(), e.Data()))
		}
		check := func() {
			t.Helper()
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if g := readAll(bytes.NewReader(b), ReaderOptions{}); g.err != nil || strings.Join(g.events, "\n") != strings.Join(want, "\n") {
				t.Fatalf("%d of %d events, %v", len(g.events), len(want), g.err)
			}
		}
		write(one)
		write(two)
		if err := w.Sync(); err != nil {
			t.Fatal(err)
		}
		check()
		write(three)
		write(large)
		for i := range 20_000 {
			write(scapevent.Append(nil, uint32(i), uint64(i), bytes.Repeat([]byte{byte(i)}, i%900)))
		}
		// Whatever was written so far can be read without an error.
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if g := readAll(bytes.NewReader(b), ReaderOptions{}); g.err != nil || len(g.events) < 4 {
			t.Fatalf("%d events, %v", len(g.events), g.err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		check()
		if w.Events() != uint64(len(want)) || w.Write(one) == nil {
			t.Errorf("%d events", w.Events())
		}
		if _, err := Create(name, false, WriterOptions{}); !errors.Is(err, os.ErrExist) {
			t.Errorf("created again: %v", err)
		}
		if w, err = Create(name, true, WriterOptions{}); err != nil || w.Close() != nil {
			t.Error(err)
		}
		check() // an empty one replaces nothing
	}
	if _, err := Create(filepath.Join(t.TempDir(), "no", "file"), false, WriterOptions{}); err == nil {
		t.Error("created in no directory")
	}
	w := NewWriter(io.Discard, WriterOptions{MaxBlockBytes: 1000})
	if err := w.Write(large); !errors.Is(err, ErrTooLarge) || w.Write(one) != nil || w.Events() != 1 {
		t.Errorf("%v, %d events", err, w.Events())
	}
}

// FuzzReader: every file ends, and what was read of it is written and read again.
func FuzzReader(f *testing.F) {
	real, err := os.ReadFile("testdata/falco-real.scap")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(real)
	f.Add(join(head, machine, inBlock(0x221, one, 0, 0), inBlock(0x222, three, 0, 0, 1, 0, 0, 0), head, inBlock(0x216, two, 0, 0)))
	f.Add(join(head, inBlock(0x221, rawEvent(402, []uint32{4}, []byte{9, 0, 0, 0}), 0, 0), block(0x999, make([]byte, 9), 0)))
	f.Fuzz(func(t *testing.T, b []byte) {
		o := ReaderOptions{MaxBlockBytes: 1 << 20}
		r, err := NewReader(bytes.NewReader(b), o)
		if err != nil {
			return
		}
		var events []byte
		var out bytes.Buffer
		w := NewWriter(&out, WriterOptions{MaxBlockBytes: 1 << 20})
		for {
			e, err := r.Next()
			if err != nil {
				break
			}
			if c, rest, err := scapevent.Next(e.Event); err != nil || len(rest) > 0 || len(c) != len(e.Event) {
				t.Fatalf("%x: %v", e.Event, err)
			}
			if err := w.Write(e.Event); err != nil {
				if errors.Is(err, ErrTooLarge) { // repaired ones may grow
					return
				}
				t.Fatal(err)
			}
			events = append(events, e.Event...)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if len(events) == 0 {
			return
		}
		if r, err = NewReader(&out, o); err != nil {
			t.Fatal(err)
		}
		for {
			e, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil || !bytes.HasPrefix(events, e.Event) {
				t.Fatalf("%v", err)
			}
			events = events[len(e.Event):]
		}
		if len(events) != 0 {
			t.Fatal("events are missing")
		}
	})
}
