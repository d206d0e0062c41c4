package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// theirs is the pipeline that one writes in an afternoon: each line into a map, the times
// of requests in a map, responses flattened into attributes of a span of the SDK, which
// sends them in batches.
func theirs(url string, lines [][]byte) (requests int, err error) {
	ctx := context.Background()
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(url+"/v1/traces"))
	if err != nil {
		return 0, err
	}
	provider := sdk.NewTracerProvider(
		sdk.WithIDGenerator(requestIDs{}),
		sdk.WithBatcher(exporter, sdk.WithBlocking(), sdk.WithMaxExportBatchSize(batch), sdk.WithMaxQueueSize(4*batch)),
	)
	tracer := provider.Tracer("audit")
	started := map[string]time.Time{}
	for _, line := range lines {
		var entry map[string]any
		if err := json.Unmarshal(line, &entry); err != nil {
			return 0, err
		}
		text, _ := entry["time"].(string)
		at, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			return 0, err
		}
		request, _ := entry["request"].(map[string]any)
		id, _ := request["id"].(string)
		if id == "" {
			continue
		}
		if entry["type"] == "request" {
			started[id] = at
			continue
		}
		start, ok := started[id]
		if !ok {
			continue
		}
		delete(started, id)
		operation, _ := request["operation"].(string)
		path, _ := request["path"].(string)
		_, span := tracer.Start(context.WithValue(ctx, requestIDs{}, id), operation+" "+strings.TrimSuffix(path, "/"),
			trace.WithTimestamp(start), trace.WithSpanKind(trace.SpanKindServer))
		attributes := conventions(nil, entry)
		attributes = flatten(attributes, "", entry)
		span.SetAttributes(attributes...)
		if failed, _, _, message := outcome(entry); failed {
			span.SetStatus(codes.Error, message)
		}
		span.End(trace.WithTimestamp(at))
		requests++
	}
	if err := provider.ForceFlush(ctx); err != nil {
		return 0, err
	}
	return requests, provider.Shutdown(ctx)
}

// requestIDs makes the trace id of the request id, which is in the context.
type requestIDs struct{}

func (requestIDs) NewIDs(ctx context.Context) (id trace.TraceID, span trace.SpanID) {
	text, _ := ctx.Value(requestIDs{}).(string)
	if n, err := hex.Decode(id[:], []byte(strings.ReplaceAll(text, "-", ""))); err != nil || n != len(id) {
		rand.Read(id[:])
	}
	rand.Read(span[:])
	return id, span
}

func (requestIDs) NewSpanID(context.Context, trace.TraceID) (span trace.SpanID) {
	rand.Read(span[:])
	return span
}

func flatten(to []attribute.KeyValue, prefix string, object map[string]any) []attribute.KeyValue {
	for name, v := range object {
		key := name
		if prefix != "" {
			key = prefix + "." + name
		}
		switch key {
		case "time", "type", "request.data", "response.data":
			continue
		}
		switch v := v.(type) {
		case string:
			if v != "" {
				to = append(to, attribute.String(key, cut(v)))
			}
		case float64:
			if v == math.Trunc(v) {
				to = append(to, attribute.Int64(key, int64(v)))
			} else {
				to = append(to, attribute.Float64(key, v))
			}
		case bool:
			to = append(to, attribute.Bool(key, v))
		case map[string]any:
			to = flatten(to, key, v)
		case []any:
			texts := make([]string, 0, len(v))
			for _, element := range v {
				text, ok := element.(string)
				if !ok {
					b, _ := json.Marshal(v)
					texts = nil
					to = append(to, attribute.String(key, cut(string(b))))
					break
				}
				texts = append(texts, cut(text))
			}
			if len(texts) > 64 {
				texts = append(texts[:63], "…")
			}
			if len(texts) > 0 {
				to = append(to, attribute.StringSlice(key, texts))
			}
		}
	}
	return to
}

func cut(text string) string {
	if len(text) <= 1024 {
		return text
	}
	return strings.ToValidUTF8(text[:1024], "") + "…"
}

// conventions adds the attributes of the semantic conventions.
func conventions(to []attribute.KeyValue, entry map[string]any) []attribute.KeyValue {
	request, _ := entry["request"].(map[string]any)
	if address, _ := request["remote_address"].(string); address != "" {
		to = append(to, attribute.String("client.address", address))
	}
	if port, _ := request["remote_port"].(float64); port > 0 {
		to = append(to, attribute.Int("client.port", int(port)))
	}
	auth, _ := entry["auth"].(map[string]any)
	if auth["entity_id"] == nil && auth["display_name"] == nil {
		response, _ := entry["response"].(map[string]any)
		auth, _ = response["auth"].(map[string]any)
	}
	if id, _ := auth["entity_id"].(string); id != "" {
		to = append(to, attribute.String("user.id", id))
	}
	if name, _ := auth["display_name"].(string); name != "" {
		to = append(to, attribute.String("user.name", name))
	}
	_, code, kind, _ := outcome(entry)
	if code != 0 {
		to = append(to, attribute.Int("http.response.status_code", code))
	}
	if kind != "" {
		to = append(to, attribute.String("error.type", kind))
	}
	return to
}

// outcome says whether a request failed and how.
func outcome(entry map[string]any) (failed bool, code int, kind, message string) {
	response, _ := entry["response"].(map[string]any)
	data, _ := response["data"].(map[string]any)
	if n, ok := data["http_status_code"].(float64); ok {
		code = int(n)
	}
	if text, _ := entry["error"].(string); text != "" {
		for _, known := range []struct {
			text string
			code int
			kind string
		}{
			{"permission denied", 403, "permission_denied"},
			{"quota exceeded", 429, "rate_limited"},
			{"unsupported operation", 405, "unsupported_operation"},
			{"unsupported path", 404, "unsupported_path"},
			{"invalid request", 400, "invalid_request"},
			{"internal error", 500, "internal_error"},
		} {
			if strings.Contains(text, known.text) {
				return true, known.code, known.kind, cut(strings.TrimSpace(text))
			}
		}
		return true, code, "_OTHER", cut(strings.TrimSpace(text))
	}
	_, hasError := data["error"]
	_, hasData := data["data"]
	if hasError && response["secret"] == nil && (len(data) == 1 || len(data) == 2 && hasData) {
		if code == 0 {
			code = 400
		}
		return true, code, "error_response", ""
	}
	if code >= 400 {
		return true, code, fmt.Sprint(code), fmt.Sprintf("HTTP status %d", code)
	}
	return false, code, "", ""
}
