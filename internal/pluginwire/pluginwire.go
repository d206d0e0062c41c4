// Package pluginwire speaks the plugin protocol (tocsin.plugin.v1), on both sides: [Client] makes
// a [sourceplugin.Plugin] of a connection to a plugin, and [Serve] offers one to the hub that
// started this process. It starts no processes; package pluginprocess does.
//
// What a plugin sends is hostile input for the client: each message is bounded, each call ends
// with its context or its time limit, and what does not fit together is an error that wraps
// [sourceplugin.ErrProtocol] and has the name of the plugin.
package pluginwire

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	pb "github.com/tocsin-events/tocsin/proto/tocsin/plugin/v1"
)

// How a plugin and the hub recognise each other. It is not meant to be secret.
const (
	CookieKey       = "TOCSIN_SOURCE_PLUGIN"
	CookieValue     = "tocsin.plugin.v1"
	ProtocolVersion = 1
	PluginName      = "source"
)

// Bounds of messages, in bytes.
const (
	// MaxEvent is the largest event that can be asked for, and what is asked for if no size is.
	MaxEvent = 256 << 20
	// batchBytes is how many bytes of events a message has, unless one event alone has more.
	batchBytes = 1 << 20
	// maxBatch bounds a message with events beside one event of the largest size.
	maxBatch = 16 << 20
	// maxRequest bounds the events of one question, and maxAnswer the answer to it.
	maxRequest     = MaxEvent + maxBatch
	maxAnswer      = 64 << 20
	maxDescription = 16 << 20
	maxPosition    = 64 << 10
	maxText        = 1 << 10 // of an error or a reason
	maxHeaders     = 64 << 10
)

// Sizes of buffers and windows of a connection: a batch passes without waiting for the other side.
const (
	bufferBytes           = 256 << 10
	windowBytes           = 8 << 20
	connectionWindowBytes = 16 << 20
)

// DialOptions are those of a connection to a plugin.
func DialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer), grpc.MaxCallSendMsgSize(maxRequest)),
		grpc.WithMaxHeaderListSize(maxHeaders),
		grpc.WithReadBufferSize(bufferBytes), grpc.WithWriteBufferSize(bufferBytes),
		grpc.WithInitialWindowSize(windowBytes), grpc.WithInitialConnWindowSize(connectionWindowBytes),
	}
}

// ServerOptions are those of a gRPC server that has a [Server].
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{}),
		grpc.MaxRecvMsgSize(maxRequest), grpc.MaxSendMsgSize(maxRequest),
		grpc.ReadBufferSize(bufferBytes), grpc.WriteBufferSize(bufferBytes),
		grpc.InitialWindowSize(windowBytes), grpc.InitialConnWindowSize(connectionWindowBytes),
	}
}

// Defaults of ClientOptions.
const (
	DefaultCallTimeout = 30 * time.Second
	DefaultOpenTimeout = time.Minute
)

// Connector joins go-plugin and the service. Service is nil on the side of the hub, where what is
// dispensed is the connection.
type Connector struct {
	plugin.NetRPCUnsupportedPlugin
	Service *Server
}

// GRPCServer implements [plugin.GRPCPlugin].
func (c *Connector) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	if c.Service == nil {
		return errors.New("there is nothing to serve")
	}
	pb.RegisterPluginServiceServer(s, c.Service)
	return nil
}

// GRPCClient implements [plugin.GRPCPlugin].
func (c *Connector) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return conn, nil
}
