package pluginwire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tocsin-events/tocsin/internal/scapevent"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
	pb "github.com/tocsin-events/tocsin/proto/tocsin/plugin/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testID = 7

// peer is a plugin that sends whatever a test wants.
type peer struct {
	pb.UnimplementedPluginServiceServer
	description *pb.DescribeResponse
	open        func(*pb.OpenRequest, pb.PluginService_OpenServer) error
	strings     *pb.StringsResponse
	extract     *pb.ExtractResponse
	progress    *pb.ProgressResponse
	fail        error
	hang        bool
}

func good() *pb.DescribeResponse {
	return &pb.DescribeResponse{
		Name: "peer", Version: "1.0.0", Id: testID, EventSource: "tests", AsyncNames: []string{"known"},
		Capabilities: &pb.Capabilities{Source: true, Extract: true, Strings: true, Progress: true, Async: true, Resume: true, OpenParams: true, SetConfig: true},
		Fields:       []*pb.Field{{Name: "n", Type: pb.FieldType_FIELD_TYPE_UINT64}, {Name: "s", Type: pb.FieldType_FIELD_TYPE_STRING, List: true}, {Name: "ip", Type: pb.FieldType_FIELD_TYPE_IPADDR}},
	}
}

func (p *peer) Describe(context.Context, *pb.DescribeRequest) (*pb.DescribeResponse, error) {
	return p.description, nil
}
func (p *peer) Init(context.Context, *pb.InitRequest) (*pb.InitResponse, error) {
	return &pb.InitResponse{}, p.fail
}
func (p *peer) Open(r *pb.OpenRequest, to pb.PluginService_OpenServer) error { return p.open(r, to) }
func (p *peer) Strings(ctx context.Context, _ *pb.StringsRequest) (*pb.StringsResponse, error) {
	if p.hang {
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	return p.strings, p.fail
}
func (p *peer) Extract(context.Context, *pb.ExtractRequest) (*pb.ExtractResponse, error) {
	return p.extract, p.fail
}
func (p *peer) Progress(context.Context, *pb.ProgressRequest) (*pb.ProgressResponse, error) {
	return p.progress, nil
}

// connect serves a service and returns a connection to it.
func connect(t testing.TB, service pb.PluginServiceServer, o ...grpc.ServerOption) *grpc.ClientConn {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(o...)
	pb.RegisterPluginServiceServer(server, service)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	conn, err := grpc.NewClient("unix:"+socket, append(DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return conn
}

func client(t testing.TB, p *peer, o ...func(*ClientOptions)) *Client {
	t.Helper()
	if p.description == nil {
		p.description = good()
	}
	options := ClientOptions{Name: "test"}
	for _, change := range o {
		change(&options)
	}
	c, err := Connect(t.Context(), connect(t, p), options)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func quick(o *ClientOptions) {
	o.CallTimeout, o.OpenTimeout = 100*time.Millisecond, 100*time.Millisecond
}

func TestDescribe(t *testing.T) {
	for want, change := range map[string]func(*pb.DescribeResponse){
		"":                                 func(*pb.DescribeResponse) {},
		"no name":                          func(d *pb.DescribeResponse) { d.Name = "" },
		"control characters":               func(d *pb.DescribeResponse) { d.Version = "1\x1b[0m" },
		"both are needed":                  func(d *pb.DescribeResponse) { d.Id = 0 },
		"\"syscall\", which is reserved":   func(d *pb.DescribeResponse) { d.EventSource = "syscall" },
		"neither open a stream":            func(d *pb.DescribeResponse) { d.Capabilities = nil },
		"twice":                            func(d *pb.DescribeResponse) { d.Fields[1].Name = "n" },
		"has the type 265":                 func(d *pb.DescribeResponse) { d.Fields[0].Type = 256 + 9 },
		"has the type 3":                   func(d *pb.DescribeResponse) { d.Fields[0].Type = 3 },
		"takes neither":                    func(d *pb.DescribeResponse) { d.Fields[0].ArgRequired = true },
		"field number 2 has no name":       func(d *pb.DescribeResponse) { d.Fields[2].Name = "" },
		"10001 fields":                     func(d *pb.DescribeResponse) { d.Fields = make([]*pb.Field, maxFields+1) },
		"more than 10000 event sources":    func(d *pb.DescribeResponse) { d.ExtractSources = make([]string, maxNames+1) },
		"received message larger than max": func(d *pb.DescribeResponse) { d.ConfigSchema = strings.Repeat(" ", maxDescription) },
	} {
		d := good()
		change(d)
		c, err := Connect(t.Context(), connect(t, &peer{description: d}, grpc.MaxSendMsgSize(math.MaxInt32)), ClientOptions{Name: "test"})
		switch {
		case want == "" && err == nil:
			if c.Describe().Fields[2].Type != sourceplugin.IPAddr || !c.Describe().Capabilities.Source {
				t.Errorf("%+v", c.Describe())
			}
			if !proto.Equal(describe(c.Describe()), d) {
				t.Errorf("%v became %v", d, describe(c.Describe()))
			}
		case err == nil || !errors.Is(err, sourceplugin.ErrProtocol) || !strings.HasPrefix(err.Error(), "plugin test: ") || !strings.Contains(err.Error(), want):
			t.Errorf("%s: %v", want, err)
		}
	}
}

func blob(events ...[]byte) []byte { return bytes.Join(events, nil) }

func plain(id uint32, nanos uint64, size int) []byte {
	return scapevent.Append(nil, id, nanos, make([]byte, size))
}

// What a stream sends is checked: what is good before the bad counts.
func TestStream(t *testing.T) {
	ok := plain(testID, 1, 4)
	for name, tc := range map[string]struct {
		send    *pb.OpenResponse
		count   int
		dropped int
		err     string // of the plugin's protocol; empty: none
	}{
		"good":              {send: &pb.OpenResponse{Events: blob(ok, ok), Count: 2}, count: 2},
		"nothing":           {send: &pb.OpenResponse{}},
		"no time, no id":    {send: &pb.OpenResponse{Events: plain(0, scapevent.NoTime, 1), Count: 1}, count: 1},
		"asynchronous":      {send: &pb.OpenResponse{Events: scapevent.AppendAsync(nil, 0, 1, "known", nil), Count: 1}, count: 1},
		"unknown name":      {send: &pb.OpenResponse{Events: blob(ok, scapevent.AppendAsync(nil, 0, 1, "other", nil)), Count: 2}, count: 1, err: "event 2 of a batch: its name, \"other\","},
		"foreign id":        {send: &pb.OpenResponse{Events: blob(ok, plain(8, 1, 1), ok), Count: 3}, count: 1, err: "event 2 of a batch: it has the plugin id 8 instead of 7"},
		"too few":           {send: &pb.OpenResponse{Events: blob(ok), Count: 2}, count: 1, err: "has 1 events, and says that it has 2"},
		"too many":          {send: &pb.OpenResponse{Events: blob(ok, ok), Count: 1}, count: 2, err: "has 2 events, and says that it has 1"},
		"huge count":        {send: &pb.OpenResponse{Events: ok, Count: math.MaxUint32}, count: 1, err: "says that it has 4294967295"},
		"cut":               {send: &pb.OpenResponse{Events: blob(ok, ok[:len(ok)-1]), Count: 2}, count: 1, err: "event 2 of a batch: malformed event"},
		"garbage":           {send: &pb.OpenResponse{Events: []byte(strings.Repeat("x", 100)), Count: 1}, err: "malformed event"},
		"large":             {send: &pb.OpenResponse{Events: blob(ok, plain(testID, 1, 5000), ok), Count: 3}, count: 2, dropped: 1},
		"too large a batch": {send: &pb.OpenResponse{Events: make([]byte, maxBatch+5000), Count: 1}, err: "larger than max"},
		"too long a place":  {send: &pb.OpenResponse{Position: make([]byte, maxPosition+1), HasPosition: true}, err: "a position has 65537 bytes"},
		"dropped by itself": {send: &pb.OpenResponse{Dropped: 5, DroppedReason: "too\nlarge"}, dropped: 5},
	} {
		t.Run(name, func(t *testing.T) {
			c := client(t, &peer{open: func(r *pb.OpenRequest, to pb.PluginService_OpenServer) error {
				if r.GetMaxEventBytes() != 1000 || r.GetStream() == 0 || string(r.GetResume()) != "here" || !r.GetHasResume() {
					return status.Error(codes.Aborted, "a wrong request")
				}
				_ = to.Send(&pb.OpenResponse{})
				_ = to.Send(tc.send)
				return nil
			}})
			s, err := c.Open(t.Context(), sourceplugin.Open{MaxEventBytes: 1000, Resume: []byte("here")})
			if err != nil {
				t.Fatal(err)
			}
			b := sourceplugin.Batch{Events: make([]byte, 0, 8), Position: []byte("old")}
			err = s.Next(t.Context(), &b)
			switch {
			case tc.err == "" && err != nil, tc.err != "" && (!errors.Is(err, sourceplugin.ErrProtocol) || !strings.Contains(err.Error(), tc.err) || !strings.HasPrefix(err.Error(), "plugin test: ")):
				t.Error(err)
			case b.Position != nil:
				t.Error("there is a position")
			}
			n := 0
			for rest := b.Events; len(rest) > 0; n++ {
				var e scapevent.Event
				if e, rest, err = scapevent.Next(rest); err != nil || e.PluginID() != testID || e.Nanos() == scapevent.NoTime {
					t.Fatal(e, err)
				}
			}
			if n != b.Count || n != tc.count || b.Dropped != tc.dropped || strings.Contains(b.DroppedReason, "\n") {
				t.Errorf("%d events of %d, and %d are left out: %q", n, b.Count, b.Dropped, b.DroppedReason)
			}
			if again := s.Next(t.Context(), &b); tc.err == "" && again != io.EOF || tc.err != "" && again == nil || b.Count > 0 {
				t.Error(again)
			}
			if err := s.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// A stream of which nobody reads any more is closed at once, however much its plugin sends.
func TestCloseOfFlood(t *testing.T) {
	c := client(t, &peer{open: func(_ *pb.OpenRequest, to pb.PluginService_OpenServer) error {
		m := &pb.OpenResponse{}
		for {
			if err := to.Send(m); err != nil {
				return err
			}
			m = &pb.OpenResponse{Events: scapevent.Append(nil, testID, 1, make([]byte, 1000)), Count: 1}
		}
	}})
	stream, err := c.Open(t.Context(), sourceplugin.Open{})
	if err != nil {
		t.Fatal(err)
	}
	var b sourceplugin.Batch
	if err := stream.Next(t.Context(), &b); err != nil || b.Count != 1 {
		t.Fatalf("%d events, %v", b.Count, err)
	}
	s := stream.(*Stream)
	for end := time.Now().Add(time.Minute); len(s.free) > 0 || len(s.filled) < cap(s.filled); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d batches are there", len(s.filled))
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := stream.Close(ctx); err != nil {
		t.Error(err)
	}
}

func TestOpenFails(t *testing.T) {
	for name, tc := range map[string]struct {
		open func(*pb.OpenRequest, pb.PluginService_OpenServer) error
		is   error
		want string
	}{
		"plugin's error": {func(*pb.OpenRequest, pb.PluginService_OpenServer) error {
			return status.Error(codes.Aborted, "no such\r\nqueue\x1b[0m")
		}, nil, "plugin test: no such  queue\uFFFD[0m"},
		"long error": {func(*pb.OpenRequest, pb.PluginService_OpenServer) error {
			return status.Error(codes.Unknown, strings.Repeat("x", 10*maxText))
		}, nil, "xxx..."},
		"no reason":    {func(*pb.OpenRequest, pb.PluginService_OpenServer) error { return status.Error(codes.Aborted, "") }, nil, "Open has failed, and it does not say why"},
		"ends at once": {func(*pb.OpenRequest, pb.PluginService_OpenServer) error { return nil }, sourceplugin.ErrProtocol, "the first answer of Open"},
		"begins with some": {func(_ *pb.OpenRequest, to pb.PluginService_OpenServer) error {
			return to.Send(&pb.OpenResponse{Events: plain(testID, 1, 1), Count: 1})
		}, sourceplugin.ErrProtocol, "has events"},
		"hangs":   {func(_ *pb.OpenRequest, to pb.PluginService_OpenServer) error { <-to.Context().Done(); return nil }, sourceplugin.ErrTimeout, "within 100ms"},
		"unknown": {func(*pb.OpenRequest, pb.PluginService_OpenServer) error { return status.Error(codes.Unimplemented, "") }, sourceplugin.ErrNotSupported, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := client(t, &peer{open: tc.open}, quick)
			_, err := c.Open(t.Context(), sourceplugin.Open{})
			if err == nil || tc.is != nil && !errors.Is(err, tc.is) || !strings.Contains(err.Error(), tc.want) || len(err.Error()) > 2*maxText {
				t.Errorf("%v", err)
			}
		})
	}
}

// A failure comes behind the events before it, and the end of a context loses none.
func TestStreamFails(t *testing.T) {
	goOn := make(chan struct{})
	c := client(t, &peer{open: func(_ *pb.OpenRequest, to pb.PluginService_OpenServer) error {
		_ = to.Send(&pb.OpenResponse{})
		<-goOn
		_ = to.Send(&pb.OpenResponse{Events: plain(testID, 1, 1), Count: 1, Position: []byte{}, HasPosition: true})
		return status.Error(codes.Aborted, "it broke")
	}})
	s, err := c.Open(t.Context(), sourceplugin.Open{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	var b sourceplugin.Batch
	if err := s.Next(ended, &b); !errors.Is(err, context.Canceled) || b.Count > 0 {
		t.Error(err)
	}
	close(goOn)
	if err := s.Next(t.Context(), &b); err != nil || b.Count != 1 || b.Position == nil || len(b.Position) != 0 {
		t.Error(b, err)
	}
	if err := s.Next(t.Context(), &b); err == nil || err.Error() != "plugin test: it broke" || b.Count != 0 {
		t.Error(err)
	}
}

// A stream of which nothing is read can be closed.
func TestCloseUnread(t *testing.T) {
	c := client(t, &peer{open: func(_ *pb.OpenRequest, to pb.PluginService_OpenServer) error {
		_ = to.Send(&pb.OpenResponse{})
		for to.Context().Err() == nil {
			_ = to.Send(&pb.OpenResponse{Events: plain(testID, 1, 1), Count: 1})
		}
		return nil
	}})
	s, err := c.Open(t.Context(), sourceplugin.Open{})
	if err != nil {
		t.Fatal(err)
	}
	for len(s.(*Stream).free) > 0 { // until it is as far ahead as it goes
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Error(err)
	}
}

func TestAnswers(t *testing.T) {
	events := []sourceplugin.Event{{Event: plain(testID, 1, 10), Number: 1, Source: "a"}, {Event: plain(testID, 1, 10), Source: "b"}}
	fields := []sourceplugin.FieldRequest{{Index: 0}, {Index: 1}}
	for name, tc := range map[string]struct {
		counts, lengths []uint32
		bytes           int
		offsets         []uint32
		want            string
	}{
		"good":             {[]uint32{1, 2, 0, 0}, []uint32{8, 1, 0}, 9, []uint32{38, 8, 0, 0, 48, 0}, ""},
		"none":             {[]uint32{0, 0, 0, 0}, nil, 0, nil, ""},
		"few counts":       {[]uint32{0}, nil, 0, nil, "1 counts for 2 fields of 2 events"},
		"many for no list": {[]uint32{2, 0, 0, 0}, []uint32{8, 8}, 16, nil, "which is no list, has 2"},
		"few lengths":      {[]uint32{0, math.MaxUint32, 0, 0}, []uint32{1}, 1, nil, "more elements are counted"},
		"many lengths":     {[]uint32{0, 1, 0, 0}, []uint32{1, 1}, 2, nil, "there are 2 with 2"},
		"few bytes":        {[]uint32{0, 1, 0, 0}, []uint32{math.MaxUint32}, 1, nil, "there are 1 with 1"},
		"short number":     {[]uint32{1, 0, 0, 0}, []uint32{4}, 4, nil, "the field n has 4 bytes"},
		"odd offsets":      {[]uint32{1, 0, 0, 0}, []uint32{8}, 8, []uint32{1}, "1 offsets for 1"},
		"offsets beyond":   {[]uint32{1, 0, 0, 0}, []uint32{8}, 8, []uint32{math.MaxUint32, 8}, "lies beyond its event"},
	} {
		c := client(t, &peer{extract: &pb.ExtractResponse{Counts: tc.counts, Lengths: tc.lengths, Values: make([]byte, tc.bytes), Offsets: tc.offsets}})
		v, err := c.Extract(t.Context(), events, fields)
		if tc.want == "" && (err != nil || len(v.Bytes) != tc.bytes) || tc.want != "" && (!errors.Is(err, sourceplugin.ErrProtocol) || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v %v", name, v, err)
		}
	}
	c := client(t, &peer{strings: &pb.StringsResponse{Strings: []string{"x"}}, progress: &pb.ProgressResponse{Fraction: math.NaN(), Text: "a\nb"}})
	if _, err := c.Extract(t.Context(), events, []sourceplugin.FieldRequest{{Index: 9}}); err == nil {
		t.Error("there is a field 9")
	}
	if _, err := c.Strings(t.Context(), events); !errors.Is(err, sourceplugin.ErrProtocol) {
		t.Error(err)
	}
	if got := progress(&pb.ProgressResponse{Fraction: math.NaN(), Text: "a\nb"}); got != (sourceplugin.Progress{Text: "a b"}) {
		t.Error(got)
	}
	if got := progress(&pb.ProgressResponse{Fraction: math.Inf(1)}); got.Fraction != 1 {
		t.Error(got)
	}
	if list, err := c.Metrics(t.Context()); list != nil || err != nil {
		t.Error(list, err)
	}
	if _, err := c.OpenParams(t.Context()); !errors.Is(err, sourceplugin.ErrNotSupported) {
		t.Error(err)
	}
	hanging := client(t, &peer{hang: true}, quick)
	if _, err := hanging.Strings(t.Context(), events); !errors.Is(err, sourceplugin.ErrTimeout) {
		t.Error(err)
	}
	failing := client(t, &peer{fail: status.Error(codes.Aborted, "bad config")})
	if err := failing.Init(t.Context(), "x"); err == nil || err.Error() != "plugin test: bad config" {
		t.Error(err)
	}
}

// Without its server, a client says that the process is gone, or that nothing answers.
func TestGone(t *testing.T) {
	for _, gone := range []error{nil, fmt.Errorf("%w (exit status 3)", sourceplugin.ErrExited)} {
		p := &peer{description: good()}
		conn := connect(t, p)
		c, err := Connect(t.Context(), conn, ClientOptions{Name: "test", Gone: func() error { return gone }})
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		want := sourceplugin.ErrTimeout
		if gone != nil {
			want = gone
		}
		if _, err := c.Metrics(t.Context()); !errors.Is(err, want) {
			t.Error(err)
		}
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestCodec(t *testing.T) {
	for _, want := range []*pb.OpenResponse{
		{},
		{Events: plain(1, 2, 3000), Count: 1},
		{Events: plain(1, 2, 3), Count: 1, Position: []byte("p"), HasPosition: true, Dropped: 3, DroppedReason: "why"},
		{Position: []byte{}, HasPosition: true},
	} {
		batch := &sourceplugin.Batch{Dropped: int(want.Dropped), DroppedReason: want.DroppedReason, Count: int(want.Count)}
		if want.HasPosition {
			batch.Position = append([]byte{}, want.Position...)
		}
		out := &sent{count: int(want.Count), batch: batch}
		if len(want.Events) > 0 {
			out.events = mem.SliceBuffer(want.Events)
		}
		data, err := codec{}.Marshal(out)
		if err != nil {
			t.Fatal(err)
		}
		got := new(pb.OpenResponse)
		if err := proto.Unmarshal(data.Materialize(), got); err != nil || !proto.Equal(got, want) && len(want.Events) > 0 {
			t.Errorf("%v became %v, %v", want, got, err)
		}
		encoded, err := proto.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		in := new(received)
		if err := (codec{}).Unmarshal(mem.BufferSlice{mem.SliceBuffer(encoded)}, in); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(in.batch.Events, want.Events) || in.count != uint64(want.Count) || !bytes.Equal(in.batch.Position, want.Position) ||
			(in.batch.Position != nil) != want.HasPosition || in.batch.Dropped != int(want.Dropped) || in.batch.DroppedReason != want.DroppedReason {
			t.Errorf("%v became %+v", want, in)
		}
	}
}

// FuzzReceived: what our reader takes is what protobuf takes.
func FuzzReceived(f *testing.F) {
	for _, m := range []*pb.OpenResponse{{}, {Events: plain(1, 2, 3), Count: 1, Position: []byte("p"), HasPosition: true, Dropped: 3, DroppedReason: "why"}} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(append(b, b...))
	}
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Add([]byte{0x7d, 1, 2, 3, 4, 0x79, 1, 2, 3, 4, 5, 6, 7, 8})
	f.Fuzz(func(t *testing.T, b []byte) {
		got := new(received)
		r := mem.BufferSlice{mem.SliceBuffer(b[:len(b)/2]), mem.SliceBuffer(b[len(b)/2:])}.Reader()
		if err := got.read(r); err != nil {
			return
		}
		want := new(pb.OpenResponse)
		if err := proto.Unmarshal(b, want); err != nil {
			return // protobuf also looks at texts and unknown fields
		}
		if !bytes.Equal(got.batch.Events, want.Events) || uint32(got.count) != want.Count || (got.batch.Position != nil) != want.HasPosition || got.batch.Dropped != int(want.Dropped) {
			t.Errorf("%x: %+v is not %v", b, got, want)
		}
	})
}

// FuzzCheck: what Next hands out is what a Batch promises, whatever a plugin has sent.
func FuzzCheck(f *testing.F) {
	f.Add(blob(plain(testID, 1, 3), plain(0, scapevent.NoTime, 2000), plain(testID, 1, 3)), uint64(3))
	f.Add(scapevent.AppendAsync(plain(testID, 1, 3), 0, 1, "known", nil), uint64(2))
	f.Add([]byte("x"), uint64(0))
	d, err := description(good())
	if err != nil {
		f.Fatal(err)
	}
	s := &Stream{client: &Client{description: d, options: ClientOptions{Name: "test"}}, maxEvent: 1000}
	f.Fuzz(func(t *testing.T, all []byte, count uint64) {
		b := sourceplugin.Batch{Events: bytes.Clone(all)}
		err := s.check(&b, count)
		n := 0
		for rest := b.Events; len(rest) > 0; n++ {
			e, behind, err := scapevent.Next(rest)
			if err != nil || e.PluginID() != testID || e.Nanos() == scapevent.NoTime || len(e) > 1000 {
				t.Fatal(e, err)
			}
			rest = behind
		}
		if n != b.Count || err == nil && uint64(n+b.Dropped) != count || err != nil && !errors.Is(err, sourceplugin.ErrProtocol) {
			t.Errorf("%d events, count %d, %v", n, b.Count, err)
		}
	})
}

// FuzzDescription: what is accepted can be used, and comes out as it went in.
func FuzzDescription(f *testing.F) {
	b, err := proto.Marshal(good())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(pb.DescribeResponse)
		if proto.Unmarshal(b, m) != nil {
			return
		}
		d, err := description(m)
		if err != nil {
			return
		}
		again, err := description(describe(d))
		if err != nil || !proto.Equal(describe(again), describe(d)) {
			t.Errorf("%v: %v", d, err)
		}
	})
}

// FuzzValues: accepted values can be walked over.
func FuzzValues(f *testing.F) {
	b, err := proto.Marshal(&pb.ExtractResponse{Counts: []uint32{1, 2, 0, 0, 0, 1}, Lengths: []uint32{8, 1, 0, 4}, Values: make([]byte, 13), Offsets: make([]uint32, 8)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	d, err := description(good())
	if err != nil {
		f.Fatal(err)
	}
	events := []sourceplugin.Event{{Event: plain(testID, 1, 10)}, {Event: plain(testID, 1, 0)}}
	fields := []sourceplugin.FieldRequest{{Index: 0}, {Index: 1}, {Index: 2}}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(pb.ExtractResponse)
		if proto.Unmarshal(b, m) != nil {
			return
		}
		v := sourceplugin.Values{Counts: m.Counts, Lengths: m.Lengths, Bytes: m.Values, Offsets: m.Offsets}
		if checkValues(d, &v, events, fields) != nil {
			return
		}
		at, element := 0, 0
		for i, n := range v.Counts {
			for range n {
				value := v.Bytes[at : at+int(v.Lengths[element])]
				if fields[i%3].Index == 0 && len(value) != 8 {
					t.Errorf("a number has %d bytes", len(value))
				}
				at += len(value)
				element++
			}
		}
		if at != len(v.Bytes) {
			t.Errorf("%d bytes are left", len(v.Bytes)-at)
		}
	})
}
