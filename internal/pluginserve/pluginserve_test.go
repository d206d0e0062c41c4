//go:build (linux || darwin) && (amd64 || arm64) && !tocsin_static

package pluginserve_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tocsin-events/tocsin/internal/cli"
	"github.com/tocsin-events/tocsin/internal/pluginserve"
	"github.com/tocsin-events/tocsin/internal/scapevent"
	pb "github.com/tocsin-events/tocsin/proto/tocsin/plugin/v1"
)

const hostVariable = "TOCSIN_TEST_PLUGIN_HOST"

// The test is its own child: with a library in its environment it is "tocsin plugin-host".
func TestMain(m *testing.M) {
	if library := os.Getenv(hostVariable); library != "" {
		os.Exit(cli.Run(context.Background(), []string{"plugin-host", library}, cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
	}
	os.Exit(m.Run())
}

func library(t testing.TB) string {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("there is no C compiler")
	}
	path := filepath.Join(t.TempDir(), "plugin.so")
	if out, err := exec.Command("gcc", "-shared", "-fPIC", "-O1", "-o", path, "../falcoplugin/testdata/plugin.c", "-lpthread").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// host starts a child with the library and returns its client, with whether it has ended.
func host(t testing.TB, library string) (pb.PluginServiceClient, func() bool, error) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), hostVariable+"="+library)
	c := plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  plugin.HandshakeConfig{MagicCookieKey: pluginserve.CookieKey, MagicCookieValue: pluginserve.CookieValue},
		VersionedPlugins: map[int]plugin.PluginSet{pluginserve.ProtocolVersion: {pluginserve.PluginName: &pluginserve.Connector{}}},
		Cmd:              cmd, AutoMTLS: true, AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		GRPCDialOptions: []grpc.DialOption{grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(512 << 20))},
		Logger:          hclog.NewNullLogger(), StartTimeout: 20 * time.Second,
	})
	t.Cleanup(c.Kill)
	rpc, err := c.Client()
	if err != nil {
		return nil, c.Exited, err
	}
	got, err := rpc.Dispense(pluginserve.PluginName)
	if err != nil {
		return nil, c.Exited, err
	}
	return got.(pb.PluginServiceClient), c.Exited, nil
}

func initialised(t testing.TB, config string) (pb.PluginServiceClient, func() bool) {
	t.Helper()
	c, exited, err := host(t, library(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Init(t.Context(), &pb.InitRequest{Config: config}); err != nil {
		t.Fatal(err)
	}
	return c, exited
}

// count opens a stream and counts its events until its end.
func count(t testing.TB, c pb.PluginServiceClient, r *pb.OpenRequest) (events int, dropped uint32, err error) {
	t.Helper()
	s, err := c.Open(t.Context(), r)
	if err != nil {
		return 0, 0, err
	}
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return events, dropped, nil
		}
		if err != nil {
			return events, dropped, err
		}
		dropped += m.GetDropped()
		rest := m.GetEvents()
		for range m.GetCount() {
			if _, rest, err = scapevent.Next(rest); err != nil {
				t.Fatal(err)
			}
			events++
		}
		if len(rest) > 0 {
			t.Fatalf("%d bytes are left", len(rest))
		}
	}
}

func TestPluginHost(t *testing.T) {
	c, _, err := host(t, library(t))
	if err != nil {
		t.Fatal(err)
	}
	d, err := c.Describe(t.Context(), &pb.DescribeRequest{})
	if err != nil || d.GetName() != "testbed" || d.GetId() != 1073742001 || !d.GetCapabilities().GetSource() || d.GetFields()[1].GetType() != pb.FieldType_FIELD_TYPE_STRING {
		t.Fatal(d, err)
	}
	if _, err := c.Metrics(t.Context(), &pb.MetricsRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Error(err)
	}
	if _, err := c.Init(t.Context(), &pb.InitRequest{Config: "init-fail"}); err == nil || !strings.Contains(err.Error(), "told to fail") {
		t.Error(err)
	}
	if _, err := c.Init(t.Context(), &pb.InitRequest{}); err != nil {
		t.Fatal(err)
	}
	if n, _, err := count(t, c, &pb.OpenRequest{Stream: 1, Params: "count;count=1000;size=20"}); n != 1000 || err != nil {
		t.Error(n, err)
	}
	if n, _, err := count(t, c, &pb.OpenRequest{Stream: 2, Params: "fail-at-end;count=5"}); n != 5 || err == nil || !strings.Contains(err.Error(), "broke at the end") {
		t.Error(n, err)
	}
	if n, _, err := count(t, c, &pb.OpenRequest{Stream: 3, Params: "count;count=2;size=20971520;batch=1"}); n != 2 || err != nil {
		t.Error(n, err)
	}
	if n, dropped, err := count(t, c, &pb.OpenRequest{Stream: 4, Params: "count;count=2;size=2000", MaxEventBytes: 1000}); n != 0 || dropped != 2 || err != nil {
		t.Error(n, dropped, err)
	}
	e := &pb.Events{Events: scapevent.Append(scapevent.Append(nil, 5, 1, []byte("abc")), 5, 1, []byte("d")), Numbers: []uint64{1, 2}, Sources: []string{"x"}}
	texts, err := c.Strings(t.Context(), &pb.StringsRequest{Events: e})
	if err != nil || fmt.Sprint(texts.GetStrings()) != "[x #1: abc x #2: d]" {
		t.Error(texts, err)
	}
	v, err := c.Extract(t.Context(), &pb.ExtractRequest{Events: e, Fields: []*pb.FieldRequest{{Index: 1}, {Index: 12}}})
	if err != nil || fmt.Sprint(v.GetCounts(), v.GetLengths(), string(v.GetValues())) != "[1 0 1 0] [3 1]abcd" {
		t.Error(v, err)
	}
	e.Numbers = e.Numbers[:1]
	if _, err := c.Strings(t.Context(), &pb.StringsRequest{Events: e}); status.Code(err) != codes.InvalidArgument {
		t.Error(err)
	}
	if _, err := c.Progress(t.Context(), &pb.ProgressRequest{Stream: 9}); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
	m, err := c.Metrics(t.Context(), &pb.MetricsRequest{})
	if err != nil || len(m.GetMetrics()) != 4 {
		t.Error(m, err)
	}
	if p, err := c.OpenParams(t.Context(), &pb.OpenParamsRequest{}); err != nil || len(p.GetParams()) != 2 {
		t.Error(p, err)
	}
}

// A crash of the library is an error of the call and the end of the child, and of nothing else.
func TestCrash(t *testing.T) {
	c, exited := initialised(t, "")
	if _, _, err := count(t, c, &pb.OpenRequest{Stream: 1, Params: "crash"}); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
	for !exited() {
		time.Sleep(time.Millisecond) // go-plugin has nothing to wait for
	}
}

// A stream that is not wanted any more is closed while the library waits.
func TestCancel(t *testing.T) {
	c, _ := initialised(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	s, err := c.Open(ctx, &pb.OpenRequest{Stream: 7, Params: "block"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel()
	for err == nil {
		_, err = c.Progress(t.Context(), &pb.ProgressRequest{Stream: 7})
	}
	if n, _, err := count(t, c, &pb.OpenRequest{Stream: 7, Params: "count"}); n != 10 || err != nil {
		t.Error(n, err)
	}
}

func TestNotALibrary(t *testing.T) {
	if _, _, err := host(t, "/does/not/exist.so"); err == nil {
		t.Error("it started")
	}
}

func BenchmarkStream(b *testing.B) {
	c, _ := initialised(b, "")
	b.ResetTimer()
	if n, _, err := count(b, c, &pb.OpenRequest{Stream: 1, Params: fmt.Sprintf("count;count=%d;batch=128", b.N)}); n != b.N || err != nil {
		b.Fatal(n, err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

func BenchmarkExtract(b *testing.B) {
	c, _ := initialised(b, "")
	r := &pb.ExtractRequest{Events: &pb.Events{Sources: []string{"x"}}}
	for range 256 {
		r.Events.Events = scapevent.Append(r.Events.Events, 5, 1, make([]byte, 700))
	}
	for i := range 10 {
		r.Fields = append(r.Fields, &pb.FieldRequest{Index: uint32(20 + i)})
	}
	n := 0
	for b.Loop() {
		if _, err := c.Extract(b.Context(), r); err != nil {
			b.Fatal(err)
		}
		n += 256
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
}
