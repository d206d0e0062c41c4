package filestore

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/directory"
	"github.com/tocsin-events/tocsin/internal/position"
)

// The file with the dead letters begins with lettersMagic. Records follow, little-endian:
//
//	0  recordMagic
//	4  length of the payload
//	8  kind: kindLetter, kindRemoved (the payload is ids), kindLast (no payload)
//	9  id of the letter, or the last id that was given
//	17 CRC-32C of the payload
//	21 CRC-32C of the 21 bytes before
//
// A record that a crash cut off is at the end, and is left out.
const (
	lettersMagic = "tocsin letters 1"
	recordHeader = 25

	kindLetter  = 'L'
	kindRemoved = 'R'
	kindLast    = 'N'

	maxRecordBytes = 64 << 20
	// wasteBytes is how much of the file may be of letters that are none any more, beyond as
	// much as there is of others.
	wasteBytes = 1 << 20
)

var (
	recordMagic = [4]byte{0xf5, 'T', 'D', 'L'} // 0xf5 occurs in no UTF-8
	castagnoli  = crc32.MakeTable(crc32.Castagnoli)
)

// letter is where a dead letter is.
type letter struct {
	id     uint64
	at     position.Position
	offset int64  // of its record in the file
	size   int64  // of the record
	data   []byte // its payload, of a store in memory
}

// storedLetter is the payload of a letter.
type storedLetter struct {
	At       string          `json:"at"`
	Cause    string          `json:"cause"`
	Outcome  string          `json:"outcome"`
	Attempts int             `json:"attempts"`
	First    time.Time       `json:"first"`
	Last     time.Time       `json:"last"`
	Status   int             `json:"status,omitempty"`
	Reason   string          `json:"reason"`
	Event    json.RawMessage `json:"event"` // a CloudEvent
}

func encodeLetter(l *deliver.DeadLetter) ([]byte, error) {
	if l.Event == nil {
		return nil, errors.New("a dead letter without an event")
	}
	return json.Marshal(storedLetter{
		At: l.At.String(), Cause: l.Cause, Outcome: l.Outcome.String(), Attempts: l.Attempts, First: l.First, Last: l.Last,
		Status: l.Status, Reason: l.Reason, Event: event.AppendCloudEvent(nil, l.Event, ""),
	})
}

func decodeLetter(id uint64, payload []byte) (l deliver.DeadLetter, err error) {
	var stored storedLetter
	if err := json.Unmarshal(payload, &stored); err != nil {
		return l, err
	}
	if l.At, err = position.Parse(stored.At); err != nil {
		return l, err
	}
	if l.Event, err = event.ParseCloudEvent(stored.Event); err != nil {
		return l, err
	}
	l.ID, l.Cause = id, stored.Cause
	l.Failure = deliver.Failure{
		Outcome: deliver.Doubtful, Attempts: stored.Attempts, First: stored.First, Last: stored.Last,
		Status: stored.Status, Reason: stored.Reason,
	}
	for o := deliver.Delivered; o <= deliver.Gone; o++ {
		if o.String() == stored.Outcome {
			l.Outcome = o
		}
	}
	return l, nil
}

func appendRecord(dst []byte, kind byte, id uint64, payload []byte) []byte {
	start := len(dst)
	dst = append(dst, recordMagic[:]...)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(payload)))
	dst = append(dst, kind)
	dst = binary.LittleEndian.AppendUint64(dst, id)
	dst = binary.LittleEndian.AppendUint32(dst, crc32.Checksum(payload, castagnoli))
	dst = binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
	return append(dst, payload...)
}

// record is what a header says.
type record struct {
	kind   byte
	id     uint64
	length int
	sum    uint32
}

func parseRecord(b []byte) (r record, ok bool) {
	if len(b) < recordHeader || !bytes.Equal(b[:4], recordMagic[:]) ||
		binary.LittleEndian.Uint32(b[21:]) != crc32.Checksum(b[:21], castagnoli) {
		return r, false
	}
	length := binary.LittleEndian.Uint32(b[4:])
	r = record{kind: b[8], id: binary.LittleEndian.Uint64(b[9:]), length: int(length), sum: binary.LittleEndian.Uint32(b[17:])}
	return r, length <= maxRecordBytes
}

// openLetters reads the file, and makes it if it is not there.
func (s *Store) openLetters() error {
	path := s.path(lettersSuffix)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return s.rewrite()
	}
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	end, err := s.scan(f, info.Size())
	if err != nil {
		f.Close()
		return err
	}
	s.file, s.size = f, end
	if s.damaged > 0 {
		s.log.Error("dead letters cannot be read; the file with them is kept aside", "sink", s.o.Name, "records", s.damaged, "file", path+".damaged")
		if err := copyFile(f, info.Size(), path+".damaged"); err != nil {
			return err
		}
		return s.rewrite()
	}
	if end < info.Size() {
		return f.Truncate(end)
	}
	return nil
}

func copyFile(from io.ReaderAt, size int64, path string) error {
	to, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, io.NewSectionReader(from, 0, size))
	return errors.Join(err, to.Close())
}

// scan finds the letters in a file, and returns where its records end.
func (s *Store) scan(f io.ReaderAt, size int64) (end int64, err error) {
	head := make([]byte, len(lettersMagic))
	if n, err := f.ReadAt(head, 0); err != nil && err != io.EOF {
		return 0, err
	} else if string(head[:n]) != lettersMagic {
		s.damaged++
		return 0, nil
	}
	at := int64(len(head))
	for at < size {
		b := make([]byte, recordHeader)
		if n, err := f.ReadAt(b, at); n < recordHeader {
			if err == io.EOF {
				return at, nil // torn
			}
			return 0, err
		}
		r, ok := parseRecord(b)
		if !ok || at+recordHeader+int64(r.length) > size {
			next, err := findRecord(f, at+1, size)
			if err != nil {
				return 0, err
			}
			if next < 0 {
				return at, nil // torn
			}
			s.damaged++
			at = next
			continue
		}
		payload := make([]byte, r.length)
		if _, err := f.ReadAt(payload, at+recordHeader); err != nil {
			return 0, err
		}
		whole := recordHeader + int64(r.length)
		if crc32.Checksum(payload, castagnoli) != r.sum || !s.apply(r, payload, at) {
			if at+whole == size {
				return at, nil // torn
			}
			s.damaged++
		}
		at += whole
	}
	return at, nil
}

// findRecord looks for the next record, -1 for none.
func findRecord(f io.ReaderAt, at, size int64) (int64, error) {
	const blockBytes = 256 << 10
	block := make([]byte, blockBytes+recordHeader)
	for at < size {
		n, err := f.ReadAt(block, at)
		if err != nil && err != io.EOF {
			return -1, err
		}
		for i := 0; i < min(n, blockBytes); i++ {
			if block[i] != recordMagic[0] {
				continue
			}
			if _, ok := parseRecord(block[i:n]); ok {
				return at + int64(i), nil
			}
		}
		at += blockBytes
	}
	return -1, nil
}

// apply does what a record of the file says.
func (s *Store) apply(r record, payload []byte, offset int64) bool {
	switch r.kind {
	case kindLetter:
		l, err := decodeLetter(r.id, payload)
		if n := len(s.letters); err != nil || n > 0 && r.id <= s.letters[n-1].id {
			return false
		}
		s.insert(letter{id: r.id, at: l.At, offset: offset, size: recordHeader + int64(len(payload))})
	case kindRemoved:
		for len(payload) > 0 {
			id, n := binary.Uvarint(payload)
			if n <= 0 {
				return false
			}
			s.remove(id)
			payload = payload[n:]
		}
	case kindLast:
		s.last = max(s.last, r.id)
	default:
		return false
	}
	return true
}

// insert adds a letter, instead of one of the same position.
func (s *Store) insert(l letter) {
	if old, ok := s.at[l.at]; ok {
		s.remove(old)
	}
	s.letters = append(s.letters, l)
	s.at[l.at] = l.id
	s.last = max(s.last, l.id)
	s.bytes += l.size
}

func (s *Store) remove(id uint64) {
	i := s.find(id)
	if i == len(s.letters) || s.letters[i].id != id {
		return
	}
	l := &s.letters[i]
	s.bytes -= l.size
	delete(s.at, l.at)
	if i == 0 { // as most that are removed
		s.letters[0] = letter{}
		s.letters = s.letters[1:]
		return
	}
	s.letters = append(s.letters[:i], s.letters[i+1:]...)
}

// Add implements [deliver.DeadLetters].
func (s *Store) Add(ctx context.Context, letters []deliver.DeadLetter) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	payloads := make([][]byte, len(letters))
	for i := range letters {
		p, err := encodeLetter(&letters[i])
		if err == nil && len(p) > maxRecordBytes {
			err = fmt.Errorf("it has %d bytes", len(p))
		}
		if err != nil {
			return fmt.Errorf("set events of sink %s aside: %w", s.o.Name, err)
		}
		payloads[i] = p
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	count, size := len(s.letters), s.bytes
	for i := range letters {
		if old, ok := s.at[letters[i].At]; ok {
			count--
			size -= s.letters[s.find(old)].size
		}
		count++
		size += recordHeader + int64(len(payloads[i]))
	}
	if count > s.o.MaxLetters || size > s.o.MaxBytes {
		return fmt.Errorf("%w: sink %s has %d dead letters of %d bytes; redrive or purge some", deliver.ErrFull, s.o.Name, len(s.letters), s.bytes)
	}
	var text []byte
	added := make([]letter, len(letters))
	for i, p := range payloads {
		id := s.last + 1 + uint64(i)
		added[i] = letter{id: id, at: letters[i].At, offset: s.size + int64(len(text)), size: recordHeader + int64(len(p))}
		if s.o.Dir == "" {
			added[i].data = p
			continue
		}
		text = appendRecord(text, kindLetter, id, p)
	}
	if err := s.write(text); err != nil {
		return fmt.Errorf("set events of sink %s aside: %w", s.o.Name, err)
	}
	for _, l := range added {
		s.insert(l)
	}
	s.tidy()
	return nil
}

// write adds records to the file and syncs it.
func (s *Store) write(text []byte) error {
	if s.o.Dir == "" {
		return nil
	}
	if s.failed {
		if err := s.rewrite(); err != nil {
			return err
		}
	}
	_, err := s.file.WriteAt(text, s.size)
	if err == nil {
		err = directory.SyncData(s.file)
	}
	if err != nil {
		s.failed = true
		return err
	}
	s.size += int64(len(text))
	return nil
}

// rewrite makes a new file with the letters that there are.
func (s *Store) rewrite() (err error) {
	path := s.path(lettersSuffix)
	f, err := os.OpenFile(path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	at := int64(0)
	put := func(b []byte) error {
		_, err := f.WriteAt(b, at)
		at += int64(len(b))
		return err
	}
	if err := put(appendRecord([]byte(lettersMagic), kindLast, s.last, nil)); err != nil {
		return err
	}
	offsets := make([]int64, len(s.letters))
	for i := range s.letters {
		p, err := s.payload(&s.letters[i])
		if err != nil {
			return err
		}
		offsets[i] = at
		if err := put(appendRecord(nil, kindLetter, s.letters[i].id, p)); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	if err := directory.Sync(s.o.Dir); err != nil {
		s.failed = true // what is open is not the file of the path any more
		return err
	}
	if s.file != nil {
		s.file.Close()
	}
	for i := range s.letters {
		s.letters[i].offset = offsets[i]
	}
	s.file, s.size, s.failed = f, at, false
	return nil
}

// payload reads a letter.
func (s *Store) payload(l *letter) ([]byte, error) {
	if l.data != nil {
		return l.data, nil
	}
	b := make([]byte, l.size)
	if _, err := s.file.ReadAt(b, l.offset); err != nil {
		return nil, err
	}
	r, ok := parseRecord(b)
	if !ok || r.id != l.id || crc32.Checksum(b[recordHeader:], castagnoli) != r.sum {
		return nil, fmt.Errorf("dead letter %d of sink %s is damaged", l.id, s.o.Name)
	}
	return b[recordHeader:], nil
}

func (s *Store) read(l *letter) (deliver.DeadLetter, error) {
	payload, err := s.payload(l)
	var letter deliver.DeadLetter
	if err == nil {
		letter, err = decodeLetter(l.id, payload)
	}
	if err != nil {
		return deliver.DeadLetter{}, &deliver.UnreadableLetter{ID: l.id, Err: err}
	}
	return letter, nil
}

// List implements [deliver.DeadLetters].
func (s *Store) List(ctx context.Context, after uint64, limit int) ([]deliver.DeadLetter, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil || after+1 == 0 {
		return nil, err
	}
	var list []deliver.DeadLetter
	for i := s.find(after + 1); i < len(s.letters) && len(list) < limit; i++ {
		l, err := s.read(&s.letters[i])
		if broken := (*deliver.UnreadableLetter)(nil); len(list) > 0 && errors.As(err, &broken) {
			return list, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list dead letters: %w", err)
		}
		list = append(list, l)
	}
	return list, nil
}

func (s *Store) usable(ctx context.Context) error {
	if s.closed {
		return errClosed
	}
	return ctx.Err()
}

// Get implements [deliver.DeadLetters].
func (s *Store) Get(ctx context.Context, id uint64) (deliver.DeadLetter, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return deliver.DeadLetter{}, err
	}
	i := s.find(id)
	if i == len(s.letters) || s.letters[i].id != id {
		return deliver.DeadLetter{}, fmt.Errorf("%w: %d", deliver.ErrNoLetter, id)
	}
	return s.read(&s.letters[i])
}

// Remove implements [deliver.DeadLetters].
func (s *Store) Remove(ctx context.Context, ids ...uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return err
	}
	return s.removeAll(ids)
}

func (s *Store) removeAll(ids []uint64) error {
	var payload []byte
	for _, id := range ids {
		if i := s.find(id); i < len(s.letters) && s.letters[i].id == id {
			payload = binary.AppendUvarint(payload, id)
		}
	}
	if payload == nil {
		return nil
	}
	if err := s.write(appendRecord(nil, kindRemoved, 0, payload)); err != nil {
		return fmt.Errorf("remove dead letters of sink %s: %w", s.o.Name, err)
	}
	for _, id := range ids {
		s.remove(id)
	}
	s.tidy()
	return nil
}

// tidy makes the file smaller when most of it is of letters that are none any more.
func (s *Store) tidy() {
	if s.o.Dir == "" || s.size <= 2*s.bytes+wasteBytes {
		return
	}
	if err := s.rewrite(); err != nil { // what was changed is changed all the same
		s.log.Warn("the file with the dead letters could not be made smaller", "sink", s.o.Name, "error", err)
	}
}

// Purge implements [deliver.DeadLetters].
func (s *Store) Purge(ctx context.Context, through uint64) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return 0, err
	}
	var ids []uint64
	for _, l := range s.letters {
		if l.id > through {
			break
		}
		ids = append(ids, l.id)
	}
	return uint64(len(ids)), s.removeAll(ids)
}

// Count implements [deliver.DeadLetters].
func (s *Store) Count(ctx context.Context) (letters, bytes uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return 0, 0, err
	}
	return uint64(len(s.letters)), uint64(s.bytes), nil
}
