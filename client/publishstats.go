package client

// Stats say what a [Publisher] did since it was made. Each event that it took is
// acknowledged, refused, lost, or among the Waiting.
type Stats struct {
	// Taken are the events that SendEvent, Queue and Publish took, and those that a
	// former process left in the spool.
	Taken uint64
	// Waiting are those for which the hub has not answered. Of these, Unsafe are only in
	// memory, the others in the spool.
	Waiting, Unsafe int
	// QueueBytes is what is used of MaxQueueBytes, SpoolBytes what is used of the
	// spool's MaxBytes.
	QueueBytes int
	SpoolBytes int64
	// Acknowledged are durable in the hub. Of these, Duplicates were there already.
	Acknowledged, Duplicates uint64
	// Refused are those that the hub does not want.
	Refused uint64
	// Lost were in the spool and cannot be read.
	Lost uint64
	// Dropped were not taken, because the queue was full.
	Dropped uint64
	// Retries is how many requests failed and were repeated.
	Retries uint64
	// LastError is why the last of them failed, or the last write to the spool; nil if
	// none has.
	LastError error
}

// Stats returns the counters of this moment. Those of a nil Publisher are zero.
func (p *Publisher) Stats() Stats {
	if p == nil {
		return Stats{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	s.Taken, s.Waiting, s.Unsafe = p.accepted, p.unsettled(), p.memEvents
	s.QueueBytes, s.SpoolBytes = p.memBytes, p.spoolBytes
	return s
}
