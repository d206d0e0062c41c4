package vaultplugin

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/tocsin-events/tocsin/proto/tocsin/vaultplugin/v1"
)

func (h *hostServer) defaultLeaseTTL(context.Context, *pb.Empty) (*pb.TTLReply, error) {
	return ttlReply(h.setup.System.DefaultLeaseTTL), nil
}

func (h *hostServer) maxLeaseTTL(context.Context, *pb.Empty) (*pb.TTLReply, error) {
	return ttlReply(h.setup.System.MaxLeaseTTL), nil
}

func ttlReply(ttl time.Duration) *pb.TTLReply {
	if ttl == 0 {
		ttl = defaultLeaseTTL
	}
	return &pb.TTLReply{Ttl: int64(ttl)}
}

func (h *hostServer) tainted(context.Context, *pb.Empty) (*pb.TaintedReply, error) {
	tainted := h.setup.System.Tainted
	return &pb.TaintedReply{Tainted: tainted != nil && tainted()}, nil
}

func (h *hostServer) cachingDisabled(context.Context, *pb.Empty) (*pb.CachingDisabledReply, error) {
	return &pb.CachingDisabledReply{Disabled: h.setup.System.CachingDisabled}, nil
}

func (h *hostServer) replicationState(context.Context, *pb.Empty) (*pb.ReplicationStateReply, error) {
	return &pb.ReplicationStateReply{State: int32(h.setup.System.ReplicationState)}, nil
}

func (h *hostServer) mlockEnabled(context.Context, *pb.Empty) (*pb.MlockEnabledReply, error) {
	return &pb.MlockEnabledReply{Enabled: h.setup.System.MlockEnabled}, nil
}

func (h *hostServer) localMount(context.Context, *pb.Empty) (*pb.LocalMountReply, error) {
	return &pb.LocalMountReply{Local: h.setup.System.LocalMount}, nil
}

func (h *hostServer) pluginEnv(context.Context, *pb.Empty) (*pb.PluginEnvReply, error) {
	version := h.setup.System.VaultVersion
	if version == "" {
		version = h.options.VaultVersion
	}
	return &pb.PluginEnvReply{Environment: &pb.PluginEnvironment{Version: version}}, nil
}

func (h *hostServer) clusterInfo(context.Context, *pb.Empty) (*pb.ClusterInfoReply, error) {
	return &pb.ClusterInfoReply{Name: h.setup.System.ClusterName, Id: h.setup.System.ClusterID}, nil
}

var errNoEntities = errors.New("this server has no entities")

func (h *hostServer) entityInfo(ctx context.Context, r *pb.EntityRequest) (*pb.EntityInfoReply, error) {
	if h.setup.System.EntityInfo == nil {
		return &pb.EntityInfoReply{Error: errorText(errNoEntities)}, nil
	}
	ctx, cancel := h.bound(ctx)
	defer cancel()
	entity, err := h.setup.System.EntityInfo(ctx, r.EntityId)
	if err != nil {
		return &pb.EntityInfoReply{Error: errorText(err)}, nil
	}
	return &pb.EntityInfoReply{Entity: entityToWire(entity)}, nil
}

func (h *hostServer) groupsForEntity(ctx context.Context, r *pb.EntityRequest) (*pb.GroupsForEntityReply, error) {
	if h.setup.System.GroupsForEntity == nil {
		return &pb.GroupsForEntityReply{Error: errorText(errNoEntities)}, nil
	}
	ctx, cancel := h.bound(ctx)
	defer cancel()
	groups, err := h.setup.System.GroupsForEntity(ctx, r.EntityId)
	if err != nil {
		return &pb.GroupsForEntityReply{Error: errorText(err)}, nil
	}
	return &pb.GroupsForEntityReply{Groups: groupsToWire(groups)}, nil
}

func (h *hostServer) generatePassword(ctx context.Context, r *pb.GeneratePasswordRequest) (*pb.GeneratePasswordReply, error) {
	switch {
	case r.Policy == "":
		return nil, status.Error(codes.InvalidArgument, "a password policy must be named")
	case h.setup.System.GeneratePassword == nil:
		return nil, unavailable("password policies")
	}
	ctx, cancel := h.bound(ctx)
	defer cancel()
	password, err := h.setup.System.GeneratePassword(ctx, r.Policy)
	if err != nil {
		return nil, callError(err)
	}
	return &pb.GeneratePasswordReply{Password: password}, nil
}

func (h *hostServer) responseWrapData(context.Context, *pb.ResponseWrapDataRequest) (*pb.ResponseWrapDataReply, error) {
	return &pb.ResponseWrapDataReply{Error: "this server has no response wrapping"}, nil
}

func (h *hostServer) generateIdentityToken(context.Context, *pb.IdentityTokenRequest) (*pb.IdentityTokenReply, error) {
	return nil, unavailable("identity tokens")
}

func (h *hostServer) rotationInformation(context.Context, *pb.RotationRequest) (*pb.RotationReply, error) {
	return nil, unavailable("rotation manager")
}

func (h *hostServer) registerRotationJob(context.Context, *pb.RegisterRotationJobRequest) (*pb.RegisterRotationJobReply, error) {
	return nil, unavailable("rotation manager")
}

func (h *hostServer) registerRotationJobWithResponse(context.Context, *pb.RegisterRotationJobRequest) (*pb.RegisterRotationJobWithResponseReply, error) {
	return nil, unavailable("rotation manager")
}

func (h *hostServer) deregisterRotationJob(context.Context, *pb.DeregisterRotationJobRequest) (*pb.Empty, error) {
	return nil, unavailable("rotation manager")
}
