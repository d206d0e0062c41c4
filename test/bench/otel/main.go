// Command otel measures how fast an audit log becomes spans that an OTLP endpoint has
// taken: with Tocsin's packages, and with the pipeline that one would write with the
// OpenTelemetry SDK. It is a module of its own, so that the hub does not depend on the
// SDK, and is run by test/bench.
//
// It first makes sure that both send the same spans with the same attributes, and prints
// one JSON object with the requests per second of processor time of both.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	"google.golang.org/protobuf/proto"
)

func main() {
	log := flag.String("log", "", "audit log")
	rounds := flag.Int("rounds", 3, "how often each is measured")
	flag.Parse()
	if err := run(*log, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "otel:", err)
		os.Exit(1)
	}
}

func run(log string, rounds int) error {
	text, err := os.ReadFile(log)
	if err != nil {
		return err
	}
	lines := bytes.Split(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"))
	// The log is a recording that was repeated with other ids. The few requests whose id is
	// no UUID are the same each time, which only one of the two would notice.
	lines = slices.DeleteFunc(lines, func(line []byte) bool { return bytes.Contains(line, []byte(`"request":{"id":"dev-`)) })
	endpoint, err := listen()
	if err != nil {
		return err
	}
	if err := check(endpoint, lines[:min(len(lines), 4000)]); err != nil {
		return err
	}
	var result struct{ Ours, Against float64 }
	for range rounds {
		a, err := timed(endpoint, lines, ours)
		if err != nil {
			return err
		}
		b, err := timed(endpoint, lines, theirs)
		if err != nil {
			return err
		}
		result.Ours, result.Against = max(result.Ours, a.rate()), max(result.Against, b.rate())
		fmt.Fprintf(os.Stderr, "requests per second of the clock: ours %.0f, theirs %.0f\n", a.perSecond(), b.perSecond())
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// measured is one run of a pipeline.
type measured struct {
	requests  int           // of which it made spans
	took      time.Duration // until all were delivered
	processor time.Duration // of all processors, for one request, the endpoint's part included
}

// rate is requests per second of one processor. On a machine that others use too it says
// more than the clock, and it does not depend on how well a pipeline spreads over several.
func (m measured) rate() float64 { return 1 / m.processor.Seconds() }

func (m measured) perSecond() float64 { return float64(m.requests) / m.took.Seconds() }

func timed(e *endpoint, lines [][]byte, pipeline func(url string, lines [][]byte) (requests int, err error)) (m measured, err error) {
	runtime.GC()
	e.reset(false)
	start, used := time.Now(), processorTime()
	m.requests, err = pipeline(e.url, lines)
	if err != nil {
		return m, err
	}
	m.took = time.Since(start)
	if e.bytes == 0 || m.requests == 0 {
		return m, fmt.Errorf("%d requests gave %d bytes", m.requests, e.bytes)
	}
	m.processor = (processorTime() - used) / time.Duration(m.requests)
	return m, nil
}

// processorTime is what this process has used of all processors.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err) // cannot fail for the process itself
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// endpoint takes spans over OTLP/HTTP and drops them, or keeps them to be compared.
type endpoint struct {
	url   string
	mu    sync.Mutex
	keep  bool
	bytes int64
	spans []string
}

func listen() (*endpoint, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	e := &endpoint{url: "http://" + l.Addr().String()}
	go http.Serve(l, e)
	return e, nil
}

func (e *endpoint) reset(keep bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.keep, e.bytes, e.spans = keep, 0, nil
}

func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	keep := e.keep
	e.mu.Unlock()
	var n int64
	if keep {
		body, err := io.ReadAll(r.Body)
		var request collector.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(body, &request)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		n = int64(len(body))
		e.note(&request)
	} else {
		n, _ = io.Copy(io.Discard, r.Body)
	}
	e.mu.Lock()
	e.bytes += n
	e.mu.Unlock()
	w.Header().Set("Content-Type", "application/x-protobuf")
	w.WriteHeader(http.StatusOK)
}

// note keeps spans as texts, without what cannot be the same: the ids of spans.
func (e *endpoint) note(request *collector.ExportTraceServiceRequest) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, rs := range request.ResourceSpans {
		for _, ss := range rs.ScopeSpans {
			for _, s := range ss.Spans {
				attributes := make([]string, 0, len(s.Attributes))
				for _, a := range s.Attributes {
					attributes = append(attributes, a.Key+"="+value(a.Value))
				}
				slices.Sort(attributes)
				e.spans = append(e.spans, fmt.Sprintf("%s %d %d..%d %v %x %q %s", s.Name, s.Kind, s.StartTimeUnixNano, s.EndTimeUnixNano,
					s.Status.GetCode(), s.TraceId, s.Status.GetMessage(), strings.Join(attributes, "\n\t")))
			}
		}
	}
}

func value(v *common.AnyValue) string {
	switch v := v.Value.(type) {
	case *common.AnyValue_StringValue:
		return fmt.Sprintf("%q", v.StringValue)
	case *common.AnyValue_IntValue:
		return fmt.Sprint(v.IntValue)
	case *common.AnyValue_BoolValue:
		return fmt.Sprint(v.BoolValue)
	case *common.AnyValue_DoubleValue:
		return fmt.Sprint(v.DoubleValue)
	case *common.AnyValue_ArrayValue:
		var list []string
		for _, x := range v.ArrayValue.Values {
			list = append(list, value(x))
		}
		return fmt.Sprint(list)
	}
	return "?"
}

// check compares what both send.
func check(e *endpoint, lines [][]byte) error {
	collect := func(pipeline func(string, [][]byte) (int, error)) ([]string, error) {
		e.reset(true)
		if _, err := pipeline(e.url, lines); err != nil {
			return nil, err
		}
		// Requests with one entry are spans of ours only, and those with a caller's trace
		// context are part of its trace in ours only.
		spans := slices.DeleteFunc(e.spans, func(s string) bool {
			return strings.Contains(s, "\ttocsin.single=") || strings.Contains(s, "\trequest.headers.traceparent=")
		})
		slices.Sort(spans)
		return spans, nil
	}
	a, err := collect(oursMarked)
	if err != nil {
		return err
	}
	b, err := collect(theirs)
	if err != nil {
		return err
	}
	if len(a) != len(b) || len(a) < len(lines)/3 {
		return fmt.Errorf("of %d lines, ours are %d spans and theirs %d", len(lines), len(a), len(b))
	}
	for i := range a {
		if a[i] != b[i] {
			return fmt.Errorf("the spans differ:\n%s\n%s", a[i], b[i])
		}
	}
	return nil
}
