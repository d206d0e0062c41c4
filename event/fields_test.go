package event

import (
	"fmt"
	"slices"
	"testing"
)

// TestFieldsAreASortedMap runs random operations on Fields and on a map.
func TestFieldsAreASortedMap(t *testing.T) {
	g := newGenerator(3)
	for range 300 {
		var f Fields
		m := map[string]Field{}
		for range 60 {
			key, value := fmt.Sprint(g.IntN(12)), g.text()
			switch g.IntN(4) {
			case 0:
				f.Set(key, value)
				m[key] = Field{Key: key, Value: value}
			case 1:
				f.SetJSON(key, "1")
				m[key] = Field{Key: key, Value: "1", JSON: true}
			case 2:
				f.Delete(key)
				delete(m, key)
			case 3:
				got, ok := f.Get(key)
				want, wantOK := m[key]
				if got != want || ok != wantOK {
					t.Fatalf("Get(%q) = %v, %v; want %v, %v", key, got, ok, want, wantOK)
				}
				text, ok := f.Text(key)
				if ok != (wantOK && !want.JSON) || ok && text != want.Value {
					t.Fatalf("Text(%q) = %q, %v; want %v", key, text, ok, want)
				}
			}
			if len(f) != len(m) || checkOrder("fields", f) != nil {
				t.Fatalf("got %v, want %v in order", f, m)
			}
		}
		if all := slices.Collect(f.All()); !slices.Equal(all, f) {
			t.Fatalf("All yields %v, want %v", all, f)
		}
		clone := f.Clone()
		if f.Set("0", "changed"); len(clone) != len(m) {
			t.Fatal("a clone changes with the original")
		}
	}
	if (Fields)(nil).Clone() != nil || (Fields{}).Clone() == nil {
		t.Error("Clone does not keep nil and empty apart")
	}
}
