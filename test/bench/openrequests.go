package main

import (
	"bytes"
	"runtime"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/journal"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit"
	"github.com/tocsin-events/tocsin/internal/trace"
)

// unanswered is a tracer that sees only the request entries of an audit log.
type unanswered struct {
	log        *auditLog
	translator *vaultaudit.Translator
	tracer     *trace.Tracer
	at         journal.Position
}

func newOpenRequests(log *auditLog) (*unanswered, error) {
	tracer, err := trace.NewTracer(trace.Options{})
	if err != nil {
		return nil, err
	}
	return &unanswered{
		log:        log,
		translator: vaultaudit.NewTranslator(vaultaudit.TranslatorConfig{Name: "bench"}),
		tracer:     tracer,
		at:         journal.Position{Seq: 1},
	}, nil
}

// fill gives entries to the tracer until n requests are open or it gives some up, and
// returns what they take of the heap and how many they are.
func (u *unanswered) fill(n int) (heap float64, open int) {
	before := heapInUse()
	var events []*event.Event
	for open < n {
		for line := range bytes.Lines(bytes.Clone(u.log.next())) {
			events = u.translator.Translate(events[:0], line)
			if events[0].Type == vaultaudit.TypeRequest && u.tracer.Stats().Open < n {
				u.tracer.Add(nil, events[0], u.at)
				u.at.Index++
				u.at.Ordinal++
			}
		}
		u.tracer.Flush(nil)
		u.at.Seq++
		u.at.Index = 0
		stats := u.tracer.Stats()
		if open = stats.Open; stats.Evicted > 0 {
			break
		}
	}
	clear(events)
	u.translator = nil
	heap = heapInUse() - before
	runtime.KeepAlive(u)
	return heap, open
}

func heapInUse() float64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
