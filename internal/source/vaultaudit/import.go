package vaultaudit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/tail"
)

// Chunk is a piece of an old log that is imported.
type Chunk struct {
	// Log names the log, so that an import that was interrupted can go on: letters and
	// digits, up to 64. Empty: nothing is remembered of it.
	Log string
	// Offset is where in the log Data begins, in bytes of the log without compression.
	Offset int64
	// Data is whole lines; the last line of a log may lack its line feed.
	Data []byte
	// Length is how many bytes of the log Data stands for, at least its own: of a line that
	// is too long only the beginning may be given.
	Length int64
	// Last tells that the log ends with Data.
	Last bool
	// DryRun counts only.
	DryRun bool
}

// Imported says how far the import of a log is.
type Imported struct {
	Offset   int64 `json:"offset"`   // where to go on
	Complete bool  `json:"complete"` // nothing is left to do
}

// Counted is what became of the lines of a chunk.
type Counted struct {
	Lines       uint64 `json:"lines"`
	Accepted    uint64 `json:"accepted"`    // entries that are durable now
	Duplicates  uint64 `json:"duplicates"`  // entries that were in the journal already
	Quarantined uint64 `json:"quarantined"` // of the accepted ones, lines that are no entries
	Events      uint64 `json:"events"`      // all that were stored, with notifications
}

// Errors of imports, beside those of the journal.
var (
	// ErrOffset means that a chunk does not begin where the import is to go on.
	ErrOffset = errors.New("the chunk does not begin where the import goes on")
	// ErrImporting means that another log of the server is being imported.
	ErrImporting = errors.New("another log of this server is being imported")
	// ErrTooMany means that the journal has more entries of the server than can be
	// compared.
	ErrTooMany = fmt.Errorf("the journal has more than %d entries of this server, which is more than an import can compare with", maxImportIDs)
	// ErrNotRunning means that the source does not run (yet, or any more).
	ErrNotRunning = errors.New("the source does not run")
)

const (
	// maxImportIDs bounds the ids that an import compares with: 16 bytes each.
	maxImportIDs = 8 << 20
	// importWindow is how many of the entries that the import and the inputs take meanwhile
	// are compared with each other, at least.
	importWindow = 2_000_000
	// importIdle is how long an import may be silent before another log may be imported,
	// and its memory is given back.
	importIdle = time.Minute
	// importBusy is how long an import keeps out that of another log after its last chunk.
	importBusy = 3 * time.Second
	// importSave is the time after which the progress of an import is stored.
	importSave = 5 * time.Second
	// barrierTimeout bounds the wait until what the inputs read before is durable.
	barrierTimeout = 20 * time.Second
)

// importer takes in old logs, beside the inputs.
//
// An import has a translator of its own, which begins with the log and knows nothing of
// what the inputs read, nor they of what is imported: old entries say nothing about how
// things are now. What it derives has the times of its entries and the ids that belong
// to them.
//
// An entry that the journal has is not stored again: at the begin of an import the ids
// of all entries of the server are read, and from then on the translation of the inputs
// and the import tell each other what they take.
type importer struct {
	*Source
	units    chan *unit
	barriers chan chan struct{}
	active   atomic.Bool // an import runs: the translation must tell

	working chan struct{} // has room for who works on a chunk
	session *session      // nil: none
	idle    *time.Timer

	mu     sync.Mutex
	taken  *window // what the import took
	live   *window // what the inputs took meanwhile
	counts Stats
}

// session is the import of one log.
type session struct {
	log        string
	dry        bool
	translator *Translator
	ids        []uuid.UUID // of the journal, sorted
	offset     int64
	complete   bool
	saved      time.Time
	used       time.Time // when the last chunk was done
}

func newImporter(s *Source) *importer {
	return &importer{Source: s, units: make(chan *unit), barriers: make(chan chan struct{}), working: make(chan struct{}, 1)}
}

// lock waits until nobody works on a chunk, as long as ctx allows: a request that nobody
// waits for any more must not keep its body in memory.
func (i *importer) lock(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrImporting, err)
	}
	select {
	case i.working <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrImporting, ctx.Err())
	}
}

func (i *importer) unlock() { <-i.working }

func (i *importer) stats() Stats {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.counts
}

// tell is asked by the translation, while an import is active, whether the import took
// an entry, and notes that an input takes it.
func (i *importer) tell(id string) (imported bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.taken == nil {
		return false
	}
	key := idKey(id)
	if _, ok := i.taken.find(key); ok {
		return true
	}
	i.live.add(key, seen{}, time.Now())
	return false
}

// importRecord is what is stored of an import, as one object: this as JSON, a line feed, and the
// snapshot of the translator.
type importRecord struct {
	Version  int   `json:"version"`
	Offset   int64 `json:"offset"`
	Complete bool  `json:"complete"`
}

// ImportState returns how far the import of a log is.
func (s *Source) ImportState(ctx context.Context, log string) (Imported, error) {
	i := s.imports
	if err := i.lock(ctx); err != nil {
		return Imported{}, err
	}
	defer i.unlock()
	if i.session != nil && i.session.log == log && !i.session.dry && log != "" {
		return Imported{Offset: i.session.offset, Complete: i.session.complete}, nil
	}
	r, _, err := i.load(ctx, log)
	return Imported{Offset: r.Offset, Complete: r.Complete}, err
}

// Import takes a piece of an old log and returns when it is durable. Chunks of a log come
// one after the other; one that does not begin where the import goes on is refused with
// [ErrOffset]. After an error it goes on where [Source.ImportState] says, and what was
// stored is recognised. One log of a server is imported at a time.
func (s *Source) Import(ctx context.Context, c Chunk) (Imported, Counted, error) {
	i := s.imports
	if err := i.lock(ctx); err != nil {
		return Imported{}, Counted{}, fmt.Errorf("import into %s: %w", s.config.Name, err)
	}
	defer i.unlock()
	if i.idle != nil {
		i.idle.Stop()
	}
	x, err := i.begin(ctx, c)
	if err != nil {
		return Imported{}, Counted{}, fmt.Errorf("import into %s: %w", s.config.Name, err)
	}
	defer func() { i.idle = time.AfterFunc(importIdle, i.expire) }()
	switch {
	case x.complete && len(c.Data) == 0:
		return Imported{Offset: x.offset, Complete: true}, Counted{}, nil
	case c.Offset != x.offset && c.Log != "":
		return Imported{Offset: x.offset}, Counted{}, fmt.Errorf("import into %s: %w: it begins at %d, the import is at %d", s.config.Name, ErrOffset, c.Offset, x.offset)
	}
	counted, err := i.work(ctx, x, c)
	if err != nil {
		i.drop() // what is stored now is read back
		return Imported{}, Counted{}, fmt.Errorf("import into %s: %w", s.config.Name, err)
	}
	x.offset += max(c.Length, int64(len(c.Data)))
	x.complete = c.Last
	if !c.DryRun && c.Log != "" && (c.Last || time.Since(x.saved) > importSave) {
		if err := i.save(ctx, x); err != nil {
			i.drop()
			return Imported{}, Counted{}, fmt.Errorf("import into %s: store how far it is: %w", s.config.Name, err)
		}
	}
	x.used = time.Now()
	done := Imported{Offset: x.offset, Complete: x.complete}
	if c.Last {
		i.drop()
	}
	return done, counted, nil
}

// begin returns the session of the chunk, a new one if need be.
func (i *importer) begin(ctx context.Context, c Chunk) (*session, error) {
	if x := i.session; x != nil {
		switch {
		case x.log == c.Log && x.dry == c.DryRun && (c.Log != "" || c.Offset == x.offset):
			return x, nil
		case x.log != c.Log && time.Since(x.used) < importBusy:
			return nil, ErrImporting
		}
		i.end(ctx)
	}
	x := &session{log: c.Log, dry: c.DryRun, translator: NewTranslator(i.config.Translator), saved: time.Now()}
	x.translator.imported = true
	if c.DryRun || c.Log == "" {
		x.offset = c.Offset
	} else {
		r, snapshot, err := i.load(ctx, c.Log)
		if err != nil {
			return nil, err
		}
		x.offset, x.complete = r.Offset, r.Complete
		if len(snapshot) > 0 {
			if err := x.translator.Restore(snapshot); err != nil {
				i.log.Warn("stored state of an import cannot be used; what follows from its next entries is less certain", "error", err)
			}
		}
	}
	if x.complete && len(c.Data) == 0 {
		return x, nil // there is nothing to compare
	}
	i.mu.Lock()
	i.taken, i.live = newWindow(importWindow, time.Hour), newWindow(importWindow, time.Hour)
	i.mu.Unlock()
	i.active.Store(!x.dry)
	i.session, x.used = x, time.Now()
	err := i.barrier(ctx)
	if err == nil {
		x.ids, err = i.known(ctx)
	}
	if err != nil {
		i.drop()
		return nil, err
	}
	return x, nil
}

// barrier waits until all that the inputs took is durable.
func (i *importer) barrier(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, barrierTimeout)
	defer cancel()
	passed := make(chan struct{})
	select {
	case i.barriers <- passed:
	case <-i.ended:
		return ErrNotRunning
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-passed:
		return nil
	case <-i.ended:
		return ErrNotRunning
	case <-ctx.Done():
		return ctx.Err()
	}
}

// known reads the ids of all entries of the server that the journal has.
func (i *importer) known(ctx context.Context) ([]uuid.UUID, error) {
	var ids []uuid.UUID
	tooMany := false
	err := i.readBack(ctx, journal.Position{}, i.journal.End(), func(*journal.GapError) {}, func(b *journal.Batch) {
		for k := b.Start(); k < b.Len(); k++ {
			if e := b.Event(k); i.ours(e) && e.Type != TypeLost {
				if len(ids) == maxImportIDs {
					tooMany = true
					return
				}
				ids = append(ids, idKey(e.ID))
			}
		}
	})
	if err != nil {
		return nil, err
	}
	if tooMany {
		return nil, ErrTooMany
	}
	slices.SortFunc(ids, compareIDs)
	return slices.Clip(ids), nil
}

func compareIDs(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) }

// drop ends the session.
func (i *importer) drop() {
	i.active.Store(false)
	i.session = nil
	i.mu.Lock()
	i.taken, i.live = nil, nil
	i.mu.Unlock()
}

// expire ends a session that is silent.
func (i *importer) expire() {
	select {
	case i.working <- struct{}{}:
	default:
		return
	}
	defer i.unlock()
	if i.session != nil {
		i.end(context.Background())
	}
}

// end ends the session and stores how far it is.
func (i *importer) end(ctx context.Context) {
	if x := i.session; !x.dry && x.log != "" {
		if err := i.save(ctx, x); err != nil {
			i.log.Warn("how far an import is was not stored; its last entries are compared again", "error", err)
		}
	}
	i.drop()
}

// work translates the lines of a chunk and waits until what is new of them is durable. It
// does so to the end, whether anybody waits for it or not, unless the source ends: the
// inputs do not take what the import has taken, so that must get into the journal.
func (i *importer) work(ctx context.Context, x *session, c Chunk) (n Counted, err error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	go func() {
		select {
		case <-i.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	var waiting []chan struct{}
	u := &unit{imported: &Stats{}}
	send := func() error {
		if len(u.events) == 0 || c.DryRun {
			u = &unit{imported: &Stats{}}
			return nil
		}
		durable := make(chan struct{})
		u.done = func(error) { close(durable) }
		select {
		case i.units <- u:
		case <-i.ended:
			return ErrNotRunning
		}
		waiting = append(waiting, durable)
		u = &unit{imported: &Stats{}}
		return nil
	}
	maxUnit := min(unitBytes, 2*i.config.Limits.MaxEventBytes)
	duplicate := false
	take := func(id string, _ []byte) bool {
		duplicate = i.has(x, id, c.DryRun)
		return true // it teaches in any case
	}
	var line []*event.Event
	for l := range chunkLines(c.Data, c.Last) {
		n.Lines++
		line = translateLine(x.translator, line[:0], l, take)
		switch {
		case len(line) == 0:
			continue
		case duplicate:
			n.Duplicates++
			continue
		case line[0].Type == TypeQuarantined:
			n.Quarantined++
		}
		n.Accepted++
		n.Events += uint64(len(line))
		size := 0
		for _, e := range line {
			if e.Size() > i.config.Limits.MaxEventBytes && len(e.Data) > 0 && !c.DryRun {
				if err := i.claim(ctx, e); err != nil {
					return n, ErrNotRunning
				}
			}
			size += e.Size() + eventOverhead
		}
		if u.lines > 0 && (u.bytes+size > maxUnit || u.lines == unitLines) {
			if err := send(); err != nil {
				return n, err
			}
		}
		u.events = append(u.events, line...)
		u.bytes += size
		u.lines++
	}
	if err := send(); err != nil {
		return n, err
	}
	for _, durable := range waiting {
		select {
		case <-durable:
		case <-i.ended:
			return n, ErrNotRunning
		}
	}
	if !c.DryRun {
		i.mu.Lock()
		i.counts.add(Stats{Lines: n.Lines, Bytes: uint64(len(c.Data)), Quarantined: n.Quarantined, Duplicates: n.Duplicates, Events: n.Events})
		i.mu.Unlock()
	}
	return n, nil
}

// has reports whether an entry is in the journal or on its way to it, and else takes it.
func (i *importer) has(x *session, id string, dry bool) bool {
	key := idKey(id)
	if _, found := slices.BinarySearchFunc(x.ids, key, compareIDs); found {
		return true
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if _, ok := i.taken.find(key); ok {
		return true
	}
	if _, ok := i.live.find(key); ok {
		return true
	}
	if !dry {
		i.taken.add(key, seen{}, time.Now())
	}
	return false
}

// chunkLines yields the lines of a chunk.
func chunkLines(data []byte, last bool) func(yield func(tail.Line) bool) {
	return func(yield func(tail.Line) bool) {
		for len(data) > 0 {
			l := tail.Line{Kind: tail.Whole}
			text, rest, whole := bytes.Cut(data, []byte("\n"))
			if !whole && last {
				l.Kind = tail.Torn
			}
			l.Size = int64(len(text))
			l.Data = bytes.TrimLeft(bytes.TrimSuffix(text, []byte("\r")), "\x00")
			if data = rest; !yield(l) {
				return
			}
		}
	}
}

// importKey names what is stored about the import of a log.
func (i *importer) importKey(log string) string {
	return "import." + recordKey(i.config.Name) + "." + log
}

func (i *importer) load(ctx context.Context, log string) (r importRecord, snapshot []byte, err error) {
	if log == "" {
		return r, nil, nil
	}
	store, err := i.journal.Objects(ctx, sourceBucket)
	if err != nil {
		return r, nil, err
	}
	b, err := store.GetBytes(ctx, i.importKey(log))
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		return r, nil, nil
	}
	if err != nil {
		return r, nil, err
	}
	head, snapshot, _ := bytes.Cut(b, []byte("\n"))
	if err := json.Unmarshal(head, &r); err != nil || r.Version != 1 || r.Offset < 0 {
		return importRecord{}, nil, fmt.Errorf("what is stored about the import of log %s cannot be read (version %d)", log, r.Version)
	}
	return r, snapshot, nil
}

func (i *importer) save(ctx context.Context, x *session) error {
	ctx, cancel := context.WithTimeout(ctx, 6*saveTimeout)
	defer cancel()
	store, err := i.journal.Objects(ctx, sourceBucket)
	if err != nil {
		return err
	}
	b, err := json.Marshal(importRecord{Version: 1, Offset: x.offset, Complete: x.complete})
	if err != nil {
		return err
	}
	b = append(b, '\n')
	snapshot, err := x.translator.Snapshot()
	if err != nil {
		return err
	}
	b = append(b, snapshot...)
	_, err = store.PutBytes(ctx, i.importKey(x.log), b)
	x.saved = time.Now()
	return err
}
