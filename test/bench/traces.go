package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// spans compares how fast an audit log becomes spans that an OTLP endpoint has taken with
// the pipeline that one would write with the OpenTelemetry SDK: requests per second of
// processor time. Both are measured by a program in a module of its own, because the hub's
// does not depend on the SDK; it also makes sure that they send the same.
func spans(ctx context.Context, s settings) (ours, against float64, err error) {
	log, err := newAuditLog()
	if err != nil {
		return 0, 0, err
	}
	path := filepath.Join(s.dir, "spans.log")
	defer os.Remove(path)
	if _, err := log.write(path, 60<<20); err != nil {
		return 0, 0, err
	}
	binary := filepath.Join(s.dir, "bench-otel")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", binary, ".")
	build.Dir = filepath.Join("test", "bench", "otel")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, 0, fmt.Errorf("build test/bench/otel: %w\n%s", err, out)
	}
	run := exec.CommandContext(ctx, binary, "-log", path, "-rounds", "1")
	run.Stderr = os.Stderr
	out, err := run.Output()
	if err != nil {
		return 0, 0, err
	}
	var result struct{ Ours, Against float64 }
	if err := json.Unmarshal(bytes.TrimSpace(out), &result); err != nil {
		return 0, 0, err
	}
	return result.Ours, result.Against, nil
}

// openRequests compares the memory of 100,000 requests that wait for their responses with
// the 100 MB that are allowed.
func openRequests(context.Context, settings) (ours, against float64, err error) {
	log, err := newAuditLog()
	if err != nil {
		return 0, 0, err
	}
	t, err := newOpenRequests(log)
	if err != nil {
		return 0, 0, err
	}
	const wanted = 100_000
	ours, open := t.fill(wanted)
	if open != wanted {
		return 0, 0, errors.New("requests were given up although there was room for them")
	}
	return ours, 100e6, nil
}
