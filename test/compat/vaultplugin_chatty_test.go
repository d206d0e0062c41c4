package compat

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/vaultplugin"
)

// bothModes runs a test with a plugin that is multiplexed and with one that is not.
func bothModes(t *testing.T, test func(t *testing.T, p *vaultplugin.Process)) {
	for name, env := range map[string][]string{"multiplexed": nil, "single": {"CHATTY_SINGLE=1"}} {
		t.Run(name, func(t *testing.T) {
			p := launch(t, "chatty", env...)
			if p.Multiplexed() != (env == nil) {
				t.Errorf("multiplexed is %v", p.Multiplexed())
			}
			test(t, p)
		})
	}
}

func TestPluginEvents(t *testing.T) {
	bothModes(t, func(t *testing.T, p *vaultplugin.Process) {
		m := openMount(t, p, nil)
		for _, tt := range []struct {
			name string
			path string
			data map[string]any
			want string // event; "" refused
		}{
			{"pairs", "send", map[string]any{"type": "chatty/x", "pairs": []any{"a", "1", "b", "2"}}, "chatty/x a=1 b=2"},
			{"odd", "send", map[string]any{"type": "chatty/x", "pairs": []any{"a", "1", "b"}}, "chatty/x EXTRA_VALUE_AT_END=b a=1"},
			{"no pairs", "send", map[string]any{"type": "", "pairs": []any{}}, ""},
			{"empty id", "send", map[string]any{"type": "chatty/x", "id": "", "metadata": map[string]any{}}, "chatty/x"},
			{"typed values", "send", map[string]any{"type": "chatty/x", "id": "1", "metadata": map[string]any{"n": 1.5, "l": []any{true, nil, "x"}, "o": map[string]any{"b": "<", "a": 1}}}, `chatty/x l=[true,null,"x"] n=1.5 o={"a":1,"b":"\u003c"}`},
			{"no kind", "send", map[string]any{"type": "chatty/x", "odd": "no-kind"}, "chatty/x n=null s=x"},
			{"nil", "send-nil", nil, "chatty/nil"},
			{"deep", "send", map[string]any{"type": "chatty/x", "depth": 50}, "chatty/x deep=" + strings.Repeat("[", 50) + `"bottom"` + strings.Repeat("]", 50)},
			{"too deep", "send", map[string]any{"type": "chatty/x", "depth": 5000}, "refused"},
			{"not a number", "send", map[string]any{"type": "chatty/x", "odd": "nan"}, "refused"},
			{"not UTF-8", "send", map[string]any{"type": "chatty/x", "odd": "not-utf8"}, "refused"},
			{"huge", "send", map[string]any{"type": "chatty/x", "odd": "huge"}, "refused"},
		} {
			m.taken()
			_, err := m.do(t.Context(), write, tt.path, tt.data)
			events := m.taken()
			if tt.want == "refused" {
				if err == nil || len(events) > 0 {
					t.Errorf("%s: got %v, %v", tt.name, events, err)
				}
				continue
			}
			if err != nil || len(events) != 1 || events[0].String() != tt.want {
				t.Errorf("%s: got %v, %v, want %q", tt.name, events, err, tt.want)
			}
		}
		m.taken()
		if _, err := m.do(t.Context(), write, "send", map[string]any{"type": "chatty/x", "odd": "many"}); err != nil {
			t.Fatal(err)
		}
		if e := m.taken(); len(e) != 1 || len(e[0].data.Metadata) != 10000 || e[0].data.EntityIDs[1] != "e2" {
			t.Error("an event with many keys changed")
		}
		// None and empty metadata are different.
		for _, data := range []map[string]any{{"id": "1"}, {"id": "1", "metadata": map[string]any{}}} {
			if _, err := m.do(t.Context(), write, "send", data); err != nil {
				t.Fatal(err)
			}
			if e := m.taken(); len(e) != 1 || (e[0].data.Metadata == nil) != (data["metadata"] == nil) {
				t.Errorf("metadata is %#v", e[0].data.Metadata)
			}
		}
	})
}

// What a plugin sees of a failing host, and of one without events.
func TestPluginEventErrors(t *testing.T) {
	p := launch(t, "chatty")
	for _, tt := range []struct {
		send func(context.Context, string, *vaultplugin.EventData) error
		want string
	}{
		{nil, ""},
		{func(context.Context, string, *vaultplugin.EventData) error { return errors.New("journal is full") }, "journal is full"},
		{func(context.Context, string, *vaultplugin.EventData) error { panic("bug") }, "the host failed"},
	} {
		b, err := p.Open(t.Context(), vaultplugin.Setup{Storage: newMemoryStorage(), SendEvent: tt.send})
		if err != nil {
			t.Fatal(err)
		}
		m := &pluginMount{Backend: b}
		_, err = m.do(t.Context(), write, "send", map[string]any{"type": "x", "pairs": []any{}})
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("got %v, want %q", err, tt.want)
		}
		b.Close(t.Context())
	}
}

func TestPluginRequests(t *testing.T) {
	p := launch(t, "chatty")
	m := openMount(t, p, nil)
	if m.Version() != "v1.2.3" || m.Type() != vaultplugin.TypeSecret || m.SpecialPaths().Unauthenticated[0] != "login" || m.SpecialPaths().Binary[0] != "binary" {
		t.Errorf("got %q %v %+v", m.Version(), m.Type(), m.SpecialPaths())
	}
	if string(m.storage.entries["initialized"]) != "yes" {
		t.Error("Initialize did nothing")
	}
	r, err := m.HandleRequest(t.Context(), &vaultplugin.Request{
		ID: "id", Operation: write, Path: "echo/x/y", Data: map[string]any{"n": json.Number("1"), "l": []any{nil, "x"}, "m": map[string]any{}},
		ClientToken: "hashed", ClientTokenAccessor: "acc", DisplayName: "dn", EntityID: "ent", MountPoint: "mp/", MountType: "mt", MountAccessor: "ma",
		Unauthenticated: true, Headers: map[string][]string{"X-A": {"1", "2"}}, Connection: &vaultplugin.Connection{RemoteAddr: "10.1.2.3"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"id": "id", "operation": "update", "path": "echo/x/y", "uuid": "7f3b2a54-0000-4000-8000-000000000001",
		"data": map[string]any{"n": json.Number("1"), "l": []any{nil, "x"}, "m": map[string]any{}}, "token": "hashed", "accessor": "acc", "display_name": "dn",
		"entity": "ent", "mount": "mp/", "mount_type": "mt", "mount_accessor": "ma", "unauthenticated": true, "headers": map[string]any{"X-A": []any{"1", "2"}}, "remote": "10.1.2.3",
	}
	if !reflect.DeepEqual(r.Data, want) {
		t.Errorf("got  %v\nwant %v", r.Data, want)
	}
	if r.Warnings[0] != "mind the gap" || r.Redirect == "" || len(r.Headers["X-Chatty"]) != 2 {
		t.Errorf("got %+v", r)
	}
	if r, err := m.do(t.Context(), read, "binary", nil); err != nil || r.Data[vaultplugin.RawBody] != "AAH/" || r.Data[vaultplugin.RawStatusCode] != json.Number("202") {
		t.Errorf("got %+v, %v", r, err)
	}
	if r, err := m.do(t.Context(), vaultplugin.HelpOperation, "store/x", nil); err != nil || !strings.Contains(fmt.Sprint(r.Data["help"]), "does store") {
		t.Errorf("got %+v, %v", r, err)
	}
	if err := m.InvalidateKey(t.Context(), "k"); err != nil {
		t.Error(err)
	}
	if _, _, err := m.HandleExistenceCheck(t.Context(), &vaultplugin.Request{Path: "error/existence", Operation: write}); err == nil {
		t.Error("a failed existence check is not an error")
	}
}

func TestPluginLeases(t *testing.T) {
	p := launch(t, "chatty", "CHATTY_AUTH=1")
	m := openMount(t, p, nil)
	if m.Type() != vaultplugin.TypeAuth {
		t.Errorf("type is %v", m.Type())
	}
	r, err := m.HandleRequest(t.Context(), &vaultplugin.Request{Operation: write, Path: "login", Unauthenticated: true, MountAccessor: "acc"})
	if err != nil {
		t.Fatal(err)
	}
	want := &vaultplugin.Auth{
		Lease:        vaultplugin.Lease{TTL: time.Hour, MaxTTL: 2 * time.Hour, Renewable: true, IssueTime: time.Date(2026, 1, 2, 3, 4, 5, 678900000, time.UTC)},
		InternalData: map[string]any{"n": json.Number("12345678901234567890"), "nested": map[string]any{"a": nil}},
		DisplayName:  "chatty-user", Policies: []string{"a", "b"}, Metadata: map[string]string{"k": "v"}, Period: time.Minute, NumUses: 3,
		Alias:        &vaultplugin.Alias{Name: "user", MountType: "chatty", MountAccessor: "acc", Metadata: map[string]string{"m": "1"}, Local: true},
		GroupAliases: []*vaultplugin.Alias{{Name: "group"}},
		BoundCIDRs:   []string{"10.0.0.0/8"}, TokenType: vaultplugin.TokenBatch,
	}
	if !reflect.DeepEqual(r.Auth, want) {
		t.Errorf("got  %+v\nwant %+v", r.Auth, want)
	}
	// A renewal has what the login returned, and comes back as it was but for the number,
	// which plugins read as a float.
	renewed, err := m.HandleRequest(t.Context(), &vaultplugin.Request{Operation: vaultplugin.RenewOperation, Path: "login", Auth: r.Auth})
	if err != nil {
		t.Fatal(err)
	}
	want.TTL += time.Minute
	want.InternalData["n"] = renewed.Auth.InternalData["n"]
	if !reflect.DeepEqual(renewed.Auth, want) {
		t.Errorf("got  %+v\nwant %+v", renewed.Auth, want)
	}
	s := openMount(t, launch(t, "chatty"), nil)
	r, err = s.do(t.Context(), read, "lease", nil)
	if err != nil || r.Secret == nil || r.Secret.TTL != time.Minute || r.Secret.InternalData["user"] != "u" || r.Data["password"] != "p" {
		t.Fatalf("got %+v, %v", r, err)
	}
	r, err = s.HandleRequest(t.Context(), &vaultplugin.Request{Operation: vaultplugin.RenewOperation, Path: "lease", Secret: r.Secret})
	if err != nil || r.Secret == nil || r.Secret.TTL != 2*time.Minute || r.Secret.InternalData["secret_type"] != "token" {
		t.Errorf("got %+v, %v", r, err)
	}
	if _, err := s.HandleRequest(t.Context(), &vaultplugin.Request{Operation: vaultplugin.RevokeOperation, Path: "lease", Secret: r.Secret}); err != nil {
		t.Error(err)
	}
}

func TestPluginErrors(t *testing.T) {
	m := openMount(t, launch(t, "chatty"), nil)
	for kind, want := range map[string]vaultplugin.RemoteError{
		"unknown":               {Message: "something"},
		"user":                  {Kind: vaultplugin.KindUser, Message: "your fault"},
		"internal":              {Kind: vaultplugin.KindInternal, Message: "our fault"},
		"coded":                 {Kind: vaultplugin.KindCoded, Code: 418, Message: "a teapot"},
		"bad-request":           {Kind: vaultplugin.KindBadRequest, Message: "bad"},
		"unsupported-operation": {Kind: vaultplugin.KindUnsupportedOperation, Message: "unsupported operation"},
		"unsupported-path":      {Kind: vaultplugin.KindUnsupportedPath, Message: "unsupported path"},
		"invalid":               {Kind: vaultplugin.KindInvalidRequest, Message: "invalid request"},
		"denied":                {Kind: vaultplugin.KindPermissionDenied, Message: "permission denied"},
		"authz":                 {Kind: vaultplugin.KindMultiAuthzPending, Message: "request needs further approval"},
		"unrecoverable":         {Kind: vaultplugin.KindUnrecoverable, Message: "unrecoverable error"},
		"empty":                 {Message: "the plugin failed and did not say why"},
	} {
		r, err := m.do(t.Context(), read, "error/"+kind, nil)
		var got *vaultplugin.RemoteError
		if !errors.As(err, &got) || *got != want {
			t.Errorf("%s: got %#v, %v", kind, err, r)
		}
		if text, _ := r.ErrorText(); kind == "invalid" && text != "explained" {
			t.Errorf("the response of an error is %+v", r)
		}
	}
	if r, err := m.do(t.Context(), read, "error/response", nil); err != nil {
		t.Error(err)
	} else if text, failed := r.ErrorText(); !failed || text != "only text" {
		t.Errorf("got %+v", r)
	}
	if r, err := m.do(t.Context(), read, "error/none", nil); r != nil || err != nil {
		t.Errorf("got %+v, %v", r, err)
	}
	var remote *vaultplugin.RemoteError
	if _, err := m.do(t.Context(), read, "no/such/path", nil); !errors.As(err, &remote) || remote.HTTPStatus() != 404 {
		t.Errorf("got %v", err)
	}
}

func TestPluginStorage(t *testing.T) {
	m := openMount(t, launch(t, "chatty"), nil)
	must := func(r *vaultplugin.Response, err error) *vaultplugin.Response {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	ctx := t.Context()
	must(m.do(ctx, write, "store/a/b", map[string]any{"value": "1"}))
	must(m.do(ctx, write, "store/a/c/d", map[string]any{"value": "2"}))
	if r := must(m.do(ctx, list, "store/a/", nil)); !reflect.DeepEqual(r.Data["keys"], []any{"b", "c/"}) {
		t.Errorf("got %+v", r)
	}
	if r := must(m.do(ctx, read, "store/a/b", nil)); r.Data["value"] != "1" {
		t.Errorf("got %+v", r)
	}
	if found, exists, err := m.HandleExistenceCheck(ctx, &vaultplugin.Request{Operation: write, Path: "store/none"}); !found || exists || err != nil {
		t.Errorf("got %v %v %v", found, exists, err)
	}
	must(m.do(ctx, remove, "store/a/b", nil))
	if r := must(m.do(ctx, read, "store/a/b", nil)); r != nil {
		t.Errorf("got %+v", r)
	}
	before := len(m.storage.entries)
	if _, err := m.do(ctx, write, "store/a/../../b", map[string]any{"value": "1"}); err == nil || len(m.storage.entries) != before {
		t.Errorf("a key left the mount: %v", err)
	}
	m.storage.mu.Lock()
	m.storage.fail = errors.New("cannot write to readonly storage")
	m.storage.mu.Unlock()
	if _, err := m.do(ctx, write, "store/x", map[string]any{"value": "1"}); err == nil || err.Error() != "cannot write to readonly storage" {
		t.Errorf("got %v", err)
	}
}

func TestPluginSystemView(t *testing.T) {
	p := launch(t, "chatty")
	ask := func(s vaultplugin.System) map[string]any {
		t.Helper()
		b, err := p.Open(t.Context(), vaultplugin.Setup{Storage: newMemoryStorage(), System: s})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close(t.Context())
		r, err := b.HandleRequest(t.Context(), &vaultplugin.Request{Operation: read, Path: "system/ent"})
		if err != nil {
			t.Fatal(err)
		}
		return r.Data
	}
	got := ask(vaultplugin.System{})
	want := map[string]any{
		"default_ttl": "768h0m0s", "max_ttl": "768h0m0s", "tainted": false, "caching_disabled": false, "local": false, "mlock": false, "replication": json.Number("0"),
		"version": vaultplugin.DefaultVaultVersion, "cluster": "", "wrap": "error: this server has no response wrapping",
		"entity": "error: this server has no entities", "groups": "error: this server has no entities",
		"password":             "error: rpc error: code = Unimplemented desc = this server has no password policies",
		"identity_token":       "error: rpc error: code = Unimplemented desc = this server has no identity tokens",
		"rotation_information": "error: rpc error: code = Unimplemented desc = this server has no rotation manager",
		"register":             "error: rpc error: code = Unimplemented desc = this server has no rotation manager",
		"deregister":           "error: rpc error: code = Unimplemented desc = this server has no rotation manager",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	got = ask(vaultplugin.System{
		DefaultLeaseTTL: time.Hour, MaxLeaseTTL: 2 * time.Hour, Tainted: func() bool { return true }, CachingDisabled: true, LocalMount: true, MlockEnabled: true,
		ReplicationState: 5, ClusterID: "cid", VaultVersion: "9.8.7",
		EntityInfo: func(_ context.Context, id string) (*vaultplugin.Entity, error) {
			return &vaultplugin.Entity{ID: id, Aliases: []*vaultplugin.Alias{{Name: "al"}}}, nil
		},
		GroupsForEntity: func(context.Context, string) ([]*vaultplugin.Group, error) {
			return []*vaultplugin.Group{{ID: "g"}}, nil
		},
		GeneratePassword: func(_ context.Context, policy string) (string, error) { return "pw-" + policy, nil },
	})
	if got["default_ttl"] != "1h0m0s" || got["tainted"] != true || got["password"] != "pw-strong" || got["version"] != "9.8.7" || got["cluster"] != "cid" ||
		got["replication"] != json.Number("5") || !strings.Contains(fmt.Sprint(got["entity"]), "ent") || !strings.Contains(fmt.Sprint(got["groups"]), "g") {
		t.Errorf("got %v", got)
	}
}

func TestPluginObservations(t *testing.T) {
	p := launch(t, "chatty")
	var got string
	b, err := p.Open(t.Context(), vaultplugin.Setup{Storage: newMemoryStorage(), RecordObservation: func(_ context.Context, kind string, data event.Fields) error {
		got = fmt.Sprint(kind, data)
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.HandleRequest(t.Context(), &vaultplugin.Request{Operation: write, Path: "observe", Data: map[string]any{"a": "x", "n": 1}}); err != nil {
		t.Fatal(err)
	}
	if want := "chatty/observed[{a x false} {n 1 true}]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestPluginSetupFails(t *testing.T) {
	bothModes(t, func(t *testing.T, p *vaultplugin.Process) {
		_, err := p.Open(t.Context(), vaultplugin.Setup{Storage: newMemoryStorage(), Config: map[string]string{"fail": "not configured"}})
		var remote *vaultplugin.RemoteError
		if !errors.As(err, &remote) || remote.Message != "not configured" {
			t.Errorf("got %v", err)
		}
		m := openMount(t, p, nil) // the process is still good
		if _, err := m.do(t.Context(), read, "echo", nil); err != nil {
			t.Error(err)
		}
		_, err = p.Open(t.Context(), vaultplugin.Setup{Storage: newMemoryStorage()})
		if p.Multiplexed() != (err == nil) || err != nil && !errors.Is(err, vaultplugin.ErrBusy) {
			t.Errorf("a second mount: %v", err)
		}
		m.Close(t.Context())
		if _, err := m.do(t.Context(), read, "echo", nil); !errors.Is(err, vaultplugin.ErrClosed) {
			t.Errorf("got %v", err)
		}
		openMount(t, p, nil)
	})
}

func TestPluginDies(t *testing.T) {
	for path, want := range map[string]string{"exit/3": "exit status 3", "panic": "panic: chatty has had enough", "exit/0": "exit status 0"} {
		bothModes(t, func(t *testing.T, p *vaultplugin.Process) {
			m := openMount(t, p, nil)
			began := time.Now()
			errs := make(chan error, 10)
			for range cap(errs) - 1 { // others wait at the same time
				go func() {
					_, err := m.do(t.Context(), read, "hang", nil)
					errs <- err
				}()
			}
			_, err := m.do(t.Context(), read, path, nil)
			errs <- err
			for range cap(errs) {
				if err := <-errs; !errors.Is(err, vaultplugin.ErrExited) {
					t.Errorf("got %v", err)
				}
			}
			if took := time.Since(began); took > patience {
				t.Errorf("it took %v", took)
			}
			<-p.Exited()
			if err := p.ExitError(); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %s", err, want)
			}
			if _, err := m.do(t.Context(), read, "echo", nil); !errors.Is(err, vaultplugin.ErrExited) {
				t.Errorf("got %v", err)
			}
			if _, err := p.Open(t.Context(), vaultplugin.Setup{Storage: newMemoryStorage()}); !errors.Is(err, vaultplugin.ErrExited) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestPluginHangs(t *testing.T) {
	p, err := vaultplugin.Launch(t.Context(), vaultplugin.Options{Command: pluginBinary(t, "chatty"), CallTimeout: time.Second, StopTimeout: 500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	m := openMount(t, p, nil)
	if _, err := m.do(t.Context(), read, "hang", nil); !errors.Is(err, vaultplugin.ErrTimeout) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := m.do(ctx, read, "hang", nil); !errors.Is(err, context.Canceled) || errors.Is(err, vaultplugin.ErrTimeout) {
		t.Errorf("got %v", err)
	}
	if _, err := p.Open(t.Context(), vaultplugin.Setup{Storage: newMemoryStorage(), Config: map[string]string{"hang": "1"}}); !errors.Is(err, vaultplugin.ErrTimeout) {
		t.Errorf("got %v", err)
	}
	if _, err := m.do(t.Context(), read, "echo", nil); err != nil {
		t.Errorf("others wait for what hangs: %v", err)
	}
	p.Kill()
	<-p.Exited()
	if err := p.ExitError(); err != nil {
		t.Errorf("ended on purpose, but %v", err)
	}
}

func TestPluginMessageSizes(t *testing.T) {
	p, err := vaultplugin.Launch(t.Context(), vaultplugin.Options{Command: pluginBinary(t, "chatty"), MaxMessage: 8 << 20, MaxEntry: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	m := openMount(t, p, nil)
	if r, err := m.do(t.Context(), read, "large/7000000", nil); err != nil || len(r.Data["x"].(string)) != 7000000 {
		t.Errorf("got %v", err)
	}
	if _, err := m.do(t.Context(), read, "large/9000000", nil); !errors.Is(err, vaultplugin.ErrProtocol) {
		t.Errorf("got %v", err)
	}
	if _, err := m.do(t.Context(), write, "store/x", map[string]any{"value": strings.Repeat("x", 2<<20)}); err == nil || len(m.storage.entries) > 1 {
		t.Errorf("got %v", err)
	}
	if _, err := m.do(t.Context(), write, "echo", map[string]any{"value": strings.Repeat("x", 9<<20)}); err == nil {
		t.Error("a request above the limit was sent")
	}
	if _, err := m.do(t.Context(), read, "echo", nil); err != nil {
		t.Error(err)
	}
}

func TestPluginLogs(t *testing.T) {
	var out lockedBuilder
	p, err := vaultplugin.Launch(t.Context(), vaultplugin.Options{
		Name: "talker", Command: pluginBinary(t, "chatty"),
		Logger: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}})),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	m := openMount(t, p, nil)
	for _, what := range []string{"levels", "garbage", "long"} {
		if _, err := m.do(t.Context(), read, "log/"+what, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{
		`level=DEBUG msg="chatty begins" plugin=talker`,
		`level=DEBUG msg="a trace" plugin=talker`,
		`level=INFO msg="an info" plugin=talker n=3 text="with newline"`,
		`level=WARN msg="a warning" plugin=talker n=4`,
		`level=ERROR msg="an error" plugin=talker n=5`,
		`[31mred`,
		`msg="{\"@message\":5,\"@level\":[]}"`,
		`level=INFO msg=x`,
		`msg="to standard output"`,
		`yyyy ... (cut)"`,
	} {
		eventually(t, func() error {
			if !strings.Contains(out.String(), want) {
				return fmt.Errorf("not logged: %s\n%.5000s", want, out.String())
			}
			return nil
		})
	}
	if strings.ContainsAny(out.String(), "\x1b\x00") {
		t.Error("control characters are logged")
	}
	out.Reset()
	began := time.Now()
	if _, err := m.do(t.Context(), read, "log/flood", nil); err != nil {
		t.Fatal(err)
	}
	if n, most := strings.Count(out.String(), "\n"), 500+int(100*time.Since(began).Seconds()+100); n > most {
		t.Errorf("%d lines of a flood were logged, more than %d", n, most)
	}
}

type lockedBuilder struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *lockedBuilder) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuilder) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (b *lockedBuilder) Reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.b.Reset()
}

// The executable that was checked runs, and no other.
func TestPluginChecksum(t *testing.T) {
	program := pluginBinary(t, "chatty")
	content, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	p, err := vaultplugin.Launch(t.Context(), vaultplugin.Options{Command: program, SHA256: sum[:]})
	if err != nil {
		t.Fatal(err)
	}
	if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.PID())); err == nil && exe != program {
		t.Errorf("%s runs", exe)
	}
	p.Kill()
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, append(content, 'x'), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := vaultplugin.Launch(t.Context(), vaultplugin.Options{Command: other, SHA256: sum[:]}); !errors.Is(err, vaultplugin.ErrChecksum) {
		t.Errorf("got %v", err)
	}
}

// One plugin with callers in parallel gets its events through quickly.
func TestPluginManyEvents(t *testing.T) {
	p := launch(t, "chatty")
	m := openMount(t, p, nil)
	const count = 20000
	r, err := m.do(t.Context(), write, "send-many", map[string]any{"count": count, "callers": 64})
	if err != nil {
		t.Fatal(err)
	}
	if r.Data["failed"] != json.Number("0") {
		t.Fatalf("got %+v", r)
	}
	seen := map[string]bool{}
	for _, e := range m.taken() {
		n, _ := e.data.Metadata.Text("n")
		seen[n] = true
	}
	if len(seen) != count {
		t.Errorf("%d of %d events arrived", len(seen), count)
	}
	t.Logf("%d events in %s s", count, r.Data["seconds"])
}
