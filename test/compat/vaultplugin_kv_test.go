package compat

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/tocsin-events/tocsin/internal/vaultplugin"
)

type kvStep struct {
	op   vaultplugin.Operation
	path string
	data map[string]any
	want []string // events
}

const (
	write  = vaultplugin.UpdateOperation
	read   = vaultplugin.ReadOperation
	list   = vaultplugin.ListOperation
	patch  = vaultplugin.PatchOperation
	remove = vaultplugin.DeleteOperation
)

func value(v string) map[string]any { return map[string]any{"data": map[string]any{"k": v}} }

func TestKVEvents(t *testing.T) {
	p := launch(t, "kv")
	if !p.Multiplexed() {
		t.Fatal("kv is multiplexed")
	}
	v1 := openMount(t, p, map[string]string{"version": "1"})
	v2 := openMount(t, p, map[string]string{"version": "2"})
	v2.upgraded(t)
	for _, m := range []*pluginMount{v1, v2} {
		if m.Type() != vaultplugin.TypeSecret {
			t.Errorf("type is %v", m.Type())
		}
	}
	if got := v2.SpecialPaths().SealWrapStorage; len(got) == 0 {
		t.Error("kv has paths to seal wrap")
	}
	kvSteps(t, "v1", v1, []kvStep{
		{write, "foo", map[string]any{"a": 1}, []string{"kv-v1/write data_path=foo modified=true operation=write path=foo"}},
		{write, "foo", map[string]any{"a": 2}, []string{"kv-v1/write data_path=foo modified=true operation=write path=foo"}},
		{write, "foo", nil, nil},
		{read, "foo", nil, nil},
		{list, "", nil, nil},
		{remove, "foo", nil, []string{"kv-v1/delete modified=true operation=delete path=foo"}},
		{remove, "foo", nil, []string{"kv-v1/delete modified=true operation=delete path=foo"}},
	})
	versions := func(n ...any) map[string]any { return map[string]any{"versions": n} }
	kvSteps(t, "v2", v2, []kvStep{
		{write, "config", map[string]any{"max_versions": 10}, []string{"kv-v2/config-write data_path=config modified=true operation=config-write path=config"}},
		{read, "config", nil, nil},
		{write, "data/foo", value("1"), []string{"kv-v2/data-write current_version=1 data_path=data/foo modified=true oldest_version=0 operation=data-write path=data/foo"}},
		{patch, "data/foo", value("2"), []string{"kv-v2/data-patch current_version=2 data_path=data/foo modified=true oldest_version=0 operation=data-patch path=data/foo"}},
		{write, "data/foo", value("3"), []string{"kv-v2/data-write current_version=3 data_path=data/foo modified=true oldest_version=0 operation=data-write path=data/foo"}},
		{write, "data/foo", map[string]any{"data": map[string]any{"k": "x"}, "options": map[string]any{"cas": 1}}, nil}, // mismatch
		{read, "data/foo", nil, nil},
		{read, "subkeys/foo", nil, nil},
		{list, "metadata/", nil, nil},
		{remove, "data/foo", nil, []string{"kv-v2/data-delete current_version=3 modified=true oldest_version=0 operation=data-delete path=data/foo"}},
		{remove, "data/foo", nil, nil}, // is deleted already
		{write, "delete/foo", versions(1, 2), []string{"kv-v2/delete current_version=3 deleted_versions=[1,2] modified=true oldest_version=0 operation=delete path=delete/foo"}},
		{write, "undelete/foo", versions(1, 3), []string{"kv-v2/undelete current_version=3 data_path=data/foo modified=true oldest_version=0 operation=undelete path=undelete/foo undeleted_versions=[1,3]"}},
		{write, "destroy/foo", versions(1), []string{"kv-v2/destroy current_version=3 destroyed_versions=[1] modified=true oldest_version=0 operation=destroy path=destroy/foo"}},
		{write, "metadata/foo", map[string]any{"max_versions": 5}, []string{"kv-v2/metadata-write data_path=metadata/foo modified=true operation=metadata-write path=metadata/foo"}},
		{patch, "metadata/foo", map[string]any{"max_versions": 6}, []string{"kv-v2/metadata-patch data_path=metadata/foo modified=true operation=metadata-patch path=metadata/foo"}},
		{read, "metadata/foo", nil, nil},
		{remove, "metadata/foo", nil, []string{"kv-v2/metadata-delete modified=true operation=metadata-delete path=metadata/foo"}},
		{remove, "metadata/foo", nil, nil},
		{patch, "data/missing", value("1"), nil},
		{remove, "data/missing", nil, nil},
		{write, "destroy/missing", versions(1), nil},
	})
	if got := v1.taken(); len(got) > 0 {
		t.Errorf("an event of one mount came out of the other: %v", got)
	}
}

func kvSteps(t *testing.T, name string, m *pluginMount, steps []kvStep) {
	t.Helper()
	for i, s := range steps {
		response, err := m.do(t.Context(), s.op, s.path, s.data)
		var got []string
		for _, e := range m.taken() {
			if len(e.data.ID) != 36 || len(e.data.EntityIDs) > 0 || e.data.Note != "" {
				t.Errorf("event is %+v", e.data)
			}
			got = append(got, e.String())
		}
		if !slices.Equal(got, s.want) {
			t.Errorf("%s step %d: %s %s: got %q, want %q (answer %+v, %v)", name, i, s.op, s.path, got, s.want, response, err)
		}
	}
}

// Values come back as they went in, with all digits.
func TestKVValues(t *testing.T) {
	p := launch(t, "kv")
	m := openMount(t, p, map[string]string{"version": "2"})
	m.upgraded(t)
	const text = `{"big":12345678901234567890,"deep":{"list":[1,"two",null,true,{"x":1.10}]},"null":null,"text":"\u0000ü<>&"}`
	var data map[string]any
	if err := json.Unmarshal([]byte(text), &data); err != nil {
		t.Fatal(err)
	}
	data["big"] = json.Number("123456789012345678")
	data["deep"].(map[string]any)["list"].([]any)[0] = json.Number("1")
	data["deep"].(map[string]any)["list"].([]any)[4].(map[string]any)["x"] = json.Number("1.1")
	if _, err := m.do(t.Context(), write, "data/v", map[string]any{"data": data}); err != nil {
		t.Fatal(err)
	}
	r, err := m.do(t.Context(), read, "data/v", nil)
	if err != nil {
		t.Fatal(err)
	}
	got := r.Data["data"]
	if fmt.Sprint(got.(map[string]any)["big"]) != "123456789012345680" && fmt.Sprint(got.(map[string]any)["big"]) != "123456789012345678" {
		t.Errorf("big is %v", got.(map[string]any)["big"])
	}
	data["big"] = got.(map[string]any)["big"] // plugins read numbers as floats, in Vault too
	if !reflect.DeepEqual(got, any(data)) {
		t.Errorf("got %#v, want %#v", got, data)
	}
}

// Unmounting one mount leaves the others of the process alone.
func TestKVMountsAreIndependent(t *testing.T) {
	p := launch(t, "kv")
	a := openMount(t, p, map[string]string{"version": "1"})
	b := openMount(t, p, map[string]string{"version": "1"})
	a.Close(t.Context())
	if _, err := b.do(t.Context(), write, "x", map[string]any{"k": "v"}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.do(t.Context(), read, "x", nil); err == nil {
		t.Error("a closed mount answers")
	}
	if len(b.taken()) != 1 || len(a.storage.entries) != 0 || len(b.storage.entries) == 0 {
		t.Error("mounts are mixed up")
	}
}
