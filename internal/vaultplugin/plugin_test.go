package vaultplugin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/tocsin-events/tocsin/proto/tocsin/vaultplugin/v1"
)

// The test binary is also the plugin, and a host to be killed, when this is set.
const roleVariable = "TOCSIN_TEST_PLUGIN"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		play(role)
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// play is the life of a plugin.
func play(role string) {
	switch role {
	case "host":
		host()
	case "silent":
		select {}
	case "exit":
		fmt.Fprintln(os.Stderr, "no license")
		os.Exit(7)
	case "garbage":
		fmt.Println("hello, I am no plugin")
		select {}
	case "long":
		fmt.Println(strings.Repeat("x", 1<<20))
		select {}
	case "foreign":
		fmt.Println("1|5|tcp|192.0.2.1:443|grpc|")
		select {}
	case "deaf": // says where it listens, and does not
		fmt.Println("1|5|unix|/nonexistent/socket|grpc|")
		select {}
	default:
		version := protocolVersion
		if role == "old" {
			version = 4
		}
		plugin.Serve(&plugin.ServeConfig{
			HandshakeConfig:  plugin.HandshakeConfig{MagicCookieKey: cookieKey, MagicCookieValue: cookieValue},
			VersionedPlugins: map[int]plugin.PluginSet{version: {pluginName: testServer{role: role}}},
			GRPCServer: func(o []grpc.ServerOption) *grpc.Server {
				return grpc.NewServer(append(o, grpc.MaxRecvMsgSize(DefaultMaxMessage))...)
			},
			Logger: hclog.New(&hclog.LoggerOptions{Output: os.Stderr, JSONFormat: true}),
		})
		if role == "lingering" {
			select {}
		}
	}
}

// testServer serves the backend of the test plugin.
type testServer struct {
	plugin.NetRPCUnsupportedPlugin
	role string
}

func (testServer) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errors.ErrUnsupported
}

func (s testServer) GRPCServer(broker *plugin.GRPCBroker, server *grpc.Server) error {
	b := &testBackend{role: s.role, broker: broker, server: server, mounts: map[string]*grpc.ClientConn{}}
	server.RegisterService(service("pb.Backend",
		method("Setup", (*testBackend).setup),
		method("Initialize", func(*testBackend, context.Context, *pb.InitializeRequest) (*pb.InitializeReply, error) {
			return new(pb.InitializeReply), nil
		}),
		method("Type", func(*testBackend, context.Context, *pb.Empty) (*pb.TypeReply, error) {
			return &pb.TypeReply{Type: 1}, nil
		}),
		method("SpecialPaths", func(*testBackend, context.Context, *pb.Empty) (*pb.SpecialPathsReply, error) {
			return new(pb.SpecialPathsReply), nil
		}),
		method("HandleRequest", (*testBackend).request),
		method("HandleExistenceCheck", func(*testBackend, context.Context, *pb.ExistenceRequest) (*pb.ExistenceReply, error) {
			return &pb.ExistenceReply{Found: true, Exists: true}, nil
		}),
		method("InvalidateKey", func(*testBackend, context.Context, *pb.InvalidateKeyRequest) (*pb.Empty, error) { return noReply, nil }),
		method("Cleanup", (*testBackend).cleanup),
	), b)
	if s.role == "multiplexed" {
		server.RegisterService(service("pluginutil.multiplexing.PluginMultiplexing",
			method("MultiplexingSupport", func(*testBackend, context.Context, *pb.Empty) (*pb.MultiplexingReply, error) {
				return &pb.MultiplexingReply{Supported: true}, nil
			}),
		), b)
	}
	return nil
}

type testBackend struct {
	role   string
	broker *plugin.GRPCBroker
	server *grpc.Server

	mu     sync.Mutex
	mounts map[string]*grpc.ClientConn
}

func mountOf(ctx context.Context) string {
	return strings.Join(metadata.ValueFromIncomingContext(ctx, multiplexKey), ",")
}

func (b *testBackend) setup(ctx context.Context, r *pb.SetupRequest) (*pb.SetupReply, error) {
	if r.Config["fail"] != "" {
		return &pb.SetupReply{Error: r.Config["fail"]}, nil
	}
	conn, err := b.broker.Dial(r.BrokerId)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mounts[mountOf(ctx)] = conn
	return new(pb.SetupReply), nil
}

func (b *testBackend) cleanup(ctx context.Context, _ *pb.Empty) (*pb.Empty, error) {
	if b.role == "clinging" {
		select {}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mounts[mountOf(ctx)].Close()
	delete(b.mounts, mountOf(ctx))
	return noReply, nil
}

// request does what the path says. Its reply is a proto.Message because not all are of
// the right type.
func (b *testBackend) request(ctx context.Context, r *pb.HandleRequest) (proto.Message, error) {
	b.mu.Lock()
	host := b.mounts[mountOf(ctx)]
	b.mu.Unlock()
	if host == nil {
		return nil, errors.New("no such mount")
	}
	reply := &pb.HandleReply{Response: &pb.Response{Data: "{}"}}
	switch verb, argument, _ := strings.Cut(r.Request.Path, "/"); verb {
	case "echo":
		reply.Response.Data = r.Request.Data
	case "data": // any text
		reply.Response.Data = argument
	case "put":
		put := new(pb.StoragePutReply)
		if err := host.Invoke(ctx, "/pb.Storage/Put", &pb.StoragePutRequest{Entry: &pb.StorageEntry{Key: argument, Value: []byte("v")}}, put); err != nil {
			return nil, errors.New(err.Error())
		}
		if put.Error != "" {
			reply.Error = &pb.Error{Kind: uint32(KindInternal), Message: put.Error}
		}
	case "event":
		if err := host.Invoke(ctx, "/pb.Events/SendEvent", &pb.SendEventRequest{EventType: argument}, new(pb.Empty)); err != nil {
			return nil, errors.New(err.Error())
		}
	case "method":
		if err := host.Invoke(ctx, "/"+argument, noReply, new(pb.Empty)); err != nil {
			return nil, errors.New(err.Error())
		}
	case "status":
		return nil, status.Error(codes.Code(argument[0]-'a'), "as you wish")
	case "error":
		reply.Error = &pb.Error{Kind: 4711, Message: argument}
	case "time":
		reply.Response.Auth = &pb.Auth{Lease: &pb.Lease{IssueTime: &timestamppb.Timestamp{Seconds: 1 << 62}}, InternalData: "{}"}
	case "internal":
		reply.Response.Secret = &pb.Secret{InternalData: "[]"}
	case "wrong":
		return &pb.Group{Id: "\x08\x01", Name: "x"}, nil
	case "many": // values in few bytes
		reply.Response.Data = `{"a":[` + strings.Repeat("0,", 3<<20) + `0]}`
	case "leave": // goes on without listening
		go b.server.Stop()
		select {}
	case "hang":
		select {}
	case "exit":
		os.Exit(3)
	case "environment":
		reply.Response.Data = fmt.Sprintf("{%q:%q}", argument, os.Getenv(argument))
	case "child": // leaves a child process that holds its output open
		child := exec.Command("sleep", "1000")
		child.Stdout, child.Stderr = os.Stdout, os.NewFile(2, "stderr")
		if err := child.Start(); err != nil {
			return nil, err
		}
		reply.Response.Data = fmt.Sprintf(`{"pid":%d}`, child.Process.Pid)
	}
	return reply, nil
}

// host launches a plugin, says its pid, and waits to be killed.
func host() {
	p, err := Launch(context.Background(), Options{Command: os.Args[0], Env: []string{roleVariable + "=multiplexed"}})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(p.PID())
	select {}
}
