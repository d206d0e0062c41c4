package hub

import (
	"slices"
	"sync"
)

// A chunk is the frames of some events of a batch, ready to be written. Groups
// that choose the same events in the same encoding share it. It is immutable.
type chunk struct {
	picks  []int32 // which events, ascending
	ends   []int32 // where the frame of each ends, counting from the first one's begin
	pieces []piece // the memory of the frames, in order
}

// A piece is some frames of a chunk that lie one after the other in memory.
type piece struct {
	begin int // of data, in the counting of ends
	data  []byte
}

// nothing is the chunk of a group for which a batch has nothing.
var nothing = new(chunk)

// size is how many bytes the frames have.
func (c *chunk) size() int {
	if len(c.ends) == 0 {
		return 0
	}
	return int(c.ends[len(c.ends)-1])
}

// begin is where frame k begins.
func (c *chunk) begin(k int) int {
	if k == 0 {
		return 0
	}
	return int(c.ends[k-1])
}

// from is the first frame that is of event number i or a later one.
func (c *chunk) from(i int) int {
	if i == 0 {
		return 0
	}
	k, _ := slices.BinarySearch(c.picks, int32(i))
	return k
}

// frameAt is the frame that has the byte at offset.
func (c *chunk) frameAt(offset int) int {
	k, found := slices.BinarySearch(c.ends, int32(offset))
	if found {
		k++
	}
	return k
}

// pieceAt is the piece that has the byte at offset.
func (c *chunk) pieceAt(offset int) int {
	i, found := slices.BinarySearchFunc(c.pieces, offset, func(p piece, offset int) int { return p.begin - offset })
	if !found {
		i--
	}
	return i
}

// bytes appends the bytes from begin to end to dst.
func (c *chunk) bytes(dst []byte, begin, end int) []byte {
	for i := c.pieceAt(begin); begin < end; i++ {
		p := c.pieces[i]
		part := p.data[begin-p.begin : min(len(p.data), end-p.begin)]
		dst = append(dst, part...)
		begin += len(part)
	}
	return dst
}

// A sheet has the frames of a batch in one encoding. No event is encoded twice,
// and frames that several groups have chosen are in memory once, however
// different their other choices are.
type sheet struct {
	mu     sync.Mutex
	frames []frame           // by event
	blocks [][]byte          // the memory of the frames
	chunks map[string]*chunk // by picks.set
}

// A frame is where the frame of an event is. Batches are far smaller than 2 GB.
type frame struct {
	block      int32 // number of the block, from 1; 0: not encoded yet
	begin, end int32
}

// chunk returns the chunk of what a group has picked, and how much memory that
// took which others do not use already.
func (s *sheet) chunk(p *picks, events Batch, g *group) (*chunk, int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.chunks[string(p.set)]; c != nil {
		return c, 0
	}
	bytes := s.encode(p, events, g)
	c := &chunk{picks: slices.Clone(p.list), ends: make([]int32, 0, len(p.list))}
	begin, run := int32(0), s.frames[p.list[0]]
	end := begin + run.end - run.begin
	c.ends = append(c.ends, end)
	for _, i := range p.list[1:] {
		f := s.frames[i]
		if f.block != run.block || f.begin != run.end {
			c.pieces = append(c.pieces, piece{int(begin), s.memory(run)})
			begin, run = end, f
		}
		run.end = f.end
		end += f.end - f.begin
		c.ends = append(c.ends, end)
	}
	c.pieces = append(c.pieces, piece{int(begin), s.memory(run)})
	if s.chunks == nil {
		s.chunks = make(map[string]*chunk)
	}
	s.chunks[string(p.set)] = c
	return c, bytes + int64(8*len(c.picks)+32*cap(c.pieces)+len(p.set))
}

func (s *sheet) memory(f frame) []byte { return s.blocks[f.block-1][f.begin:f.end:f.end] }

// encode makes the frames that are missing, and returns how much memory that took.
func (s *sheet) encode(p *picks, events Batch, g *group) (bytes int64) {
	if s.frames == nil {
		s.frames = make([]frame, events.Len())
		bytes = int64(12 * len(s.frames))
	}
	missing := 0
	for _, i := range p.list {
		if s.frames[i].block == 0 {
			missing++
		}
	}
	if missing == 0 {
		return bytes
	}
	number := int32(len(s.blocks) + 1)
	block := make([]byte, 0, g.estimate(missing))
	for _, i := range p.list {
		if s.frames[i].block != 0 {
			continue
		}
		sequence := ""
		if g.encoding.sequence {
			sequence = events.Position(int(i)).String()
		}
		begin := len(block)
		block = g.encoding.appendFrame(block, events.Event(int(i)), sequence)
		s.frames[i] = frame{number, int32(begin), int32(len(block))}
	}
	s.blocks = append(s.blocks, block)
	g.frameBytes.Store(int64(len(block)/missing) + 1)
	return bytes + int64(cap(block))
}

// picks is the events of a batch that a group chooses: in order, and as a bit set,
// by which equal ones are found.
type picks struct {
	list []int32
	set  []byte
}

// allPicks are to be used again.
var allPicks = sync.Pool{New: func() any { return new(picks) }}

// reset forgets what was picked, for a batch of n events.
func (p *picks) reset(n int) {
	p.list = p.list[:0]
	p.set = append(p.set[:0], make([]byte, (n+7)/8)...)
}

func (p *picks) add(i int) {
	p.list = append(p.list, int32(i))
	p.set[i/8] |= 1 << (i % 8)
}
