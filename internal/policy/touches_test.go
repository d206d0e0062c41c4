package policy

import "testing"

func TestTouches(t *testing.T) {
	for _, tt := range []struct {
		pattern, capabilities, prefix string
		want                          bool
	}{
		{"secret/data/a", `"read"`, "secret/", true},
		{"secret/data/a", `"deny"`, "secret/", false},
		{"secret/data/a", ``, "secret/", false},
		{"secret", `"read"`, "secret/", false},
		{"other/a", `"read"`, "secret/", false},
		{"*", `"read"`, "secret/", true},
		{"sec*", `"read"`, "secret/", true},
		{"secret/data/*", `"read"`, "secret/", true},
		{"secrets/*", `"read"`, "secret/", false},
		{"+/data/a", `"read"`, "secret/", true},
		{"+", `"read"`, "secret/", false},
		{"+/secret/*", `"read"`, "ns1/secret/", true},
		{"+/secret/*", `"read"`, "ns1/kv/", false},
		{"+/sec*", `"read"`, "ns1/secret/", true},
		{"secret/+/a", `"list"`, "secret/", true},
		{"secret/+", `"list"`, "secret/", true},
		{"secret/+/a", `"list"`, "secret/data/a/", false},
	} {
		p, _, err := Parse("p", `path "`+tt.pattern+`" { capabilities = [`+tt.capabilities+`] }`)
		if err != nil {
			t.Fatal(tt.pattern, err)
		}
		if got := Compile([]Bound{{Policy: p}}, nil).Touches(tt.prefix); got != tt.want {
			t.Errorf("%s [%s] touches %s: %v", tt.pattern, tt.capabilities, tt.prefix, got)
		}
	}
	if !Compile([]Bound{{Policy: RootPolicy}}, nil).Touches("a/") || (*ACL)(nil).Touches("a/") {
		t.Error("root or nobody")
	}
}
