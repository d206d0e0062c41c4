package eventfields

import (
	"hash/maphash"

	"github.com/tocsin-events/tocsin/internal/rule/field"
	"github.com/tocsin-events/tocsin/internal/sourceplugin"
)

// pairs remembers when requests began, until their response entries come: a bounded number of
// them, of which the oldest are forgotten first, more or less.
type pairs struct {
	*begun
	node  int   // of the id of the request
	query query // for what is asked when nobody has
}

type begun struct {
	seed maphash.Seed
	sets [pairSets][pairWays]pair
}

type pair struct {
	key   uint64 // of source and id of the request; 0: none
	nanos int64  // when it began
}

const (
	pairSets = 1 << 13
	pairWays = 4
)

func (p *begun) keyOf(source, id string) uint64 {
	h := maphash.String(p.seed, source)
	return (h*0x9E3779B97F4A7C15 ^ maphash.String(p.seed, id)) | 1
}

func (p *begun) note(source, id string, nanos int64) {
	key := p.keyOf(source, id)
	set := &p.sets[key>>1%pairSets]
	at := 0 // the one to replace: this one, else one that is free, else the oldest
	for i := range set {
		if set[i].key == key {
			at = i
			break
		}
		if set[i].nanos < set[at].nanos {
			at = i
		}
	}
	set[at] = pair{key, nanos}
}

func (p *begun) began(source, id string) (nanos int64, ok bool) {
	key := p.keyOf(source, id)
	for _, x := range p.sets[key>>1%pairSets] {
		if x.key == key {
			return x.nanos, true
		}
	}
	return 0, false
}

// metadataRequestID is the key of the metadata under which entries have the id of their request.
const metadataRequestID = "request_id"

// requestID returns the id of the request of an entry.
func (r *Reader) requestID(q *query) string {
	if id, ok := r.e.Metadata.Text(metadataRequestID); ok {
		return id
	}
	if !r.audited(q) {
		return ""
	}
	return r.textAt(q, r.pairs.node)
}

// noteRequest notes when the request of a request entry began.
func (r *Reader) noteRequest() {
	if id := r.requestID(&r.pairs.query); id != "" {
		r.pairs.note(r.e.Source, id, r.nanos)
	}
}

// duration is how long a request took, in units of so many nanoseconds.
func duration(name string, t sourceplugin.FieldType, description string, unit uint64) definition {
	d := plain(name, t, description, nil)
	d.bind = func(r *Reader, q *query) {
		if r.pairs == nil {
			r.pairs = &pairs{begun: &begun{seed: maphash.MakeSeed()}, node: r.pick.want(0, "request", "id")}
			r.pairs.query.field = q.field
		}
		q.get = func(r *Reader, q *query) []field.Element {
			if r.e.Type != typeResponse {
				return nil
			}
			id := r.requestID(q)
			if id == "" {
				return nil
			}
			began, ok := r.pairs.began(r.e.Source, id)
			if !ok || began > r.nanos {
				return nil
			}
			return q.number(uint64(r.nanos-began) / unit)
		}
	}
	return d
}
