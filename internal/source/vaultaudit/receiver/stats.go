package receiver

import (
	"strconv"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// counts are the counters of a receiver.
type counts struct {
	connections, takenOver, lines, bytes   atomic.Uint64
	torn, tooLong, cut, kernelDrops, lost  atomic.Uint64
	refusedAddress, refusedMemory, evicted atomic.Uint64
	handshakes, acceptErrors, webRequests  atomic.Uint64
	answers                                [len(answerCodes)]atomic.Uint64
}

// answerCodes are all answers of HTTP receivers.
var answerCodes = [...]int{204, 400, 401, 403, 405, 413, 415, 503}

func (c *counts) answered(code int) {
	for i, known := range answerCodes {
		if known == code {
			c.answers[i].Add(1)
		}
	}
}

// Stats are counts since the start, except Open.
type Stats struct {
	Open        int    // connections
	Connections uint64 // that came
	TakenOver   uint64 // of them from a predecessor
	Lines       uint64 // put into the inbox, or counted by it as dropped
	Bytes       uint64
	Torn        uint64 // ends of streams without a line feed; the sender repeats the line
	TooLong     uint64 // lines above the limit
	Cut         uint64 // datagrams that were longer than their buffer
	KernelDrops uint64 // datagrams that the system had no room for
	Lost        uint64 // lines that were received and not kept
	// RefusedAddress were sent by, RefusedMemory belonged to too many long lines at once.
	RefusedAddress, RefusedMemory uint64
	Evicted                       uint64 // connections closed for new ones
	Handshakes                    uint64 // that failed
	AcceptErrors                  uint64
	WebRequests                   uint64         // connections that began with a request of HTTP
	Answers                       map[int]uint64 // of HTTP, by status
}

// Stats returns the figures of now.
func (r *Receiver) Stats() Stats {
	c := &r.counts
	s := Stats{
		Open: r.table.count(), Connections: c.connections.Load(), TakenOver: c.takenOver.Load(),
		Lines: c.lines.Load(), Bytes: c.bytes.Load(), Torn: c.torn.Load(), TooLong: c.tooLong.Load(),
		Cut: c.cut.Load(), KernelDrops: c.kernelDrops.Load(), Lost: c.lost.Load(),
		RefusedAddress: c.refusedAddress.Load(), RefusedMemory: c.refusedMemory.Load(), Evicted: c.evicted.Load(),
		Handshakes: c.handshakes.Load(), AcceptErrors: c.acceptErrors.Load(), WebRequests: c.webRequests.Load(),
	}
	if r.config.Kind == HTTP {
		s.Answers = make(map[int]uint64)
		for i, code := range answerCodes {
			s.Answers[code] = c.answers[i].Load()
		}
	}
	return s
}

// Collectors are the metrics of the receiver.
func (r *Receiver) Collectors() (all []prometheus.Collector) {
	name := prometheus.Labels{"name": r.config.Name}
	counter := func(metric, help string, labels prometheus.Labels, value *atomic.Uint64) {
		all = append(all, prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: "tocsin", Subsystem: "receiver", Name: metric, Help: help, ConstLabels: labels,
		}, func() float64 { return float64(value.Load()) }))
	}
	c := &r.counts
	all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "tocsin", Subsystem: "receiver", Name: "connections", Help: "Open connections of senders.", ConstLabels: name,
	}, func() float64 { return float64(r.table.count()) }))
	all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "tocsin", Subsystem: "receiver", Name: "up", Help: "1 if senders can connect.", ConstLabels: name,
	}, func() float64 {
		if r.Health() == nil && r.bound() != nil {
			return 1
		}
		return 0
	}))
	counter("connections_total", "Connections that senders opened.", name, &c.connections)
	counter("lines_total", "Lines that were received.", name, &c.lines)
	counter("bytes_total", "Bytes of the lines that were received.", name, &c.bytes)
	const incidents = "What happened to what senders sent. After cut_datagram, kernel_drop and lost_line, lines are missing."
	for _, i := range []struct {
		name  string
		value *atomic.Uint64
	}{
		{"torn_line", &c.torn}, {"long_line", &c.tooLong}, {"cut_datagram", &c.cut}, {"kernel_drop", &c.kernelDrops},
		{"lost_line", &c.lost}, {"refused_address", &c.refusedAddress}, {"refused_memory", &c.refusedMemory},
		{"evicted_connection", &c.evicted}, {"failed_handshake", &c.handshakes}, {"accept_error", &c.acceptErrors},
		{"web_request", &c.webRequests},
	} {
		counter("incidents_total", incidents, prometheus.Labels{"name": r.config.Name, "incident": i.name}, i.value)
	}
	if r.config.Kind == HTTP {
		for i, code := range answerCodes {
			counter("http_answers_total", "Answers to HTTP devices, by status.",
				prometheus.Labels{"name": r.config.Name, "code": strconv.Itoa(code)}, &c.answers[i])
		}
	}
	return all
}
