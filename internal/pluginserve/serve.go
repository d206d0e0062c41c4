package pluginserve

import (
	"context"
	"errors"
	"io"

	"github.com/hashicorp/go-hclog"
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

// maxMessage is the largest message that is taken: the events of one request.
const maxMessage = 512 << 20

// Serve serves the offer on a socket of which it tells on standard output, until the hub wants
// it to end. Nothing else may write there. It ends the process with an error text if the hub did
// not start it.
func Serve(o Offer, log io.Writer) error {
	s := NewServer(o)
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig:  plugin.HandshakeConfig{MagicCookieKey: CookieKey, MagicCookieValue: CookieValue},
		VersionedPlugins: map[int]plugin.PluginSet{ProtocolVersion: {PluginName: &Connector{Service: s}}},
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(opts, grpc.MaxRecvMsgSize(maxMessage))...)
		},
		Logger: hclog.New(&hclog.LoggerOptions{Output: log, JSONFormat: true, Level: hclog.Warn}),
	})
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	return s.Close(ctx)
}

// Connector joins go-plugin and the service. Service is nil on the side of the hub.
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
	return pb.NewPluginServiceClient(conn), nil
}
