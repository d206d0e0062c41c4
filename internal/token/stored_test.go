package token

import (
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/internal/policy"
)

var updateGolden = flag.Bool("update", false, "write the golden files")

var storedAt = time.Date(2026, 3, 4, 5, 6, 7, 890123456, time.UTC)

func sampleValues() map[string]content {
	id := func(b byte) (id ID) {
		for i := range id {
			id[i] = b
		}
		return id
	}
	return map[string]content{
		"entry": {by: "NODE", lineage: lineage{"parentsaccessor000000000", true}, entry: &Entry{
			ID: id(0xa1), Accessor: "0123456789abcdefghijklmn", Namespace: "ns1/", Policies: []string{"default", "ops"},
			DisplayName: "token-x", Meta: map[string]string{"team": "a"}, Path: "auth/token/create",
			Created: storedAt, TTL: time.Hour, Expires: storedAt.Add(2 * time.Hour), Period: time.Hour, ExplicitMaxTTL: 24 * time.Hour,
			NumUses: 7, Renewable: true, LastRenewal: storedAt.Add(time.Hour), Parent: id(0xb2),
			Subject: policy.Subject{
				EntityID: "e", EntityName: "n", EntityMetadata: map[string]string{"m": "1"},
				Aliases: map[string]policy.Alias{"auth_jwt_1": {ID: "i", Name: "n", Metadata: map[string]string{"k": "v"}}},
				Groups:  []policy.Group{{ID: "g", Name: "gn"}}, TokenMetadata: map[string]string{"team": "a"},
				DisplayName: "token-x", Claims: map[string]string{"sub": "s"},
			},
		}},
		"least":     {by: "NODE", entry: &Entry{ID: id(0xa1), Accessor: "0123456789abcdefghijklmn", Created: storedAt}},
		"revoked":   {by: "NODE", end: Revoked},
		"used-up":   {by: "NODE", end: UsedUp},
		"orphaning": {by: "NODE", end: Revoked, orphans: true},
		"root":      {by: "NODE", end: Revoked, root: true},
	}
}

// TestStoredForm keeps the form of what is in buckets: what was written by an older
// program must be readable for ever.
func TestStoredForm(t *testing.T) {
	const file = "testdata/stored.json"
	values := sampleValues()
	if *updateGolden {
		all := make(map[string]json.RawMessage)
		for name, v := range values {
			raw, err := v.encode(storedAt)
			if err != nil {
				t.Fatal(err)
			}
			all[name] = raw
		}
		text, _ := json.MarshalIndent(all, "", "  ")
		if err := os.WriteFile(file, append(text, '\n'), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var golden map[string]json.RawMessage
	if err := json.Unmarshal(text, &golden); err != nil {
		t.Fatal(err)
	}
	want(t, "values", len(golden), len(values))
	key := strings.Repeat("a1", 32)
	for name, v := range values {
		raw, err := v.encode(storedAt)
		if err != nil {
			t.Fatal(err)
		}
		var written, expected any
		if json.Unmarshal(raw, &written) != nil || json.Unmarshal(golden[name], &expected) != nil || !reflect.DeepEqual(written, expected) {
			t.Errorf("%s is stored as %s, not as %s", name, raw, golden[name])
		}
		_, read, err := decode(key, golden[name])
		if err != nil || !reflect.DeepEqual(read, v) {
			t.Errorf("%s is read as %+v, %v", name, read, err)
		}
	}
	// What a later version of the same form adds is ignored.
	later := strings.Replace(string(golden["entry"]), `"v":1`, `"v":1,"colour":{"r":1}`, 1)
	later = strings.Replace(later, `"v": 1`, `"v": 1,"colour":{"r":1}`, 1)
	if _, read, err := decode(key, []byte(later)); err != nil || !strings.Contains(later, "colour") || !reflect.DeepEqual(read, values["entry"]) {
		t.Errorf("with an unknown member: %+v, %v", read, err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	key := strings.Repeat("a1", 32)
	good := `"accessor":"x","created":"2026-03-04T05:06:07Z"`
	if _, _, err := decode(key, []byte(`{"v":1,`+good+`}`)); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ key, value string }{
		"nothing":         {key, ""},
		"no JSON":         {key, "x"},
		"an array":        {key, "[]"},
		"no version":      {key, `{` + good + `}`},
		"later version":   {key, `{"v":2,` + good + `}`},
		"no accessor":     {key, `{"v":1,"created":"2026-03-04T05:06:07Z"}`},
		"no creation":     {key, `{"v":1,"accessor":"x"}`},
		"unknown end":     {key, `{"v":1,"end":"eaten"}`},
		"end without end": {key, `{"v":1,"ttl_ns":5,` + good + `}`},
		"negative ttl":    {key, `{"v":1,"ttl_ns":-5,` + good + `}`},
		"negative uses":   {key, `{"v":1,"num_uses":-1,` + good + `}`},
		"bad parent":      {key, `{"v":1,"parent":"b2",` + good + `}`},
		"own parent":      {key, `{"v":1,"parent":"` + key + `",` + good + `}`},
		"zero parent":     {key, `{"v":1,"parent":"` + strings.Repeat("0", 64) + `",` + good + `}`},
		"short key":       {key[1:], `{"v":1,` + good + `}`},
		"upper case key":  {strings.ToUpper(key), `{"v":1,` + good + `}`},
		"zero key":        {strings.Repeat("0", 64), `{"v":1,` + good + `}`},
		"no hex":          {strings.Repeat("x", 64), `{"v":1,` + good + `}`},
		"too large":       {key, `{"v":1,` + good + `,"path":"` + strings.Repeat("p", maxStoredBytes) + `"}`},
	} {
		if _, v, err := decode(tt.key, []byte(tt.value)); err == nil || v.entry != nil || v.end != 0 {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
	}
}

// FuzzDecode reads any bytes; what can be read is written and read as the same.
func FuzzDecode(f *testing.F) {
	key := strings.Repeat("a1", 32)
	for _, v := range sampleValues() {
		raw, err := v.encode(storedAt)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(key, raw)
	}
	f.Add("x", []byte(`{"v":1}`))
	f.Add(key, []byte(`{"v":1,"accessor":"x","created":"0001-01-01T00:00:00+01:00","parent":"`+strings.Repeat("b2", 32)+`"}`))
	f.Fuzz(func(t *testing.T, key string, raw []byte) {
		id, v, err := decode(key, raw)
		if err != nil {
			return
		}
		if id == (ID{}) || (v.entry == nil) == (v.end == 0) {
			t.Fatalf("%v %+v", id, v)
		}
		again, err := v.encode(storedAt)
		if err != nil {
			return // larger than what was read, or a time that JSON does not have
		}
		id2, v2, err := decode(key, again)
		if err != nil || id2 != id {
			t.Fatalf("read back: %v\n%s", err, again)
		}
		// Empty and missing members are the same.
		third, err := v2.encode(storedAt)
		if err != nil {
			t.Fatal(err)
		}
		if _, v3, err := decode(key, third); err != nil || !reflect.DeepEqual(v3, v2) {
			t.Fatalf("%v\n%s\n%s", err, again, third)
		}
	})
}
