package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/config"
)

// devTraces are the values of --traces of "tocsin dev".
type devTraces []string

const devTracesUsage = "send requests as spans: zipkin=`URL`, otlp=URL (gRPC), otlp+http=URL, or stdout, stdout=json, stdout=otlp; may be repeated"

// exporters returns the exporters that the values stand for.
func (t devTraces) exporters() ([]config.TraceExporter, error) {
	var all []config.TraceExporter
	used := make(map[string]int)
	for _, value := range t {
		e := config.DefaultTraceExporter()
		e.From = config.FromStart
		e.Batch.Delay = config.Duration(200 * time.Millisecond) // somebody is watching
		kind, target, named := strings.Cut(value, "=")
		switch kind {
		case "zipkin":
			e.Type = config.TraceZipkin
		case "otlp", "otlp+grpc":
			e.Type = config.TraceOTLPGRPC
		case "otlp+http":
			e.Type = config.TraceOTLPHTTP
		case "stdout":
			e.Type = config.TraceStdout
		default:
			return nil, fmt.Errorf("--traces %q: write zipkin=URL, otlp=URL, otlp+http=URL, or stdout; for anything else use \"tocsin server\" with traces.exporters", visible(kind))
		}
		switch {
		case e.Type == config.TraceStdout && named:
			if target != "text" && target != "json" && target != "otlp" {
				return nil, fmt.Errorf("--traces stdout=%s: write stdout=text, stdout=json or stdout=otlp", visible(target))
			}
			e.Format = config.TraceFormat(target)
		case e.Type == config.TraceStdout:
		case target == "":
			return nil, fmt.Errorf("--traces %s: has no URL; write for example zipkin=http://127.0.0.1:9411, otlp=http://127.0.0.1:4317 or otlp+http=http://127.0.0.1:4318", kind)
		case !strings.Contains(target, "://"):
			target = "http://" + target
			fallthrough
		default:
			e.URL = target
		}
		e.Name = strings.ReplaceAll(kind, "+", "-")
		if used[e.Name]++; used[e.Name] > 1 {
			e.Name = fmt.Sprintf("%s-%d", e.Name, used[e.Name])
		}
		all = append(all, e)
	}
	return all, nil
}

// describeExporter says where an exporter sends, for the banner.
func describeExporter(e config.TraceExporter) string {
	switch e.Type {
	case config.TraceZipkin:
		return "Zipkin at " + e.URL
	case config.TraceOTLPGRPC:
		return "OTLP over gRPC to " + e.URL
	case config.TraceOTLPHTTP:
		return "OTLP over HTTP to " + e.URL
	}
	return fmt.Sprintf("standard output, as %s", e.Format)
}
