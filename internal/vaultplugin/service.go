package vaultplugin

import (
	"context"
	"fmt"
	"runtime/debug"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/tocsin-events/tocsin/proto/tocsin/vaultplugin/v1"
)

// The methods that plugins serve.
const (
	methodSetup         = "/pb.Backend/Setup"
	methodInitialize    = "/pb.Backend/Initialize"
	methodType          = "/pb.Backend/Type"
	methodSpecialPaths  = "/pb.Backend/SpecialPaths"
	methodExistence     = "/pb.Backend/HandleExistenceCheck"
	methodRequest       = "/pb.Backend/HandleRequest"
	methodInvalidateKey = "/pb.Backend/InvalidateKey"
	methodCleanup       = "/pb.Backend/Cleanup"
	methodVersion       = "/logical.PluginVersion/Version"
	methodMultiplexing  = "/pluginutil.multiplexing.PluginMultiplexing/MultiplexingSupport"
)

// multiplexKey is the gRPC metadata that tells the backends of one process apart.
const multiplexKey = "multiplex_id"

// The services that plugins call. They are registered for a *hostServer.
var (
	storageService = service("pb.Storage",
		method("List", (*hostServer).list),
		method("Get", (*hostServer).get),
		method("Put", (*hostServer).put),
		method("Delete", (*hostServer).delete),
	)
	eventsService = service("pb.Events",
		method("SendEvent", (*hostServer).sendEvent),
	)
	observationsService = service("pb.Observations",
		method("RecordObservation", (*hostServer).recordObservation),
	)
	systemService = service("pb.SystemView",
		method("DefaultLeaseTTL", (*hostServer).defaultLeaseTTL),
		method("MaxLeaseTTL", (*hostServer).maxLeaseTTL),
		method("Tainted", (*hostServer).tainted),
		method("CachingDisabled", (*hostServer).cachingDisabled),
		method("ReplicationState", (*hostServer).replicationState),
		method("ResponseWrapData", (*hostServer).responseWrapData),
		method("MlockEnabled", (*hostServer).mlockEnabled),
		method("LocalMount", (*hostServer).localMount),
		method("EntityInfo", (*hostServer).entityInfo),
		method("PluginEnv", (*hostServer).pluginEnv),
		method("GroupsForEntity", (*hostServer).groupsForEntity),
		method("GeneratePasswordFromPolicy", (*hostServer).generatePassword),
		method("ClusterInfo", (*hostServer).clusterInfo),
		method("GenerateIdentityToken", (*hostServer).generateIdentityToken),
		method("GetRotationInformation", (*hostServer).rotationInformation),
		method("RegisterRotationJob", (*hostServer).registerRotationJob),
		method("RegisterRotationJobWithResponse", (*hostServer).registerRotationJobWithResponse),
		method("DeregisterRotationJob", (*hostServer).deregisterRotationJob),
	)
)

func service(name string, methods ...grpc.MethodDesc) *grpc.ServiceDesc {
	return &grpc.ServiceDesc{ServiceName: name, HandlerType: (*any)(nil), Methods: methods}
}

// method describes one unary method. A panic in it is an error of the call.
func method[Server any, Request any, Reply proto.Message, P interface {
	*Request
	proto.Message
}](name string, serve func(Server, context.Context, P) (Reply, error)) grpc.MethodDesc {
	return grpc.MethodDesc{
		MethodName: name,
		Handler: func(server any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (reply any, err error) {
			defer func() {
				if r := recover(); r != nil {
					if s, ok := server.(interface{ panicked(string, any, []byte) }); ok {
						s.panicked(name, r, debug.Stack())
					}
					reply, err = nil, status.Error(codes.Internal, "the host failed")
				}
			}()
			request := P(new(Request))
			if err := decode(request); err != nil {
				return nil, err
			}
			return serve(server.(Server), ctx, request)
		},
	}
}

// unavailable is the answer to what a host of events has no use for.
func unavailable(what string) error {
	return status.Error(codes.Unimplemented, fmt.Sprintf("this server has no %s", what))
}

var noReply = new(pb.Empty)
