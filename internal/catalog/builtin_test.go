package catalog

import (
	"bufio"
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/audit/flipt"
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/derivation"
	"github.com/tocsin-events/tocsin/internal/fliptevent"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit"
)

// pluginOnly are the types that the program does not emit itself.
var pluginOnly = strings.Fields(`lease/expired database/reload-connection database/reload-connection-fail database/static-creds-create
	database/static-creds-create-fail azure/static-role-update azure/rotate azure/rotate-fail`)

// sources parses the Go files of packages that emit events, without tests.
func sources(t *testing.T, dirs ...string) []*ast.File {
	t.Helper()
	var files []*ast.File
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			files = append(files, file)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}

func literal(e ast.Expr) (string, bool) {
	l, ok := e.(*ast.BasicLit)
	if !ok || l.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(l.Value)
	return s, err == nil
}

// literals returns all texts in files that an expression matches.
func literals(files []*ast.File, re *regexp.Regexp) map[string]bool {
	all := make(map[string]bool)
	for _, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			if l, ok := n.(*ast.BasicLit); ok {
				if s, ok := literal(l); ok && re.MatchString(s) {
					all[s] = true
				}
			}
			return true
		})
	}
	return all
}

// trailed returns what the records of the trail are about: the texts given to a field What
// or what, to call.change, and returned by call.deniedWhat.
func trailed(files []*ast.File) map[string]bool {
	all := make(map[string]bool)
	note := func(e ast.Expr) {
		if s, ok := literal(e); ok {
			all["tocsin/"+s] = true
		}
	}
	for _, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.KeyValueExpr:
				if name, ok := n.Key.(*ast.Ident); ok && strings.EqualFold(name.Name, "what") {
					note(n.Value)
				}
			case *ast.AssignStmt:
				for i, to := range n.Lhs {
					if field, ok := to.(*ast.SelectorExpr); ok && strings.EqualFold(field.Sel.Name, "what") && i < len(n.Rhs) {
						note(n.Rhs[i])
					}
				}
			case *ast.CallExpr:
				if method, ok := n.Fun.(*ast.SelectorExpr); ok && method.Sel.Name == "change" && len(n.Args) == 1 {
					note(n.Args[0])
				}
			case *ast.FuncDecl:
				if n.Name.Name == "deniedWhat" {
					ast.Inspect(n, func(n ast.Node) bool {
						if r, ok := n.(*ast.ReturnStmt); ok {
							note(r.Results[0])
						}
						return true
					})
				}
			}
			return true
		})
	}
	return all
}

// emitted are the types that the program can emit, as its code says.
func emitted(t *testing.T) map[string]bool {
	all := map[string]bool{vaultaudit.TypeRequest: true, vaultaudit.TypeResponse: true, vaultaudit.TypeQuarantined: true, vaultaudit.TypeLost: true}
	for _, r := range derivation.Rules {
		all[r.Type] = true
	}
	for _, g := range derivation.GeneralRules {
		all[g.Type] = true
	}
	deriver := sources(t, "../derivation")
	for name := range literals(deriver, regexp.MustCompile(`^kv-v[12]/.`)) {
		all[name] = true
	}
	// The others of kv-v2 are put together from the operation.
	for name := range literals(deriver, regexp.MustCompile(`^(data|metadata)-(write|patch|delete)$`)) {
		all["kv-v2/"+name] = true
	}
	for _, name := range []string{"delete", "undelete", "destroy"} {
		all["kv-v2/"+name] = true
	}
	hub := sources(t, "../trail", "../api", "../app", "../pluginhost", "../source/plugin", "../alerting")
	for name := range trailed(hub) {
		all[name] = true
	}
	for name := range literals(hub, regexp.MustCompile(`^tocsin/.`)) {
		all[name] = true
	}
	for name := range literals(sources(t, "../api", "../deliver/manager"), regexp.MustCompile(`^sink-[a-z-]+$`)) {
		all["tocsin/"+name] = true
	}
	all["tocsin/trail-lost"] = true // trail.LostType
	for _, noun := range flipt.Flipt.Nouns {
		for _, verb := range flipt.Flipt.Verbs {
			all[fliptevent.TypePrefix+noun+"/"+verb] = true
		}
	}
	all[fliptevent.TypeQuarantined] = true
	return all
}

// TestEverythingEmittedIsBuiltIn keeps the table and what the program does the same.
func TestEverythingEmittedIsBuiltIn(t *testing.T) {
	emitted := emitted(t)
	for name := range emitted {
		if knownTypes[name] == nil {
			t.Errorf("%s is emitted, and not in the table builtIns", name)
		}
	}
	names := make(map[string]bool)
	for _, b := range builtIns {
		if names[b.name] {
			t.Errorf("%s is there twice", b.name)
		}
		names[b.name] = true
		if only := slices.Contains(pluginOnly, b.name); emitted[b.name] == only {
			t.Errorf("%s: emitted is %v, of plugins only is %v", b.name, emitted[b.name], only)
		}
		if only := strings.Contains(b.description, "Only the plugin says so") || strings.Contains(b.description, "Only Vault itself"); only != slices.Contains(pluginOnly, b.name) {
			t.Errorf("%s: the description is %q", b.name, b.description)
		}
		inTable := slices.ContainsFunc(derivation.Rules, func(r derivation.Rule) bool { return r.Type == b.name }) ||
			slices.ContainsFunc(derivation.GeneralRules, func(g derivation.GeneralRule) bool { return g.Type == b.name })
		if inTable == (b.keys != "") {
			t.Errorf("%s: its keys must be said once, here or in the rules of package derivation", b.name)
		}
	}
	if len(names) < 150 {
		t.Errorf("only %d types", len(names))
	}
}

func TestBuiltInTypesAreDescribed(t *testing.T) {
	used := make(map[string]bool)
	for name, known := range knownTypes {
		if err := event.CheckType(name); err != nil {
			t.Error(err)
		}
		if !strings.HasSuffix(known.Description, ".") {
			t.Errorf("%s: the description is no sentence: %q", name, known.Description)
		}
		for _, key := range known.Metadata {
			used[key.Name] = true
			if key.Meaning == "" {
				t.Errorf("%s: nothing says what %s means", name, key.Name)
			}
		}
		e := known.example
		if err := event.DefaultLimits.Check(e); err != nil {
			t.Errorf("%s: the example is not valid: %v", name, err)
		}
		if e.Path == "" || strings.ContainsAny(e.Path, "{}") {
			t.Errorf("%s: the path of the example is %q", name, e.Path)
		}
		if _, err := event.ParseCloudEvent(known.makeExample()); err != nil {
			t.Errorf("%s: the example is no CloudEvent: %v", name, err)
		}
	}
	for key := range meanings {
		if !used[key] {
			t.Errorf("no type has %s", key)
		}
	}
}

// TestRecordingsAreAsDescribed: what comes out of the recorded audit logs has no metadata
// that the catalogue does not have.
func TestRecordingsAreAsDescribed(t *testing.T) {
	seen := make(map[string]bool)
	for _, file := range []string{"openbao-audit-small.jsonl", "kv025-audit-small.jsonl"} {
		text, err := os.ReadFile("../auditlog/testdata/" + file)
		if err != nil {
			t.Fatal(err)
		}
		translator := vaultaudit.NewTranslator(vaultaudit.TranslatorConfig{Name: "t", Now: time.Now})
		lines := bufio.NewScanner(bytes.NewReader(append(text, "not an entry\n"...)))
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			for _, e := range translator.Translate(nil, bytes.Clone(lines.Bytes())) {
				seen[e.Type] = true
				known := knownTypes[e.Type]
				if known == nil {
					t.Fatalf("%s is unknown", e.Type)
				}
				for f := range e.Metadata.All() {
					if !slices.ContainsFunc(known.Metadata, func(k Key) bool { return k.Name == f.Key }) {
						t.Errorf("%s has %s", e.Type, f.Key)
					}
				}
			}
		}
	}
	for _, name := range strings.Fields("kv-v1/write kv-v1/delete kv-v2/data-write kv-v2/destroy audit/request audit/quarantined token/create") {
		if !seen[name] {
			t.Errorf("%s is not in the recordings", name)
		}
	}
}

// TestTrailMetadata: what the records of the hub about itself have beside what all have.
func TestTrailMetadata(t *testing.T) {
	known := make(map[string]bool)
	for name, one := range knownTypes {
		if strings.HasPrefix(name, "tocsin/") {
			for _, key := range one.Metadata {
				known[key.Name] = true
			}
		}
	}
	found := 0
	for _, file := range sources(t, "../trail", "../api", "../app", "../pluginhost", "../alerting") {
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) < 2 {
				return true
			}
			method, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || method.Sel.Name != "Set" && method.Sel.Name != "set" && method.Sel.Name != "setPresent" {
				return true
			}
			if method.Sel.Name == "Set" {
				// Fields of a record, not headers of an answer.
				switch to := method.X.(type) {
				case *ast.SelectorExpr:
					if to.Sel.Name != "Fields" {
						return true
					}
				case *ast.Ident:
					if to.Name != "f" && to.Name != "fields" {
						return true
					}
				default:
					return true
				}
			}
			for _, arg := range call.Args[:2] {
				if key, ok := literal(arg); ok && regexp.MustCompile(`^[a-z_]+$`).MatchString(key) {
					found++
					if !known[key] && method.X != nil && key != "" && len(call.Args) == 2 && arg == call.Args[0] {
						t.Errorf("the trail has %s, the catalogue has not", key)
					}
				}
			}
			return true
		})
	}
	if found < 20 {
		t.Errorf("only %d keys were found", found)
	}
}

// TestEventTypesPage keeps docs/event-types.md and the catalogue the same.
func TestEventTypesPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/event-types.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[string]bool)
	for line := range strings.Lines(string(page)) {
		first, _, ok := strings.Cut(strings.TrimPrefix(line, "|"), "|")
		if !ok || line[0] != '|' {
			continue
		}
		for _, name := range regexp.MustCompile("`([a-z0-9-]+(?:/[a-z0-9-]+)+)`").FindAllStringSubmatch(first, -1) {
			documented[name[1]] = true
			if knownTypes[name[1]] == nil {
				t.Errorf("%s is documented, and not in the catalogue", name[1])
			}
		}
	}
	for name := range knownTypes {
		if !documented[name] && !slices.Contains(pluginOnly, name) {
			t.Errorf("%s is not documented", name)
		}
	}
}
