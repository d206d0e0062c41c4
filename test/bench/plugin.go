package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/tocsin-events/tocsin/internal/vaultclient"
)

// pluginCallers is how many goroutines of the plugin send events.
const pluginCallers = 64

// pluginEvents measures how many events per second a plugin that was built with Vault's
// SDK sends to the hub that hosts it. Its SendEvent returns when the event is durable.
func pluginEvents(ctx context.Context, s settings) (ours, against float64, err error) {
	executable := filepath.Join(s.dir, "chatty")
	// It is of another module, because it needs Vault's SDK.
	build := exec.CommandContext(ctx, "go", "build", "-C", "test/compat", "-o", executable, "./plugins/chatty")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, 0, fmt.Errorf("build the plugin: %w\n%s", err, out)
	}
	hub, err := startCommand(ctx, s.dir, "plugin", "run", executable, "--plugin-log-level", "error", "--no-reload")
	if err != nil {
		return 0, 0, err
	}
	defer hub.stop()
	client, err := vaultclient.New(vaultclient.Options{Address: "http://" + hub.address, Token: benchToken})
	if err != nil {
		return 0, 0, err
	}
	sent, count := 0, 1000
	var took time.Duration
	for took < s.window {
		begin := time.Now()
		a, err := client.Do(ctx, "POST", "chatty/send-many", nil, map[string]any{"first": sent, "count": count, "callers": pluginCallers})
		if err != nil {
			return 0, 0, err
		}
		var answer struct {
			Failed int
			Last   string
		}
		if err := json.Unmarshal(a.Data, &answer); err != nil || answer.Failed > 0 {
			return 0, 0, fmt.Errorf("%d events failed: %s, %w", answer.Failed, answer.Last, err)
		}
		if sent > 0 { // the first warms up
			took += time.Since(begin)
			ours += float64(count)
		}
		sent += count
		count = 20_000
	}
	return ours / took.Seconds(), 10_000, nil
}
