// Command chatty is a plugin, built with Vault's SDK, that does on request what plugins
// should and should not do: send odd events, return every kind of error, crash, hang,
// and write rubbish. CHATTY_SINGLE=1 serves it without multiplexing, CHATTY_AUTH=1 as an
// auth plugin.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-secure-stdlib/parseutil"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/errutil"
	"github.com/hashicorp/vault/sdk/helper/pluginutil"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/plugin"
	"github.com/hashicorp/vault/sdk/rotation"
	"google.golang.org/protobuf/types/known/structpb"
)

func main() {
	serve := plugin.ServeMultiplex
	if os.Getenv("CHATTY_SINGLE") != "" {
		serve = plugin.Serve
	}
	fmt.Fprintln(os.Stderr, "chatty begins") // is no JSON
	if err := serve(&plugin.ServeOpts{BackendFactoryFunc: factory}); err != nil {
		log.Fatal(err)
	}
}

type backend struct {
	*framework.Backend
	events logical.EventSender
	uuid   string
}

func factory(ctx context.Context, c *logical.BackendConfig) (logical.Backend, error) {
	if text := c.Config["fail"]; text != "" {
		return nil, errors.New(text)
	}
	if c.Config["hang"] != "" {
		<-make(chan struct{})
	}
	b := &backend{events: c.EventsSender, uuid: c.BackendUUID}
	b.Backend = &framework.Backend{
		BackendType:    logical.TypeLogical,
		RunningVersion: "v1.2.3",
		PathsSpecial:   &logical.Paths{Unauthenticated: []string{"login"}, Root: []string{"root/*"}, Binary: []string{"binary"}},
		InitializeFunc: func(ctx context.Context, r *logical.InitializationRequest) error {
			return r.Storage.Put(ctx, &logical.StorageEntry{Key: "initialized", Value: []byte("yes")})
		},
		Clean:      func(context.Context) { b.Logger().Info("cleaned up", "uuid", b.uuid) },
		Invalidate: func(_ context.Context, key string) { b.Logger().Info("invalidated", "key", key) },
		AuthRenew:  b.renew,
		Secrets: []*framework.Secret{{
			Type:  "token",
			Renew: b.renew,
			Revoke: func(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
				return nil, nil
			},
		}},
	}
	if os.Getenv("CHATTY_AUTH") != "" {
		b.BackendType = logical.TypeCredential
	}
	for pattern, handle := range map[string]handler{
		"login":                     b.login,
		"lease":                     b.lease,
		"echo/?(?P<rest>.*)":        b.echo,
		"store/" + rest("key"):      b.store,
		"system/?" + rest("entity"): b.system,
		"send":                      b.send,
		"send-nil":                  b.sendNil,
		"send-many":                 b.sendMany,
		"error/" + rest("kind"):     b.fail,
		"exit/" + rest("code"):      exit,
		"panic":                     panics,
		"hang":                      hang,
		"large/" + rest("bytes"):    large,
		"log/" + rest("what"):       b.log,
		"observe":                   b.observe,
		"binary":                    binary,
	} {
		b.Paths = append(b.Paths, &framework.Path{
			Pattern:        pattern,
			Fields:         map[string]*framework.FieldSchema{"rest": text, "key": text, "kind": text, "code": text, "bytes": text, "what": text, "entity": text},
			ExistenceCheck: exists,
			Operations:     operations(handle),
			HelpSynopsis:   "does " + pattern,
		})
	}
	return b, b.Setup(ctx, c)
}

type handler = framework.OperationFunc

func operations(handle handler) map[logical.Operation]framework.OperationHandler {
	all := map[logical.Operation]framework.OperationHandler{}
	for _, op := range []logical.Operation{
		logical.ReadOperation, logical.CreateOperation, logical.UpdateOperation,
		logical.PatchOperation, logical.DeleteOperation, logical.ListOperation,
	} {
		all[op] = &framework.PathOperation{Callback: handle}
	}
	return all
}

var text = &framework.FieldSchema{Type: framework.TypeString}

func rest(name string) string { return "(?P<" + name + ">.+)" }

func exists(ctx context.Context, r *logical.Request, d *framework.FieldData) (bool, error) {
	if strings.HasPrefix(r.Path, "store/") {
		e, err := r.Storage.Get(ctx, strings.TrimPrefix(r.Path, "store/"))
		return e != nil, err
	}
	if r.Path == "error/existence" {
		return false, errors.New("no idea")
	}
	return true, nil
}

// echo returns everything that it knows about the request.
func (b *backend) echo(_ context.Context, r *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	seen := map[string]interface{}{
		"id": r.ID, "operation": string(r.Operation), "path": r.Path, "data": r.Data, "uuid": b.uuid,
		"token": r.ClientToken, "accessor": r.ClientTokenAccessor, "display_name": r.DisplayName, "entity": r.EntityID,
		"mount": r.MountPoint, "mount_type": r.MountType, "mount_accessor": r.MountAccessor,
		"unauthenticated": r.Unauthenticated, "headers": r.Headers,
	}
	if r.Connection != nil {
		seen["remote"] = r.Connection.RemoteAddr
		if s := r.Connection.ConnState; s != nil {
			seen["tls"] = map[string]interface{}{"version": s.Version, "server": s.ServerName, "certificates": len(s.PeerCertificates)}
		}
	}
	return &logical.Response{
		Data:     seen,
		Warnings: []string{"mind the gap"},
		Headers:  map[string][]string{"X-Chatty": {"a", "b"}},
		Redirect: "https://example.com/",
	}, nil
}

func (b *backend) login(_ context.Context, r *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	cidrs, err := parseutil.ParseAddrs([]string{"10.0.0.0/8"})
	if err != nil {
		return nil, err
	}
	return &logical.Response{Auth: &logical.Auth{
		LeaseOptions: logical.LeaseOptions{TTL: time.Hour, MaxTTL: 2 * time.Hour, Renewable: true, IssueTime: issued},
		InternalData: map[string]interface{}{"n": json.Number("12345678901234567890"), "nested": map[string]interface{}{"a": nil}},
		DisplayName:  "chatty-user",
		Policies:     []string{"a", "b"},
		Metadata:     map[string]string{"k": "v"},
		Period:       time.Minute,
		NumUses:      3,
		Alias:        &logical.Alias{Name: "user", MountType: "chatty", MountAccessor: r.MountAccessor, Metadata: map[string]string{"m": "1"}, Local: true},
		GroupAliases: []*logical.Alias{{Name: "group"}},
		BoundCIDRs:   cidrs,
		TokenType:    logical.TokenTypeBatch,
	}}, nil
}

var issued = time.Date(2026, 1, 2, 3, 4, 5, 678900000, time.UTC)

func (b *backend) lease(_ context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	r := b.Secret("token").Response(map[string]interface{}{"password": "p"}, map[string]interface{}{"user": "u"})
	r.Secret.TTL, r.Secret.MaxTTL, r.Secret.Renewable = time.Minute, time.Hour, true
	return r, nil
}

// renew returns what it got.
func (b *backend) renew(_ context.Context, r *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	response := &logical.Response{Auth: r.Auth, Secret: r.Secret}
	if r.Secret != nil {
		response.Secret.TTL += time.Minute
	}
	if r.Auth != nil {
		response.Auth.TTL += time.Minute
	}
	return response, nil
}

func (b *backend) store(ctx context.Context, r *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	key := d.Get("key").(string)
	switch r.Operation {
	case logical.ReadOperation:
		e, err := r.Storage.Get(ctx, key)
		if e == nil || err != nil {
			return nil, err
		}
		return &logical.Response{Data: map[string]interface{}{"value": string(e.Value)}}, nil
	case logical.ListOperation:
		keys, err := r.Storage.List(ctx, key)
		return logical.ListResponse(keys), err
	case logical.DeleteOperation:
		return nil, r.Storage.Delete(ctx, key)
	}
	return nil, r.Storage.Put(ctx, &logical.StorageEntry{Key: key, Value: []byte(fmt.Sprint(r.Data["value"])), SealWrap: r.Data["wrap"] != nil})
}

// system asks the server everything.
func (b *backend) system(ctx context.Context, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	s := b.System()
	data := map[string]interface{}{
		"default_ttl": s.DefaultLeaseTTL().String(), "max_ttl": s.MaxLeaseTTL().String(),
		"tainted": s.Tainted(), "caching_disabled": s.CachingDisabled(), "local": s.LocalMount(),
		"mlock": s.MlockEnabled(), "replication": uint32(s.ReplicationState()),
	}
	put := func(key string, value interface{}, err error) {
		if err != nil {
			value = "error: " + err.Error()
		}
		data[key] = value
	}
	if env, err := s.PluginEnv(ctx); err != nil {
		put("version", nil, err)
	} else {
		put("version", env.VaultVersion, nil)
	}
	entity, err := s.EntityInfo(d.Get("entity").(string))
	put("entity", entity, err)
	groups, err := s.GroupsForEntity(d.Get("entity").(string))
	put("groups", groups, err)
	password, err := s.GeneratePasswordFromPolicy(ctx, "strong")
	put("password", password, err)
	id, err := s.ClusterID(ctx)
	put("cluster", id, err)
	_, err = s.ResponseWrapData(ctx, map[string]interface{}{"a": 1}, time.Minute, false)
	put("wrap", nil, err)
	_, err = s.GenerateIdentityToken(ctx, &pluginutil.IdentityTokenRequest{Audience: "a", TTL: time.Minute})
	put("identity_token", nil, err)
	_, err = s.GetRotationInformation(ctx, &rotation.RotationInfoRequest{ReqPath: "p"})
	put("rotation_information", nil, err)
	_, err = s.RegisterRotationJob(ctx, &rotation.RotationJobConfigureRequest{Name: "n", ReqPath: "p"})
	put("register", nil, err)
	put("deregister", nil, s.DeregisterRotationJob(ctx, &rotation.RotationJobDeregisterRequest{ReqPath: "p"}))
	return &logical.Response{Data: data}, nil
}

// send sends one event as the data say: "pairs" by the SDK's helper, or the event itself.
func (b *backend) send(ctx context.Context, r *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	kind := logical.EventType(fmt.Sprint(r.Data["type"]))
	if pairs, ok := r.Data["pairs"].([]interface{}); ok {
		var list []string
		for _, p := range pairs {
			list = append(list, fmt.Sprint(p))
		}
		return nil, logical.SendEvent(ctx, b.events, string(kind), list...)
	}
	e := &logical.EventData{Id: fmt.Sprint(r.Data["id"]), Note: fmt.Sprint(r.Data["note"]), EntityIds: []string{"e1", "e2"}}
	if m, ok := r.Data["metadata"].(map[string]interface{}); ok {
		var err error
		if e.Metadata, err = structpb.NewStruct(m); err != nil {
			return nil, err
		}
	}
	if depth, err := strconv.Atoi(fmt.Sprint(r.Data["depth"])); err == nil {
		v := structpb.NewStringValue("bottom")
		for range depth {
			v = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{v}})
		}
		e.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{"deep": v}}
	}
	switch r.Data["odd"] {
	case "nan":
		e.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{"n": structpb.NewNumberValue(nan())}}
	case "no-kind":
		e.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{"n": {}, "s": structpb.NewStringValue("x")}}
	case "not-utf8":
		e.Note = "\xff"
	case "huge":
		e.Note = strings.Repeat("x", 20<<20)
	case "many":
		e.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{}}
		for i := range 10000 {
			e.Metadata.Fields[fmt.Sprintf("key-%04d", i)] = structpb.NewStringValue("v")
		}
	}
	return nil, b.events.SendEvent(ctx, kind, e)
}

func nan() float64 { zero := 0.0; return zero / zero }

func (b *backend) sendNil(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	return nil, b.events.SendEvent(ctx, "chatty/nil", nil)
}

// sendOne sends one of many, with an id of its own if the first has a number.
func (b *backend) sendOne(ctx context.Context, first interface{}, i int) error {
	if first == nil {
		return logical.SendEvent(ctx, b.events, "chatty/many", "path", fmt.Sprintf("many/%d", i), "operation", "send", "modified", "false", "n", strconv.Itoa(i))
	}
	from, err := strconv.Atoi(fmt.Sprint(first))
	if err != nil {
		return err
	}
	return b.events.SendEvent(ctx, "chatty/numbered", &logical.EventData{Id: strconv.Itoa(from + i)})
}

// sendMany sends count events with callers in parallel and says how many failed.
func (b *backend) sendMany(ctx context.Context, r *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	count, _ := strconv.Atoi(fmt.Sprint(r.Data["count"]))
	callers, _ := strconv.Atoi(fmt.Sprint(r.Data["callers"]))
	var mu sync.Mutex
	var failed int
	var last string
	var wg sync.WaitGroup
	began := time.Now()
	for c := range callers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := c; i < count; i += callers {
				err := b.sendOne(ctx, r.Data["first"], i)
				if err != nil {
					mu.Lock()
					failed++
					last = err.Error()
					mu.Unlock()
				}
			}
		}()
	}
	wg.Wait()
	return &logical.Response{Data: map[string]interface{}{"failed": failed, "error": nil, "last": last, "seconds": time.Since(began).Seconds()}}, nil
}

func (b *backend) fail(_ context.Context, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	switch kind := d.Get("kind").(string); kind {
	case "unknown":
		return nil, errors.New("something")
	case "user":
		return nil, errutil.UserError{Err: "your fault"}
	case "internal":
		return nil, errutil.InternalError{Err: "our fault"}
	case "coded":
		return nil, logical.CodedError(http.StatusTeapot, "a teapot")
	case "bad-request":
		return nil, &logical.StatusBadRequest{Err: "bad"}
	case "unsupported-operation":
		return nil, logical.ErrUnsupportedOperation
	case "unsupported-path":
		return nil, logical.ErrUnsupportedPath
	case "invalid":
		return logical.ErrorResponse("explained"), logical.ErrInvalidRequest
	case "denied":
		return nil, logical.ErrPermissionDenied
	case "authz":
		return nil, logical.ErrMultiAuthzPending
	case "unrecoverable":
		return nil, logical.ErrUnrecoverable
	case "response":
		return logical.ErrorResponse("only text"), nil
	case "empty":
		return nil, errors.New("")
	}
	return nil, nil
}

func exit(_ context.Context, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	code, _ := strconv.Atoi(d.Get("code").(string))
	os.Exit(code)
	return nil, nil
}

func panics(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
	go panic("chatty has had enough")
	select {}
}

func hang(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
	<-make(chan struct{})
	return nil, nil
}

func large(_ context.Context, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	n, err := strconv.Atoi(d.Get("bytes").(string))
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]interface{}{"x": strings.Repeat("x", n)}}, nil
}

func (b *backend) log(_ context.Context, _ *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	switch d.Get("what").(string) {
	case "levels":
		b.Logger().Trace("a trace", "n", 1)
		b.Logger().Debug("a debug", "n", 2)
		b.Logger().Info("an info", "n", 3, "text", "with\nnewline")
		b.Logger().Warn("a warning", "n", 4)
		b.Logger().Error("an error", "n", 5)
	case "garbage":
		os.Stderr.Write([]byte("\x00\xff\x1b[31mred\n{\"@message\":5,\"@level\":[]}\n{\"@message\":\"x\",\"@level\":\"info\",\"@timestamp\":7}\n[]\nnull\n{\n"))
		fmt.Fprintln(os.Stdout, "to standard output")
	case "flood":
		line := strings.Repeat("flood ", 40) + "\n"
		for range 20000 {
			os.Stderr.WriteString(line)
		}
	case "long":
		os.Stderr.WriteString(strings.Repeat("y", 10<<20) + "\n")
	}
	return nil, nil
}

func (b *backend) observe(ctx context.Context, r *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	return nil, b.RecordObservation(ctx, "chatty/observed", r.Data)
}

func binary(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
	return &logical.Response{Data: map[string]interface{}{
		logical.HTTPContentType: "application/octet-stream",
		logical.HTTPRawBody:     []byte{0, 1, 255},
		logical.HTTPStatusCode:  http.StatusAccepted,
	}}, nil
}
