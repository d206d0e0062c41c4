package strongbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/tocsin-events/tocsin/internal/journal"
)

func TestMain(m *testing.M) {
	if childMain() {
		return
	}
	goleak.VerifyTestMain(m)
}

func openJournal(t testing.TB, dir string) *journal.Journal {
	t.Helper()
	j, err := journal.Open(t.Context(), journal.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close(context.Background()) })
	return j
}

func config(j *journal.Journal, keys ...Key) Config {
	return Config{State: j.State, Remove: j.RemoveState, Keys: keys, From: "the test", Logger: slog.New(slog.DiscardHandler)}
}

func openBox(t testing.TB, j *journal.Journal, keys ...Key) *Box {
	t.Helper()
	b, err := Open(t.Context(), config(j, keys...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func compartment(t testing.TB, b *Box, name string) *Compartment {
	t.Helper()
	c, err := b.Compartment(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func put(t testing.TB, c *Compartment, key, value string) {
	t.Helper()
	if err := c.Put(t.Context(), Entry{Key: key, Value: []byte(value)}); err != nil {
		t.Fatal(err)
	}
}

func get(t testing.TB, c *Compartment, key string) string {
	t.Helper()
	e, err := c.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if e == nil {
		return "(none)"
	}
	return string(e.Value)
}

// list is List in an obviously right way.
func list(model map[string]string, prefix string) []string {
	seen := make(map[string]bool)
	for key := range model {
		rest, ok := strings.CutPrefix(key, prefix)
		if !ok || rest == "" {
			continue
		}
		if name, _, folder := strings.Cut(rest, "/"); folder {
			rest = name + "/"
		}
		seen[rest] = true
	}
	names := []string{}
	for name := range seen {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// The storage behaves like a map, also after it was opened again.
func TestModel(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	parts := []string{"a", "b", "aa", "a0", "a.", "a-", "\u00e4", "x y", "*", ">", "=", "..", "\x01", "\x7f", strings.Repeat("k", 100)}
	key := func() string {
		n := 1 + random.IntN(4)
		elements := make([]string, n)
		for i := range elements {
			elements[i] = parts[random.IntN(len(parts))]
		}
		return strings.Join(elements, "/")
	}
	j := openJournal(t, t.TempDir())
	secret := NewKey()
	c := compartment(t, openBox(t, j, secret), "a")
	model := make(map[string]string)
	check := func() {
		t.Helper()
		if c.Len() != len(model) {
			t.Fatalf("seed %d: %d keys, want %d", seed, c.Len(), len(model))
		}
		prefixes := []string{"", "a", "a/", "a/b/", "none/"}
		for k := range model {
			prefixes = append(prefixes, k, k+"/", k[:random.IntN(len(k)+1)])
			if len(prefixes) > 40 {
				break
			}
		}
		for _, prefix := range prefixes {
			got, err := c.List(t.Context(), prefix)
			if err != nil || !slices.Equal(got, list(model, prefix)) {
				t.Fatalf("seed %d: list of %q: %q, %v; want %q", seed, prefix, got, err, list(model, prefix))
			}
		}
	}
	for i := range 600 {
		k := key()
		switch random.IntN(4) {
		case 0, 1:
			value := strings.Repeat("v", random.IntN(1000))
			put(t, c, k, value)
			model[k] = value
		case 2:
			if err := c.Delete(t.Context(), k); err != nil {
				t.Fatal(err)
			}
			delete(model, k)
		case 3:
			want, ok := model[k]
			if !ok {
				want = "(none)"
			}
			if got := get(t, c, k); got != want {
				t.Fatalf("seed %d: %q has %d bytes, want %d", seed, k, len(got), len(want))
			}
		}
		if i%50 == 0 {
			check()
		}
	}
	c = compartment(t, openBox(t, j, secret), "a")
	check()
	for k, want := range model {
		if got := get(t, c, k); got != want {
			t.Errorf("seed %d: after it was opened again %q has %d bytes, want %d", seed, k, len(got), len(want))
		}
	}
}

func TestFlagIsKept(t *testing.T) {
	c := compartment(t, openBox(t, openJournal(t, t.TempDir()), NewKey()), "a")
	for _, flag := range []bool{true, false} {
		if err := c.Put(t.Context(), Entry{Key: "k", Flag: flag}); err != nil {
			t.Fatal(err)
		}
		if e, err := c.Get(t.Context(), "k"); err != nil || e.Flag != flag || e.Value == nil || len(e.Value) != 0 {
			t.Errorf("%+v, %v", e, err)
		}
	}
}

func TestWrongKey(t *testing.T) {
	j := openJournal(t, t.TempDir())
	right := NewKey()
	put(t, compartment(t, openBox(t, j, right), "a"), "k", "v")
	wrong := NewKey()
	_, err := Open(t.Context(), config(j, wrong, NewKey()))
	if !errors.Is(err, ErrWrongKey) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{right.ID(), wrong.ID(), "the test", "nothing was changed"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
	for _, k := range []Key{right, wrong} {
		if strings.Contains(err.Error(), k.Encode()) {
			t.Error("a key is in the error")
		}
	}
	if got := get(t, compartment(t, openBox(t, j, right), "a"), "k"); got != "v" {
		t.Errorf("after the wrong key: %q", got)
	}
}

// A new key before the old one takes over; the old one is then not accepted any more.
func TestRotation(t *testing.T) {
	j := openJournal(t, t.TempDir())
	old, next := NewKey(), NewKey()
	put(t, compartment(t, openBox(t, j, old), "a"), "k", "v")
	openBox(t, j, next, old)
	if got := get(t, compartment(t, openBox(t, j, next), "a"), "k"); got != "v" {
		t.Errorf("with the new key: %q", got)
	}
	if _, err := Open(t.Context(), config(j, old)); !errors.Is(err, ErrWrongKey) {
		t.Errorf("with the old key: %v", err)
	}
}

// What somebody moves or changes in the bucket is noticed.
func TestTampering(t *testing.T) {
	j := openJournal(t, t.TempDir())
	b := openBox(t, j, NewKey())
	c, other := compartment(t, b, "a"), compartment(t, b, "b")
	put(t, c, "one", "1")
	put(t, c, "two", "2")
	put(t, other, "one", "other")
	kvOf := func(name string) jetstream.KeyValue {
		kv, err := j.State(t.Context(), defaultPrefix+"storage-"+name)
		if err != nil {
			t.Fatal(err)
		}
		return kv
	}
	value := func(c *Compartment, key string) []byte {
		e, err := kvOf(c.name).Get(t.Context(), c.names.encrypt(key))
		if err != nil {
			t.Fatal(err)
		}
		return e.Value()
	}
	one := value(c, "one")
	if bytes.Contains(one, []byte("one")) || strings.Contains(c.names.encrypt("one"), "one") || c.names.encrypt("one") == other.names.encrypt("one") {
		t.Error("names are in clear, or equal in two compartments")
	}
	flipped := bytes.Clone(one)
	flipped[len(flipped)-1] ^= 1
	for name, stored := range map[string][]byte{
		"swapped": value(c, "two"), "of another compartment": value(other, "one"), "flipped": flipped, "empty": {}, "short": one[:5],
		"other format": append([]byte{9}, one[1:]...), "cut": one[:len(one)-1],
	} {
		if _, err := kvOf("a").Put(t.Context(), c.names.encrypt("one"), stored); err != nil {
			t.Fatal(err)
		}
		if e, err := c.Get(t.Context(), "one"); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v, %v", name, e, err)
		}
	}
	// A name that nobody has encrypted keeps the compartment from being opened.
	if _, err := kvOf("a").Put(t.Context(), other.names.encrypt("one"), one); err != nil {
		t.Fatal(err)
	}
	b.open = make(map[string]*Compartment)
	if _, err := b.Compartment(t.Context(), "a"); !errors.Is(err, ErrDamaged) {
		t.Errorf("a name of another compartment: %v", err)
	}
}

// What is sealed is opened only by the box that sealed it, under its name; boxes with other
// prefixes have other keys.
func TestSeal(t *testing.T) {
	j := openJournal(t, t.TempDir())
	key := NewKey()
	b := openBox(t, j, key)
	other := config(j, key)
	other.Prefix, other.What = "tocsin-sink-", "the secrets of sinks"
	c, err := Open(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	sealed := b.Seal("slack", []byte("s3cret"))
	if bytes.Contains(sealed, []byte("s3cret")) || bytes.Equal(sealed, b.Seal("slack", []byte("s3cret"))) {
		t.Errorf("sealed is %q", sealed)
	}
	if got, err := openBox(t, j, key).Unseal("slack", sealed); err != nil || string(got) != "s3cret" {
		t.Errorf("got %q, %v", got, err)
	}
	cut := bytes.Clone(sealed)
	cut[len(cut)-1] ^= 1
	for what, err := range map[string]error{
		"another name": second(b.Unseal("pager", sealed)),
		"another box":  second(c.Unseal("slack", sealed)),
		"changed":      second(b.Unseal("slack", cut)),
		"short":        second(b.Unseal("slack", sealed[:5])),
		"empty":        second(b.Unseal("slack", nil)),
	} {
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
	other.Keys = []Key{NewKey()}
	if _, err := Open(t.Context(), other); !errors.Is(err, ErrWrongKey) || !strings.Contains(err.Error(), "the secrets of sinks") {
		t.Errorf("another key: %v", err)
	}
}

func second(_ []byte, err error) error { return err }

func TestBounds(t *testing.T) {
	c := compartment(t, openBox(t, openJournal(t, t.TempDir()), NewKey()), "a")
	longest := strings.Repeat("k", MaxKeyBytes)
	put(t, c, longest, "v")
	if got := get(t, c, longest); got != "v" {
		t.Errorf("longest key: %q", got)
	}
	large := bytes.Repeat([]byte("v"), MaxValueBytes)
	if err := c.Put(t.Context(), Entry{Key: "large", Value: large}); err != nil {
		t.Fatal(err)
	}
	if e, err := c.Get(t.Context(), "large"); err != nil || !bytes.Equal(e.Value, large) {
		t.Errorf("largest value: %v", err)
	}
	for _, tt := range []struct {
		key  string
		size int
		want error
	}{
		{longest + "k", 1, ErrTooLarge}, {"k", MaxValueBytes + 1, ErrTooLarge}, {"", 1, ErrInvalid}, {"\xff", 1, ErrInvalid},
	} {
		if err := c.Put(t.Context(), Entry{Key: tt.key, Value: make([]byte, tt.size)}); !errors.Is(err, tt.want) {
			t.Errorf("key of %d bytes, value of %d: %v", len(tt.key), tt.size, err)
		}
		if e, err := c.Get(t.Context(), tt.key); tt.key != "k" && (e != nil || err != nil) {
			t.Errorf("key of %d bytes: %v, %v", len(tt.key), e, err)
		}
	}
	for _, name := range []string{"", "A", "a.b", "a/b", strings.Repeat("a", 65)} {
		if _, err := openBox(t, openJournal(t, t.TempDir()), NewKey()).Compartment(t.Context(), name); err == nil {
			t.Errorf("compartment %q", name)
		}
	}
}

func TestRemove(t *testing.T) {
	j := openJournal(t, t.TempDir())
	b := openBox(t, j, NewKey())
	put(t, compartment(t, b, "a"), "k", "v")
	put(t, compartment(t, b, "b"), "k", "v")
	for range 2 { // also what there is not
		if err := b.Remove(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
	}
	if got := get(t, compartment(t, b, "a"), "k"); got != "(none)" {
		t.Errorf("after it was removed: %q", got)
	}
	if got := get(t, compartment(t, b, "b"), "k"); got != "v" {
		t.Errorf("another one: %q", got)
	}
}

// failing is a bucket whose next write is done and not answered, or not done.
type failing struct {
	jetstream.KeyValue
	mu   sync.Mutex
	done bool
	err  error
}

func (f *failing) take() (done bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	done, err = f.done, f.err
	f.err = nil
	return done, err
}

func (f *failing) Put(ctx context.Context, key string, value []byte) (uint64, error) {
	done, err := f.take()
	if err != nil && !done {
		return 0, err
	}
	n, putErr := f.KeyValue.Put(ctx, key, value)
	return n, errors.Join(err, putErr)
}

func (f *failing) Purge(ctx context.Context, key string, opts ...jetstream.KVDeleteOpt) error {
	done, err := f.take()
	if err != nil && !done {
		return err
	}
	return errors.Join(err, f.KeyValue.Purge(ctx, key, opts...))
}

// After a write without an answer a list says what is there, not what was wanted.
func TestUnknownOutcome(t *testing.T) {
	c := compartment(t, openBox(t, openJournal(t, t.TempDir()), NewKey()), "a")
	f := &failing{KeyValue: c.kv}
	c.kv = f
	put(t, c, "old", "v")
	for _, tt := range []struct {
		done bool
		do   func() error
		want string
	}{
		{false, func() error { return c.Put(t.Context(), Entry{Key: "new"}) }, "[old]"},
		{true, func() error { return c.Put(t.Context(), Entry{Key: "new"}) }, "[new old]"},
		{false, func() error { return c.Delete(t.Context(), "new") }, "[new old]"},
		{true, func() error { return c.Delete(t.Context(), "new") }, "[old]"},
	} {
		f.done, f.err = tt.done, errors.New("no answer")
		if err := tt.do(); !errors.Is(err, ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		names, err := c.List(t.Context(), "")
		if got := fmt.Sprint(names); err != nil || got != tt.want {
			t.Errorf("%s, %v; want %s", got, err, tt.want)
		}
	}
}

// down is a bucket that takes nothing.
type down struct{ jetstream.KeyValue }

func (down) Put(context.Context, string, []byte) (uint64, error) { return 0, errors.New("no answer") }

// A bucket that fails for long does not make the names of unanswered writes many.
func TestUnknownOutcomesAreBounded(t *testing.T) {
	c := compartment(t, openBox(t, openJournal(t, t.TempDir()), NewKey()), "a")
	bucket := c.kv
	c.kv = down{bucket}
	for i := range 2*maxUnsure + 10 {
		if err := c.Put(t.Context(), Entry{Key: fmt.Sprint(i)}); !errors.Is(err, ErrUnavailable) {
			t.Fatalf("%d: %v", i, err)
		}
	}
	if n := len(c.unsure); n > maxUnsure {
		t.Errorf("%d names are kept", n)
	}
	c.kv = bucket
	put(t, c, "x", "v")
	if names, err := c.List(t.Context(), ""); err != nil || fmt.Sprint(names) != "[x]" {
		t.Errorf("%v, %v", names, err)
	}
}

// Writes of one key at the same time leave list and value as one of them wanted.
func TestConcurrentWrites(t *testing.T) {
	c := compartment(t, openBox(t, openJournal(t, t.TempDir()), NewKey()), "a")
	for range 10 {
		var writing sync.WaitGroup
		for i := range 8 {
			writing.Go(func() {
				if i%2 == 0 {
					put(t, c, "k", fmt.Sprint(i))
				} else if err := c.Delete(t.Context(), "k"); err != nil {
					t.Error(err)
				}
			})
		}
		writing.Wait()
		names, err := c.List(t.Context(), "")
		if err != nil || (len(names) == 1) != (get(t, c, "k") != "(none)") {
			t.Fatalf("list %v, %v, value %q", names, err, get(t, c, "k"))
		}
	}
}

func TestParseKeys(t *testing.T) {
	k := NewKey()
	hexadecimal := fmt.Sprintf("%x", k.bytes[:])
	for _, text := range []string{k.Encode(), k.Encode() + "\n", "# key\n\n " + k.Encode() + " \r\n", hexadecimal, strings.ToUpper(hexadecimal), strings.TrimRight(k.Encode(), "="),
		strings.NewReplacer("+", "-", "/", "_").Replace(k.Encode())} {
		keys, err := ParseKeys(text)
		if err != nil || len(keys) != 1 || keys[0] != k {
			t.Errorf("%q: %v %v", text, keys, err)
		}
	}
	if keys, err := ParseKeys(k.Encode() + "\n" + NewKey().Encode()); err != nil || len(keys) != 2 || keys[0] != k {
		t.Errorf("two keys: %v %v", keys, err)
	}
	for _, text := range []string{"", "\n# x\n", "c2VjcmV0", strings.Repeat("s", 44), hexadecimal[:62], strings.Repeat(k.Encode()+"\n", maxKeys+1)} {
		keys, err := ParseKeys(text)
		if err == nil {
			t.Errorf("%q: %v", text, keys)
		} else if len(text) > 3 && strings.Contains(err.Error(), strings.TrimSpace(text)) {
			t.Errorf("the text is in the error: %v", err)
		}
	}
	for _, printed := range []string{fmt.Sprint(k), fmt.Sprintf("%+v %#v %x %d %s", k, k, k, k, struct{ K Key }{k})} {
		if strings.Contains(printed, hexadecimal) || strings.Contains(printed, k.Encode()) || strings.Contains(printed, fmt.Sprint(k.bytes[:3])) {
			t.Errorf("printed: %s", printed)
		}
	}
}

func FuzzParseKeys(f *testing.F) {
	f.Add(NewKey().Encode())
	f.Add("# x\n" + strings.Repeat("a", 64))
	f.Fuzz(func(t *testing.T, text string) {
		keys, err := ParseKeys(text)
		if err != nil {
			return
		}
		for _, k := range keys {
			if again, err := ParseKeys(k.Encode()); err != nil || again[0] != k {
				t.Errorf("%v is read as %v, %v", k, again, err)
			}
		}
	})
}

func FuzzDecrypt(f *testing.F) {
	b := &Box{data: make([]byte, KeyBytes)}
	c := &Compartment{name: "a", values: newGCM(b.derive("values a")), names: newNameCipher(b.derive("names mac a"), b.derive("names a"))}
	f.Add(c.encrypt(Entry{Key: "k", Value: []byte("v")}), c.names.encrypt("k"))
	f.Add([]byte{format}, "")
	f.Fuzz(func(t *testing.T, stored []byte, name string) {
		if e, err := c.decrypt("k", stored); err == nil && e.Key != "k" {
			t.Error(e)
		}
		if key, err := c.names.decrypt(name); err == nil && c.names.encrypt(key) != name {
			t.Errorf("%q is also %q", name, c.names.encrypt(key))
		}
	})
}

func BenchmarkList(b *testing.B) {
	var names []string
	for i := range 50_000 {
		names = append(names, fmt.Sprintf("versions/%03x/%d", i%4096, i))
	}
	x := newIndex(names)
	b.Run("folders", func(b *testing.B) {
		for b.Loop() {
			x.children("versions/")
		}
	})
	b.Run("add and remove", func(b *testing.B) {
		for b.Loop() {
			x.add("versions/800/x")
			x.remove("versions/800/x")
		}
	})
}

func BenchmarkPut(b *testing.B) {
	j, err := journal.Open(b.Context(), journal.Config{Dir: filepath.Join(b.TempDir(), "d"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer j.Close(context.Background())
	c := compartment(b, openBox(b, j, NewKey()), "a")
	value := strings.Repeat("v", 1000)
	for i := 0; b.Loop(); i++ {
		put(b, c, fmt.Sprint(i%1000), value)
	}
}
