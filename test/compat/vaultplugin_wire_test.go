package compat

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/hashicorp/vault/sdk/helper/pluginutil"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/plugin/pb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	ours "github.com/tocsin-events/tocsin/proto/tocsin/vaultplugin/v1"
)

// wirePairs are our messages and those of the SDK that they stand for.
var wirePairs = []struct{ ours, theirs proto.Message }{
	{new(ours.Empty), new(pb.Empty)},
	{new(ours.Header), new(pb.Header)},
	{new(ours.Error), new(pb.ProtoError)},
	{new(ours.Lease), new(pb.LeaseOptions)},
	{new(ours.Secret), new(pb.Secret)},
	{new(ours.Auth), new(pb.Auth)},
	{new(ours.Certificate), new(pb.Certificate)},
	{new(ours.CertificateChain), new(pb.CertificateChain)},
	{new(ours.TLSState), new(pb.ConnectionState)},
	{new(ours.Connection), new(pb.Connection)},
	{new(ours.RequestWrapInfo), new(pb.RequestWrapInfo)},
	{new(ours.ResponseWrapInfo), new(pb.ResponseWrapInfo)},
	{new(ours.Request), new(pb.Request)},
	{new(ours.Response), new(pb.Response)},
	{new(ours.RotationInfo), new(pb.RotationInfo)},
	{new(ours.WALIndex), new(pb.WALIndex)},
	{new(ours.SetupRequest), new(pb.SetupArgs)},
	{new(ours.SetupReply), new(pb.SetupReply)},
	{new(ours.InitializeRequest), new(pb.InitializeArgs)},
	{new(ours.InitializeReply), new(pb.InitializeReply)},
	{new(ours.HandleRequest), new(pb.HandleRequestArgs)},
	{new(ours.HandleReply), new(pb.HandleRequestReply)},
	{new(ours.ExistenceRequest), new(pb.HandleExistenceCheckArgs)},
	{new(ours.ExistenceReply), new(pb.HandleExistenceCheckReply)},
	{new(ours.Paths), new(pb.Paths)},
	{new(ours.SpecialPathsReply), new(pb.SpecialPathsReply)},
	{new(ours.TypeReply), new(pb.TypeReply)},
	{new(ours.InvalidateKeyRequest), new(pb.InvalidateKeyArgs)},
	{new(ours.VersionReply), new(logical.VersionReply)},
	{new(ours.MultiplexingReply), new(pluginutil.MultiplexingSupportResponse)},
	{new(ours.Empty), new(logical.Empty)},
	{new(ours.Empty), new(pluginutil.MultiplexingSupportRequest)},
	{new(ours.StorageEntry), new(pb.StorageEntry)},
	{new(ours.StorageListRequest), new(pb.StorageListArgs)},
	{new(ours.StorageListReply), new(pb.StorageListReply)},
	{new(ours.StorageGetRequest), new(pb.StorageGetArgs)},
	{new(ours.StorageGetReply), new(pb.StorageGetReply)},
	{new(ours.StoragePutRequest), new(pb.StoragePutArgs)},
	{new(ours.StoragePutReply), new(pb.StoragePutReply)},
	{new(ours.StorageDeleteRequest), new(pb.StorageDeleteArgs)},
	{new(ours.StorageDeleteReply), new(pb.StorageDeleteReply)},
	{new(ours.EventData), new(logical.EventData)},
	{new(ours.SendEventRequest), new(pb.SendEventRequest)},
	{new(ours.RecordObservationRequest), new(pb.RecordObservationRequest)},
	{new(ours.TTLReply), new(pb.TTLReply)},
	{new(ours.TaintedReply), new(pb.TaintedReply)},
	{new(ours.CachingDisabledReply), new(pb.CachingDisabledReply)},
	{new(ours.ReplicationStateReply), new(pb.ReplicationStateReply)},
	{new(ours.ResponseWrapDataRequest), new(pb.ResponseWrapDataArgs)},
	{new(ours.ResponseWrapDataReply), new(pb.ResponseWrapDataReply)},
	{new(ours.MlockEnabledReply), new(pb.MlockEnabledReply)},
	{new(ours.LocalMountReply), new(pb.LocalMountReply)},
	{new(ours.EntityRequest), new(pb.EntityInfoArgs)},
	{new(ours.EntityInfoReply), new(pb.EntityInfoReply)},
	{new(ours.GroupsForEntityReply), new(pb.GroupsForEntityReply)},
	{new(ours.PluginEnvironment), new(logical.PluginEnvironment)},
	{new(ours.PluginEnvReply), new(pb.PluginEnvReply)},
	{new(ours.GeneratePasswordRequest), new(pb.GeneratePasswordFromPolicyRequest)},
	{new(ours.GeneratePasswordReply), new(pb.GeneratePasswordFromPolicyReply)},
	{new(ours.ClusterInfoReply), new(pb.ClusterInfoReply)},
	{new(ours.IdentityTokenRequest), new(pb.GenerateIdentityTokenRequest)},
	{new(ours.IdentityTokenReply), new(pb.GenerateIdentityTokenResponse)},
	{new(ours.RotationRequest), new(pb.RotationInfoRequest)},
	{new(ours.RotationReply), new(pb.RotationInfoReply)},
	{new(ours.RotationJob), new(pb.RotationJobInput)},
	{new(ours.RegisterRotationJobRequest), new(pb.RegisterRotationJobRequest)},
	{new(ours.RegisterRotationJobReply), new(pb.RegisterRotationJobResponse)},
	{new(ours.RegisterRotationJobWithResponseReply), new(pb.RegisterRotationJobWithResponseReply)},
	{new(ours.RotationJobReference), new(pb.DeregisterRotationRequestInput)},
	{new(ours.DeregisterRotationJobRequest), new(pb.DeregisterRotationJobRequest)},
	{new(ours.Alias), new(logical.Alias)},
	{new(ours.Entity), new(logical.Entity)},
	{new(ours.Group), new(logical.Group)},
}

// The list above has all of our messages.
func TestWirePairsAreComplete(t *testing.T) {
	have := map[protoreflect.FullName]bool{}
	for _, p := range wirePairs {
		have[p.ours.ProtoReflect().Descriptor().FullName()] = true
	}
	for _, file := range []protoreflect.FileDescriptor{
		ours.File_tocsin_vaultplugin_v1_backend_proto, ours.File_tocsin_vaultplugin_v1_host_proto,
		ours.File_tocsin_vaultplugin_v1_identity_proto, ours.File_tocsin_vaultplugin_v1_request_proto,
	} {
		for i := range file.Messages().Len() {
			if name := file.Messages().Get(i).FullName(); !have[name] {
				t.Errorf("%s is not compared", name)
			}
		}
	}
}

// Messages of the SDK, with values in all fields, are the same bytes as ours.
func TestWireBytes(t *testing.T) {
	for _, p := range wirePairs {
		t.Run(string(p.theirs.ProtoReflect().Descriptor().FullName()), func(t *testing.T) {
			if err := sameFields(p.ours.ProtoReflect().Descriptor(), p.theirs.ProtoReflect().Descriptor()); err != nil {
				t.Fatal(err)
			}
			for seed := range uint64(20) {
				for _, way := range []struct{ from, to proto.Message }{{p.theirs, p.ours}, {p.ours, p.theirs}} {
					from := proto.Clone(way.from)
					fill(rand.New(rand.NewPCG(seed, 0)), from.ProtoReflect(), 4)
					sent := deterministic(t, from)
					to := proto.Clone(way.to)
					if err := proto.Unmarshal(sent, to); err != nil {
						t.Fatal(err)
					}
					if err := known(to.ProtoReflect()); err != nil {
						t.Error(err)
					}
					if got := deterministic(t, to); !bytes.Equal(got, sent) {
						t.Errorf("got %x, want %x", got, sent)
					}
				}
			}
		})
	}
}

func deterministic(t *testing.T, m proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sameFields compares numbers, types and cardinality.
func sameFields(a, b protoreflect.MessageDescriptor) error {
	if a.Fields().Len() != b.Fields().Len() {
		return fmt.Errorf("%d fields, not %d", a.Fields().Len(), b.Fields().Len())
	}
	for i := range b.Fields().Len() {
		want := b.Fields().Get(i)
		got := a.Fields().ByNumber(want.Number())
		if got == nil || got.Kind() != want.Kind() || got.Cardinality() != want.Cardinality() || got.IsMap() != want.IsMap() {
			return fmt.Errorf("field %d is %v, not %v", want.Number(), got, want)
		}
	}
	return nil
}

// fill gives every field a random value that is not its zero value. Messages below depth
// stay empty.
func fill(r *rand.Rand, m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch {
		case f.ContainingOneof() != nil && (f.ContainingOneof().Fields().Get(int(r.Uint32())%f.ContainingOneof().Fields().Len()) != f || depth == 0):
		case f.IsMap():
			entries := m.Mutable(f).Map()
			for range 1 + r.IntN(3) {
				value := entries.NewValue()
				if f.MapValue().Kind() == protoreflect.MessageKind {
					if depth == 0 {
						break
					}
					fill(r, value.Message(), depth-1)
				} else {
					value = scalar(r, f.MapValue())
				}
				entries.Set(scalar(r, f.MapKey()).MapKey(), value)
			}
		case f.IsList():
			list := m.Mutable(f).List()
			for range 1 + r.IntN(3) {
				if f.Kind() != protoreflect.MessageKind {
					list.Append(scalar(r, f))
				} else if depth > 0 {
					fill(r, list.AppendMutable().Message(), depth-1)
				}
			}
		case f.Kind() == protoreflect.MessageKind:
			if depth > 0 {
				fill(r, m.Mutable(f).Message(), depth-1)
			}
		default:
			m.Set(f, scalar(r, f))
		}
	}
}

func scalar(r *rand.Rand, f protoreflect.FieldDescriptor) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(fmt.Sprintf("é%x", r.Uint64()))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte{byte(r.Uint32()), 0xff})
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(-1 - r.Int32())
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(1 + r.Uint32N(1<<31))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(-1 - r.Int64())
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(r.Uint64() | 1)
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(r.Float64() + 1)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(0)
	}
	panic(f.Kind())
}

// known returns an error when something in a message was not understood.
func known(m protoreflect.Message) (err error) {
	if len(m.GetUnknown()) > 0 {
		return fmt.Errorf("%s has unknown fields %x", m.Descriptor().FullName(), m.GetUnknown())
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
			if f.MapValue().Kind() == protoreflect.MessageKind {
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
					err = known(v.Message())
					return err == nil
				})
			}
		case f.IsList():
			if f.Kind() == protoreflect.MessageKind {
				for i := 0; i < v.List().Len() && err == nil; i++ {
					err = known(v.List().Get(i).Message())
				}
			}
		case f.Kind() == protoreflect.MessageKind:
			err = known(v.Message())
		}
		return err == nil
	})
	return err
}
