//go:build (linux || darwin) && (amd64 || arm64) && !tocsin_static

package falcoplugin

import (
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

func event(data string, number uint64) sourceplugin.Event {
	return sourceplugin.Event{Event: scapevent.Append(nil, 1073742001, 77, []byte(data)), Number: number, Source: "test_source"}
}

// request makes a request from the name of a field, with an argument in brackets.
func request(t testing.TB, p *Plugin, field string) sourceplugin.FieldRequest {
	t.Helper()
	name, arg, has := strings.Cut(strings.TrimSuffix(field, "]"), "[")
	for i, f := range p.Describe().Fields {
		if f.Name == name {
			r := sourceplugin.FieldRequest{Index: i, Arg: arg, ArgPresent: has}
			_, _ = fmt.Sscanf(arg, "%d", &r.ArgIndex)
			return r
		}
	}
	t.Fatalf("no field %s", name)
	return sourceplugin.FieldRequest{}
}

// show prints values as text: one for each event and field.
func show(p *Plugin, v sourceplugin.Values, fields []sourceplugin.FieldRequest) []string {
	var out []string
	at, n := 0, 0
	for i, count := range v.Counts {
		f := p.Describe().Fields[fields[i%len(fields)].Index]
		var texts []string
		for range count {
			b := v.Bytes[at : at+int(v.Lengths[n])]
			at += len(b)
			n++
			switch f.Type {
			case sourceplugin.Uint64, sourceplugin.AbsTime, sourceplugin.RelTime:
				texts = append(texts, fmt.Sprint(binary.LittleEndian.Uint64(b)))
			case sourceplugin.Bool, sourceplugin.IPAddr:
				texts = append(texts, fmt.Sprintf("%x", b))
			default:
				texts = append(texts, fmt.Sprintf("%q", b))
			}
		}
		out = append(out, strings.Join(texts, ","))
	}
	if at != len(v.Bytes) || n != len(v.Lengths) {
		out = append(out, "bytes are left")
	}
	return out
}

var fieldTable = []struct{ field, want string }{
	{"t.u64", "3"},
	{"t.str", `"abc"`},
	{"t.rel", "1500"},
	{"t.abs", "77"},
	{"t.bool", "01"},
	{"t.ip4", "7f000001"},
	{"t.ip6", "00000000000000000000000000000001"},
	{"t.net", `"10.0.0.0/8"`},
	{"t.strs", `"one","","three"`},
	{"t.nums", "99,0"},
	{"t.nums[0]", "0,1"},
	{"t.nums[18446744073709551615]", "18446744073709551615,1"},
	{"t.key[a.b/c]", `"key=a.b/c index=0 present=1 name=t.key list=0 type=9"`},
	{"t.both", `"key=NULL index=0 present=0 name=t.both list=0 type=9"`},
	{"t.both[x]", `"key=x index=0 present=1 name=t.both list=0 type=9"`},
	{"t.both[7]", `"key=7 index=7 present=1 name=t.both list=0 type=9"`},
	{"t.none", ""},
	{"t.fail", ""},
	{"t.bools", "01,00,01"},
	{"t.ips", "01020304,30313233343536373839616263646566"},
	{"t.null", ""},
	{"t.huge", ""},
	{"t.badip", ""},
	{"t.reuse[1]", `"shared 1"`},
	{"t.reuse[2]", `"shared 2"`},
}

// Every field alone, all at once, and many events: what a plugin says of one is the same.
func TestExtract(t *testing.T) {
	for name, flags := range map[string][]string{
		"source":    nil,
		"extractor": {"-DNO_OPEN", "-DNO_CLOSE", "-DNO_NEXT_BATCH", "-DNO_ID", "-DNO_SOURCE"},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, "", flags...)
			var all, most []sourceplugin.FieldRequest
			var wantAll, wantMost []string
			for _, tc := range fieldTable {
				r := request(t, p, tc.field)
				v, err := p.Extract(t.Context(), []sourceplugin.Event{event("abc", 1)}, []sourceplugin.FieldRequest{r})
				if err != nil {
					t.Fatal(err)
				}
				if got := show(p, v, []sourceplugin.FieldRequest{r}); len(got) != 1 || got[0] != tc.want {
					t.Errorf("%s is %q", tc.field, got)
				}
				all, wantAll = append(all, r), append(wantAll, tc.want)
				if !strings.HasPrefix(tc.field, "t.fail") && !strings.HasPrefix(tc.field, "t.reuse") {
					most, wantMost = append(most, r), append(wantMost, tc.want)
				}
			}
			for _, tc := range []struct {
				fields []sourceplugin.FieldRequest
				want   []string
			}{{all, wantAll}, {most, wantMost}, {all[len(all)-2:], wantAll[len(all)-2:]}} {
				var events []sourceplugin.Event
				var want []string
				for i := range 10 {
					events = append(events, event("abc", uint64(i+1)))
					want = append(want, tc.want...)
				}
				v, err := p.Extract(t.Context(), events, tc.fields)
				if err != nil {
					t.Fatal(err)
				}
				got := show(p, v, tc.fields)
				if len(got) != len(want) {
					t.Fatalf("%d values instead of %d", len(got), len(want))
				}
				for i := range got {
					if got[i] != want[i] {
						t.Errorf("%d: %s instead of %s", i, got[i], want[i])
					}
				}
			}
		})
	}
}

// A plugin that uses the memory of one value for another has all of them told right, wherever they
// are in the list: the place of the value, or that of its text.
func TestExtractShared(t *testing.T) {
	p := start(t, "")
	for _, name := range []string{"t.reuse", "t.text"} {
		var fields []sourceplugin.FieldRequest
		for _, field := range []string{name + "[a]", "t.u64", "t.s1", "t.ip4", name + "[b]", "t.null", "t.null"} {
			fields = append(fields, request(t, p, field))
		}
		v, err := p.Extract(t.Context(), []sourceplugin.Event{event("abc", 1), event("abcd", 2)}, fields)
		if err != nil {
			t.Fatal(err)
		}
		word := strings.NewReplacer("t.reuse", "shared", "t.text", "text").Replace(name)
		want := fmt.Sprintf(`["%[1]s a" 3 "text of field 21" 7f000001 "%[1]s b"   "%[1]s a" 4 "text of field 21" 7f000001 "%[1]s b"  ]`, word)
		if got := fmt.Sprint(show(p, v, fields)); got != want {
			t.Errorf("%s\n%s", got, want)
		}
	}
}

// A plugin is asked about events of the types that it names, and without that about those of
// plugins: an asynchronous one has its payload elsewhere.
func TestExtractTypes(t *testing.T) {
	async := sourceplugin.Event{Event: scapevent.AppendAsync(nil, 1073742001, 7, "tick", []byte("x")), Number: 2, Source: "test_source"}
	events := []sourceplugin.Event{event("abc", 1), async, event("abcd", 3)}
	for flag, want := range map[string]string{
		"":                           "[3 3  0 4 4]",
		"-DEXTRACT_TYPES=":           "[3 3  0 4 4]",
		"-DEXTRACT_TYPES=402":        "[ 0 5 5  0]",
		"-DEXTRACT_TYPES=322,402,99": "[3 3 5 5 4 4]",
	} {
		var flags []string
		if flag != "" {
			flags = append(flags, flag)
		}
		p := start(t, "", flags...)
		v, err := p.Extract(t.Context(), events, []sourceplugin.FieldRequest{request(t, p, "t.u64"), request(t, p, "t.u64")})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		at := 0
		for i, n := range v.Counts {
			text := ""
			if n > 0 {
				text = fmt.Sprint(binary.LittleEndian.Uint64(v.Bytes[at:]))
				at += 8
			} else if i%2 == 1 {
				text = "0"
			}
			got = append(got, text)
		}
		if fmt.Sprint(got) != want {
			t.Errorf("%s: %q instead of %s", flag, got, want)
		}
		texts, err := p.Strings(t.Context(), events)
		if err != nil || texts[0] != "test_source #1: abc" || texts[1] != "datalen=1 data=x" {
			t.Errorf("%q %v", texts, err)
		}
	}
	p := start(t, "", "-DBAD_EXTRACT_TYPES")
	_, err := p.Extract(t.Context(), events, []sourceplugin.FieldRequest{request(t, p, "t.u64")})
	wantError(t, err, "plugin testbed: plugin_get_extract_event_types: it says that there are 4294967295 types")
}

// What a plugin answers at once is bounded, whatever it does with each event.
func TestAnswersAreBounded(t *testing.T) {
	p := start(t, "")
	var events []sourceplugin.Event
	for i := range 50 {
		events = append(events, event("abc", uint64(i+1)))
	}
	_, err := p.Extract(t.Context(), events, []sourceplugin.FieldRequest{request(t, p, "t.mega[31]")})
	wantError(t, err, "plugin testbed: plugin_extract_fields: the values of 3 events have more than 60 MiB; ask about fewer events, or for fewer fields")
	v, err := p.Extract(t.Context(), events[:1], []sourceplugin.FieldRequest{request(t, p, "t.mega[40]")})
	if err != nil || v.Counts[0] != 0 {
		t.Error(v.Counts, err) // one that is too large is no value
	}
	events = nil
	for i := range 5 {
		events = append(events, event(strings.Repeat("x", 20<<20), uint64(i+1)))
	}
	_, err = p.Strings(t.Context(), events)
	wantError(t, err, "plugin testbed: plugin_event_to_string: the texts of 3 events have more than 60 MiB; ask about fewer events")
}

func TestExtractOffsets(t *testing.T) {
	p := start(t, "")
	for field, want := range map[string]string{"t.str": "[38 3 38 5]", "t.s1": "[0 0 0 0]"} {
		v, err := p.Extract(t.Context(), []sourceplugin.Event{event("abc", 1), event("abcde", 2)}, []sourceplugin.FieldRequest{request(t, p, field)})
		if err != nil || fmt.Sprint(v.Offsets) != want {
			t.Errorf("%s: %v %v", field, v.Offsets, err)
		}
	}
}

func TestExtractLarge(t *testing.T) {
	p := start(t, "")
	big := strings.Repeat("x", 20<<20)
	fields := []sourceplugin.FieldRequest{request(t, p, "t.str"), request(t, p, "t.u64")}
	v, err := p.Extract(t.Context(), []sourceplugin.Event{event(big, 1), event("y", 2)}, fields)
	if err != nil || string(v.Bytes[:len(big)]) != big || v.Lengths[2] != 1 {
		t.Fatal(len(v.Bytes), err)
	}
	if p.reader.scratch.event.size != 0 {
		t.Errorf("%d bytes are kept", p.reader.scratch.event.size)
	}
}

func TestExtractRefuses(t *testing.T) {
	p := start(t, "")
	for field, want := range map[string]string{
		"t.key":    "field t.key needs an argument",
		"t.u64[1]": "field t.u64 takes no argument",
	} {
		_, err := p.Extract(t.Context(), nil, []sourceplugin.FieldRequest{request(t, p, field)})
		wantError(t, err, want)
	}
	_, err := p.Extract(t.Context(), nil, []sourceplugin.FieldRequest{{Index: 99}})
	wantError(t, err, "there is no field 99")
	_, err = p.Extract(t.Context(), nil, []sourceplugin.FieldRequest{{Index: 10, Arg: "a\x00", ArgPresent: true}})
	wantError(t, err, "NUL")
	v, err := p.Extract(t.Context(), nil, []sourceplugin.FieldRequest{{Index: 1}})
	if err != nil || len(v.Counts) != 0 {
		t.Error(v, err)
	}
}

// Fields and strings can be asked for by many at once, while a stream waits.
func TestExtractWhileStreaming(t *testing.T) {
	p := start(t, "")
	s := open(t, p, sourceplugin.Open{Params: "block"})
	defer s.Close(t.Context())
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			r := []sourceplugin.FieldRequest{request(t, p, "t.str"), request(t, p, "t.u64")}
			data := strings.Repeat("z", i+1)
			for range 200 {
				v, err := p.Extract(t.Context(), []sourceplugin.Event{event(data, 1)}, r)
				if err != nil || string(v.Bytes[:len(data)]) != data {
					t.Errorf("%q %v", v.Bytes, err)
					return
				}
				texts, err := p.Strings(t.Context(), []sourceplugin.Event{event(data, 5)})
				if err != nil || texts[0] != "test_source #5: "+data {
					t.Errorf("%q %v", texts, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestStrings(t *testing.T) {
	for name, p := range map[string]*Plugin{"without function": start(t, "", "-DNO_EVENT_TO_STRING"), "NULL": start(t, "string-null")} {
		for data, want := range map[string]string{
			"":                               "datalen=0 data=",
			"short":                          "datalen=5 data=short",
			strings.Repeat("a", 50):          "datalen=50 data=" + strings.Repeat("a", 50),
			strings.Repeat("a", 51):          "datalen=51 data=" + strings.Repeat("a", 50) + "...",
			strings.Repeat("a", 50) + "\x00": "datalen=51 data=" + strings.Repeat("a", 50) + "...",
			"a\nb":                           "datalen=3 data=<binary>",
			"é":                              "datalen=2 data=<binary>",
		} {
			got, err := p.Strings(t.Context(), []sourceplugin.Event{event(data, 1)})
			if err != nil || got[0] != want {
				t.Errorf("%s: %q %v", name, got, err)
			}
		}
	}
	got, err := start(t, "").Strings(t.Context(), []sourceplugin.Event{event("\xff", 1), event("b", 2)})
	if err != nil || got[0] != "test_source #1: \uFFFD" || got[1] != "test_source #2: b" {
		t.Errorf("%q %v", got, err)
	}
}

func TestAppendNet(t *testing.T) {
	for b, want := range map[string]string{
		"\x0a\x00\x00\x01":                                      "10.0.0.1/32",
		"\x0a\x00\x00\x00\xff\xff\x80\x00":                      "10.0.0.0/17",
		"\x0a\x00\x00\x00\xff\x00\xff\x00":                      "",
		"\x0a\x00\x00\x00\x00\x00\x00\x00":                      "10.0.0.0/0",
		"192.168.0.0/16":                                        "192.168.0.0/16",
		"nonsense":                                              "",
		strings.Repeat("\x00", 16):                              "::/128",
		strings.Repeat("\x01", 16) + strings.Repeat("\xff", 16): "101:101:101:101:101:101:101:101/128",
	} {
		got, ok := appendNet(nil, []byte(b))
		if string(got) != want || ok != (want != "") {
			t.Errorf("%x: %q", b, got)
		}
	}
}

// The numbers to reach, without the process in between: see docs/decisions/0010.
func BenchmarkStream(b *testing.B) {
	for _, batch := range []int{1, 128} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			p := start(b, "")
			s := open(b, p, sourceplugin.Open{Params: fmt.Sprintf("stay;count=%d;batch=%d", b.N, batch)})
			b.ReportAllocs()
			b.ResetTimer()
			var batch sourceplugin.Batch
			for n := 0; n < b.N; n += batch.Count {
				if err := s.Next(b.Context(), &batch); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

func BenchmarkExtract(b *testing.B) {
	p := start(b, "")
	var fields []sourceplugin.FieldRequest
	for i := range 10 {
		fields = append(fields, request(b, p, fmt.Sprintf("t.s%d", i)))
	}
	var events []sourceplugin.Event
	for i := range 256 {
		events = append(events, event(strings.Repeat("x", 700), uint64(i)))
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if _, err := p.Extract(b.Context(), events, fields); err != nil {
			b.Fatal(err)
		}
		n += len(events)
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
}
