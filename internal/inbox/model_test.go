package inbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// model is what an inbox should have: a list.
type model struct {
	t       *testing.T
	random  *rand.Rand
	o       Options
	disk    *simDisk
	x       *Inbox
	ran     string
	mu      sync.Mutex
	log     []string
	entries []*entry // in order
	at      Position // of the reader
	read    []Position
	stored  Position // where the consumer would go on
	release Position
	next    int
	found   int64
	hurt    bool // syncs failed or the power was cut: what is not durable may be gone
}

type entry struct {
	first, end  Position
	data        string // of a line
	lost, bytes uint64 // of a drop
	kept        bool   // is in a file, and so may not be missing while the machine goes on
	must        bool   // may not be missing
	epoch       uint64
}

func (m *model) fatalf(format string, args ...any) {
	m.t.Helper()
	m.show()
	if testing.Verbose() {
		for _, line := range m.log {
			m.t.Log(line)
		}
	}
	m.t.Fatalf("%s: %s", m.ran, fmt.Sprintf(format, args...))
}

// show notes what the inbox has.
func (m *model) show() {
	m.x.mu.Lock()
	defer m.x.mu.Unlock()
	m.note("written to %v, end %v, synced %v, acked %v, %+v", m.x.writtenTo, m.x.end(), m.x.synced, m.x.acked, m.x.trouble)
	for _, g := range m.x.segments {
		m.note("%+v", *g)
	}
}

func (m *model) Write(b []byte) (int, error) {
	m.note("%s", b)
	return len(b), nil
}

func (m *model) note(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.log = append(m.log, fmt.Sprintf(format, args...))
}

func (m *model) open() {
	m.note("open at %v", m.stored)
	m.o.disk = m.disk
	m.o.Logger = slog.New(slog.NewTextHandler(m, nil))
	m.disk.mu.Lock()
	m.disk.writes, m.disk.syncs, m.disk.opens = nil, nil, nil
	m.disk.mu.Unlock()
	x, err := Open(m.o)
	if err != nil {
		m.fatalf("%v", err)
	}
	m.x = x
	if err := x.Seek(m.stored); err != nil {
		m.fatalf("%v", err)
	}
	m.at, m.read = m.stored, nil
	m.found = x.Stats().FileBytes // a power cut may have brought removed files back
}

func (m *model) put() {
	n := 1 + m.random.IntN(6)
	var all []Line
	var bytes uint64
	for range n {
		size := m.random.IntN(120)
		if m.random.IntN(20) == 0 {
			size = m.random.IntN(6000)
		}
		text := fmt.Sprintf("%d %s", m.next, string(make([]byte, size)))
		m.next++
		all = append(all, Line{Data: []byte(text), Size: int64(len(text))})
		bytes += uint64(len(text))
	}
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Second)
	defer cancel()
	m.x.mu.Lock()
	before := m.x.end()
	m.x.mu.Unlock()
	after, err := m.x.Put(ctx, all)
	switch {
	case err == nil:
		if after.Line != before.Line+uint64(n) {
			m.fatalf("%d lines from %v to %v", n, before, after)
		}
		for i, l := range all {
			first := Position{before.Epoch, before.Line + uint64(i)}
			m.entries = append(m.entries, &entry{first: first, end: Position{first.Epoch, first.Line + 1}, data: string(l.Data), epoch: first.Epoch})
		}
	case errors.Is(err, ErrFull) && m.o.WhenFull == Drop:
		m.entries = append(m.entries, &entry{first: before, end: after, lost: uint64(n), bytes: bytes, epoch: before.Epoch})
	case errors.Is(err, context.DeadlineExceeded) && m.o.WhenFull == Block:
	default:
		m.fatalf("put: %v", err)
	}
}

// readBatch reads once and compares.
func (m *model) readBatch() bool {
	ctx, cancel := context.WithTimeout(m.t.Context(), 10*time.Millisecond)
	defer cancel()
	var b Batch
	if err := m.x.Read(ctx, &b); err != nil {
		if !errors.Is(err, context.DeadlineExceeded) {
			m.fatalf("read: %v", err)
		}
		m.note("read nothing at %v", m.at)
		return false
	}
	first := Position{b.epoch, b.first}
	if first.Epoch == m.at.Epoch && first != m.at && m.at != m.stored {
		m.fatalf("a batch begins at %v, the reader was at %v", first, m.at)
	}
	m.skip(first, "nothing")
	after := b.After()
	switch {
	case b.Lost == nil:
		for i, l := range b.Lines {
			end := b.Through(i)
			e := m.entry(end)
			if e == nil || e.data != string(l.Data) {
				m.fatalf("at %v is %.20q, want %+v", end, l.Data, e)
			}
		}
		if b.Through(len(b.Lines)-1) != after {
			m.fatalf("%d lines from %v to %v", len(b.Lines), first, after)
		}
		m.at = after
	case b.Lost.Reason == Full:
		var lost, bytes uint64
		for _, e := range m.entries {
			if e.first.Compare(first) >= 0 && e.end.Compare(after) <= 0 {
				if e.data != "" {
					m.fatalf("a line at %v is said to be dropped", e.first)
				}
				lost, bytes = lost+e.lost, bytes+e.bytes
			}
		}
		if lost != b.Lost.Lines || bytes != b.Lost.Bytes || lost == 0 {
			m.fatalf("%+v, want %d, %d", b.Lost, lost, bytes)
		}
		m.at = after
	case b.Lost.Reason == Crash:
		if first.Line > 1 || first.Epoch == 1 {
			m.fatalf("crash at %v", first)
		}
		m.at = after
	default:
		if !m.hurt {
			m.fatalf("%+v from %v to %v", b.Lost, first, after)
		}
		m.skip(after, "damage")
	}
	m.read = append(m.read, m.at)
	return true
}

func (m *model) entry(end Position) *entry {
	i, ok := slices.BinarySearchFunc(m.entries, end, func(e *entry, p Position) int { return e.end.Compare(p) })
	if !ok {
		return nil
	}
	return m.entries[i]
}

// skip takes the reader to a position, which must lose nothing that is promised.
func (m *model) skip(to Position, why string) {
	for _, e := range m.entries {
		if e.first.Compare(m.at) >= 0 && e.end.Compare(to) <= 0 && (e.must || e.kept) {
			m.fatalf("%v was promised, %s took the reader from %v to %v", e.first, why, m.at, to)
		}
		// Silently only the end of an epoch may be missing, or the beginning of all.
		if why != "damage" && !m.at.IsZero() && e.first.Compare(m.at) >= 0 && e.end.Compare(to) <= 0 && e.epoch == to.Epoch {
			m.fatalf("%v is missing", e.first)
		}
	}
	m.at = later(m.at, to)
}

// promise notes that nothing before a position may be missing.
func (m *model) promise(p Position) {
	m.note("promise %v", p)
	for _, e := range m.entries {
		if e.end.Compare(p) <= 0 && (e.epoch == p.Epoch || e.kept) {
			e.must = true
		}
	}
}

func (m *model) restart() {
	how := m.random.IntN(3)
	m.note("restart %d", how)
	m.show()
	d := m.disk
	switch how {
	case 0: // in good order
		m.disk.mu.Lock()
		failing := m.disk.writes != nil || m.disk.syncs != nil || m.disk.opens != nil
		m.disk.mu.Unlock()
		ctx, cancel := context.WithTimeout(m.t.Context(), time.Minute)
		err := m.x.Close(ctx)
		cancel()
		if err == nil {
			m.promise(m.x.end())
		} else if !failing && m.disk.capacity == 0 && m.x.total < m.o.MaxBytes-2*m.o.SegmentBytes {
			m.fatalf("close: %v", err)
		}
		m.disk = d.kill()
	default:
		m.x.mu.Lock()
		lines, _ := m.x.queue.waiting()
		written, losing := m.x.writtenTo, m.x.queue.losing()
		m.x.mu.Unlock()
		if how == 1 {
			m.disk = d.kill()
			if lines == 0 && !losing {
				m.note("kept %v", written)
				for _, e := range m.entries {
					if e.epoch == written.Epoch {
						e.kept = true
					}
				}
			}
		} else {
			m.hurt = true
			m.disk = d.cutPower()
			for _, e := range m.entries {
				e.kept = false
			}
		}
		d.mu.Lock()
		d.writes, d.syncs, d.opens = nil, nil, nil
		d.capacity = 0
		d.mu.Unlock()
		ctx, cancel := context.WithCancel(m.t.Context())
		cancel()
		_ = m.x.Close(ctx) // on the old disk
	}
	m.open()
}

func (m *model) step() {
	if m.random.IntN(2) == 0 {
		synctest.Wait()
	}
	switch m.random.IntN(16) {
	case 0, 1, 2, 3, 4:
		m.put()
	case 5, 6, 7:
		m.readBatch()
	case 8, 9:
		if len(m.read) == 0 {
			return
		}
		i := m.random.IntN(len(m.read))
		p := m.read[i]
		m.read = m.read[i+1:]
		m.x.Acknowledge(p)
		m.stored = later(m.stored, p)
		if m.random.IntN(2) == 0 {
			m.x.Release(p)
			m.release = later(m.release, p)
		}
	case 10:
		if len(m.entries) == 0 {
			return
		}
		e := m.entries[len(m.entries)-1-m.random.IntN(min(len(m.entries), 4))]
		if e.epoch != m.x.epoch {
			return
		}
		ctx, cancel := context.WithTimeout(m.t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := m.x.Durable(ctx, e.end); err == nil {
			m.promise(e.end)
		} else if !errors.Is(err, context.DeadlineExceeded) {
			m.fatalf("durable: %v", err)
		}
	case 11, 12:
		time.Sleep(time.Duration(m.random.IntN(3000)) * time.Millisecond)
	case 13:
		m.disk.mu.Lock()
		switch m.random.IntN(6) {
		case 0:
			m.disk.writes = syscall.EIO
		case 1:
			m.disk.syncs = syscall.EIO
			m.hurt = true
		case 2:
			m.disk.capacity = 1 + m.random.IntN(m.disk.used()+1)
		case 3:
			m.disk.opens = syscall.EMFILE
		default:
			m.disk.writes, m.disk.syncs, m.disk.opens, m.disk.capacity = nil, nil, nil, 0
		}
		m.disk.mu.Unlock()
	case 14:
		s := m.x.Stats()
		_ = m.x.Health()
		if s.FileBytes > max(m.o.MaxBytes, m.found) {
			m.fatalf("%+v", s)
		}
	case 15:
		if m.random.IntN(8) == 0 {
			m.restart()
		}
	}
}

// Random use, with disks that fail, kills and power cuts, against a list.
func TestCrashAgainstList(t *testing.T) {
	rounds := 150
	if n, err := strconv.Atoi(os.Getenv("TOCSIN_FAULT_ROUNDS")); err == nil {
		rounds = 20 * n
	}
	if testing.Short() {
		rounds = 20
	}
	for seed := range uint64(rounds) {
		runModel(t, seed)
		if t.Failed() {
			return
		}
	}
}

func runModel(t *testing.T, seed uint64) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(seed, 1))
		m := &model{t: t, random: random, disk: newSimDisk(rand.New(rand.NewPCG(seed, 2))), ran: fmt.Sprintf("seed %d", seed)}
		m.o = Options{
			Dir: dir, SegmentBytes: 4 << 10, MaxBytes: int64(random.IntN(20)+8) * 4 << 10,
			ReserveBytes: int64(random.IntN(3)) * 8 << 10, MemoryBytes: int64(random.IntN(20)+4) << 10,
			WhenFull: WhenFull(random.IntN(2)), SyncInterval: time.Duration(1+random.IntN(1000)) * time.Millisecond,
		}
		m.open()
		defer func() {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			_ = m.x.Close(ctx)
		}()
		for range 400 {
			m.step()
		}
		// When the disk works again, everything is there.
		m.disk.mu.Lock()
		m.disk.writes, m.disk.syncs, m.disk.opens, m.disk.capacity = nil, nil, nil, 0
		m.disk.mu.Unlock()
		for nothing := 0; nothing < 3; nothing++ {
			time.Sleep(time.Minute)
			synctest.Wait()
			if m.readBatch() {
				nothing = 0
			}
			m.x.Release(m.at) // or there may be no room for what waits in memory
		}
		m.x.mu.Lock()
		end := m.x.end()
		m.x.mu.Unlock()
		if m.at != end && end.Line > 0 {
			m.fatalf("everything was read up to %v, the end is %v", m.at, end)
		}
		time.Sleep(time.Minute)
		if err := m.x.Health(); err != nil {
			m.fatalf("health: %v", err)
		}
		if s := m.x.Stats(); s.MemoryLines+s.DiskLines > 0 || s.MemoryUsed != 0 {
			m.fatalf("%+v", s)
		}
		if err := m.x.Close(t.Context()); err != nil {
			m.fatalf("close: %v", err)
		}
	})
}
