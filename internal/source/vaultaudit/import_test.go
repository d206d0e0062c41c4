package vaultaudit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/inbox"
)

// importAll sends text as the log in pieces from where the import is.
func (s *stand) importAll(log, text string, piece int) (all Counted) {
	s.Helper()
	at, err := s.file.ImportState(s.Context(), log)
	if err != nil {
		s.Fatal(err)
	}
	for !at.Complete {
		rest := text[at.Offset:]
		end := len(rest)
		if end > piece {
			end = strings.LastIndexByte(rest[:piece], '\n') + 1
		}
		var n Counted
		at, n, err = s.file.Import(s.Context(), Chunk{Log: log, Offset: at.Offset, Data: []byte(rest[:end]), Last: end == len(rest)})
		if err != nil {
			s.Fatal(err)
		}
		all.Lines += n.Lines
		all.Accepted += n.Accepted
		all.Duplicates += n.Duplicates
		all.Quarantined += n.Quarantined
	}
	return all
}

// TestImport imports an old log beside a file that is followed, of which the log has the
// beginning: each entry is stored once, what is derived of both is as if each had been
// read alone, and what is imported says so.
func TestImport(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	s.write(auditLines(600, 1000))
	s.start()
	s.waitLines(400)
	old := auditLines(0, 700)
	if n := s.importAll("log1", old, 50_000); n.Lines != 700 || n.Accepted != 600 || n.Duplicates != 100 || n.Quarantined != 0 {
		t.Errorf("counted %+v", n)
	}
	if n := s.importAll("log1", old, 50_000); n != (Counted{}) {
		t.Errorf("a complete import did something: %+v", n)
	}
	if n := s.importAll("log2", old, 1<<20); n.Accepted != 0 || n.Duplicates != 700 {
		t.Errorf("the same under another name: %+v", n)
	}
	s.write(auditLines(1000, 1500))
	s.waitLines(1500)
	s.restart()
	s.write(auditLines(1500, 2000))
	s.waitLines(2000)
	want := map[int]bool{}
	for n := range 2000 {
		want[n] = true
	}
	checkUnion(t, s.journal, want)

	// The two streams, each as a translator makes it that was not interrupted.
	live, imported := NewTranslator(TranslatorConfig{Name: "test"}), NewTranslator(TranslatorConfig{Name: "test"})
	expected := map[string]string{}
	for n := range 700 {
		for _, e := range imported.Translate(nil, []byte(auditLine(n))) {
			if n < 600 {
				expected[e.ID] = e.Time.String() + fmt.Sprint(e.Extensions)
			}
		}
	}
	for n := 600; n < 2000; n++ {
		for _, e := range live.Translate(nil, []byte(auditLine(n))) {
			expected[e.ID] = e.Time.String() + fmt.Sprint(e.Extensions)
		}
	}
	for _, e := range allEvents(t, s.journal) {
		if expected[e.ID] != e.Time.String()+fmt.Sprint(e.Extensions) {
			t.Fatalf("%s: got %v %v, want %s", e.Type, e.Time, e.Extensions, expected[e.ID])
		}
		if _, is := e.Metadata.Text(metadataImported); strings.HasPrefix(e.Type, "audit/") && is != (entryNumber(t, entryKey(e)) < 600) {
			t.Fatalf("imported is %v: %s", is, e.Data)
		}
	}
}

func entryNumber(t *testing.T, key string) int {
	for n := range 5000 {
		if lineKey(n) == key {
			return n
		}
	}
	t.Fatalf("no line %s", key)
	return 0
}

// TestImportResumes interrupts imports between and within chunks, and restarts the source.
func TestImportResumes(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	s.config.Inputs = nil // nothing but imports
	s.start()
	text := auditLines(0, 3000) + "garbage\n" + strings.TrimSuffix(auditLines(3000, 3001), "\n")
	piece := len(auditLines(0, 500))
	at := Imported{}
	for n := 0; n < 4; n++ {
		chunk := Chunk{Log: "log", Offset: at.Offset, Data: []byte(text[at.Offset : int(at.Offset)+len(auditLines(n*500, n*500+500))])}
		ctx, cancel := context.WithCancel(t.Context())
		if n == 2 {
			cancel()
		}
		next, _, err := s.file.Import(ctx, chunk)
		cancel()
		switch {
		case n == 2 && err == nil:
			t.Fatal("no error")
		case n != 2 && err != nil:
			t.Fatal(err)
		}
		if n == 2 {
			break
		}
		at = next
		if n == 0 {
			if _, _, err := s.file.Import(t.Context(), chunk); !errors.Is(err, ErrOffset) {
				t.Errorf("the same chunk again: %v", err)
			}
			if _, _, err := s.file.Import(t.Context(), Chunk{Log: "other"}); !errors.Is(err, ErrImporting) {
				t.Errorf("another log: %v", err)
			}
		}
	}
	s.restart()
	n := s.importAll("log", text, piece)
	if n.Quarantined != 1 || n.Accepted == 0 {
		t.Errorf("counted %+v", n)
	}
	s.restart()
	if n := s.importAll("log", text, piece); n != (Counted{}) {
		t.Errorf("counted %+v", n)
	}
	events := lineEvents(t, s.journal)
	if len(events) != 3002 {
		t.Errorf("%d lines", len(events))
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.file.Import(t.Context(), Chunk{Log: "x"}); !errors.Is(err, ErrNotRunning) {
		t.Errorf("after the end: %v", err)
	}
}

// TestImportWhatIsFollowed imports a log while the source reads the same file: whoever
// takes an entry first, it is stored once.
func TestImportWhatIsFollowed(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	const lines = 20_000
	text := auditLines(0, lines)
	s.start()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; n < lines; n += 500 {
			appendTo(t, s.path, auditLines(n, n+500))
			time.Sleep(time.Millisecond)
		}
	}()
	s.importAll("log", text, 200_000)
	<-done
	s.waitFor("the file", func() bool { return s.file.InputStats("test").Lines == lines })
	s.waitFor("the entries", func() bool { return len(lineEvents(t, s.journal)) >= lines })
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	want := map[int]bool{}
	for n := range lines {
		want[n] = true
	}
	checkUnion(t, s.journal, want)
}

// TestImportDryRun counts and stores nothing.
func TestImportDryRun(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	s.write(auditLines(0, 100))
	s.start()
	s.waitLines(100)
	_, n, err := s.file.Import(t.Context(), Chunk{Log: "log", Data: []byte(auditLines(50, 150)), Last: true, DryRun: true})
	if err != nil || n.Accepted != 50 || n.Duplicates != 50 {
		t.Errorf("counted %+v, %v", n, err)
	}
	if at, err := s.file.ImportState(t.Context(), "log"); err != nil || at != (Imported{}) {
		t.Errorf("state %+v, %v", at, err)
	}
	s.write(auditLines(100, 200))
	s.waitLines(200)
	checkExactlyOnce(t, s.journal, 200)
}

// FuzzStored reads what may be stored about a source and an import.
func FuzzStored(f *testing.F) {
	f.Add([]byte(`{"version":1,"file":{"files":[]},"journal":"","begin":""}`))
	f.Add([]byte(`{"version":2,"inputs":{"a":{"journal":"","files":{"b":{"files":[{"offset":3}]}},"inbox":{"epoch":1}}}}`))
	f.Add([]byte{2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 'a'})
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := parseRecord(b, "input", "path"); err == nil && r.Version != recordVersion {
			t.Errorf("version %d", r.Version)
		}
		_ = NewTranslator(TranslatorConfig{Name: "x"}).Restore(b)
		n := 0
		for l := range chunkLines(b, true) {
			n += int(l.Size) + 1
		}
		if n != len(b) && n != len(b)+1 {
			t.Errorf("%d bytes of %d", n, len(b))
		}
	})
}

// TestImportThatHasToWait shows that a request does not wait for another one for longer
// than its sender does.
func TestImportThatHasToWait(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	s.start()
	if err := s.file.imports.lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.file.ImportState(ctx, "log1"); !errors.Is(err, ErrImporting) {
		t.Errorf("ImportState: %v", err)
	}
	if _, _, err := s.file.Import(ctx, Chunk{Log: "log1", Data: []byte("x\n")}); !errors.Is(err, ErrImporting) {
		t.Errorf("Import: %v", err)
	}
	s.file.imports.unlock()
	if n := s.importAll("log1", auditLines(0, 3), 1<<20); n.Accepted != 3 {
		t.Errorf("then %+v", n)
	}
}

// TestImportIsCut shows that an import whose client goes away loses no entry that came over
// a device meanwhile and was taken for one that the import has.
func TestImportIsCut(t *testing.T) {
	t.Parallel()
	const lines = 1500
	s := newStand(t)
	s.config.Inputs = nil
	x := s.putInbox("socket", inbox.Options{})
	hold := make(chan struct{})
	s.start(func(f *Source) {
		real := f.submit
		f.submit = func(ctx context.Context, events []*event.Event) (receipt, error) {
			select {
			case <-hold:
			case <-ctx.Done():
			}
			return real(ctx, events)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	data := []byte(auditLines(0, lines))
	imported := make(chan error, 1)
	go func() {
		_, _, err := s.file.Import(ctx, Chunk{Log: "old", Data: data, Length: int64(len(data)), Last: true})
		imported <- err
	}()
	taken := func() int {
		i := s.file.imports
		i.mu.Lock()
		defer i.mu.Unlock()
		if i.taken == nil {
			return 0
		}
		return len(i.taken.later)
	}
	last, since := 0, time.Now()
	s.waitFor("an import that is stuck", func() bool {
		if n := taken(); n != last {
			last, since = n, time.Now()
		}
		return last > 0 && time.Since(since) > 300*time.Millisecond
	})
	want := make(map[int]bool)
	var sent []string
	for n := last - 30; n < last-5; n++ { // in a unit that nobody has taken over
		want[n] = true
		sent = append(sent, deviceLine(1, n))
	}
	put(t, x, sent...)
	s.waitFor("the device's", func() bool { return s.file.InputStats("socket").Duplicates == uint64(len(want)) })
	cancel()
	select {
	case err := <-imported:
		imported <- err
	case <-time.After(100 * time.Millisecond):
	}
	close(hold)
	<-imported
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]int)
	for _, e := range lineEvents(t, s.journal) {
		got[entryKey(e)]++
	}
	for n := range want {
		if got[lineKey(n)] != 1 {
			t.Fatalf("entry %d is there %d times", n, got[lineKey(n)])
		}
	}
}
