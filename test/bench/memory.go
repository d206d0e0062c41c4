package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const benchToken = "bench-root-token"

// A process is the real hub, built and started as a user does, so that its
// memory is its own.
type process struct {
	cmd     *exec.Cmd
	address string
}

// startProcess builds the hub and starts `tocsin dev` with further arguments.
func startProcess(ctx context.Context, dir string, args ...string) (*process, error) {
	return startCommand(ctx, dir, append([]string{"dev"}, args...)...)
}

// startCommand builds the program and starts a command of it that runs a hub.
func startCommand(ctx context.Context, dir string, args ...string) (*process, error) {
	binary := filepath.Join(dir, "tocsin")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", binary, "./cmd/tocsin")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the hub: %w\n%s", err, out)
	}
	run, err := os.MkdirTemp(dir, "hub")
	if err != nil {
		return nil, err
	}
	addressFile := filepath.Join(run, "address")
	cmd := exec.CommandContext(ctx, binary, append(args, "--listen", "127.0.0.1:0", "--data-dir", filepath.Join(run, "data"),
		"--root-token", benchToken, "--address-file", addressFile)...)
	cmd.Stderr = os.Stderr // warnings of the hub explain odd figures
	cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+run, "HOME="+run)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if b, err := os.ReadFile(addressFile); err == nil && strings.HasSuffix(string(b), "\n") {
			p.address = strings.TrimPrefix(strings.TrimSpace(string(b)), "http://")
			return p, nil
		}
	}
	p.stop()
	return nil, errors.New("the hub did not write its address within 20 s")
}

func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	p.cmd.Wait()
}

// rss returns the resident memory of the process in bytes.
func (p *process) rss() (float64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if kb, ok := strings.CutPrefix(lines.Text(), "VmRSS:"); ok {
			n, err := strconv.ParseFloat(strings.Fields(kb)[0], 64)
			return n * 1024, err
		}
	}
	return 0, errors.New("no VmRSS")
}

// idleMemory compares the memory of an idle hub with the 60 MB that are allowed.
func idleMemory(ctx context.Context, s settings) (ours, against float64, err error) {
	p, err := startProcess(ctx, s.dir)
	if err != nil {
		return 0, 0, err
	}
	defer p.stop()
	time.Sleep(5 * time.Second)
	ours, err = p.rss()
	return ours, 60e6, err
}

// subscriberMemory compares the memory of a hub with 10,000 idle subscribers
// with the 300 MB that are allowed.
func subscriberMemory(ctx context.Context, s settings) (ours, against float64, err error) {
	p, err := startProcess(ctx, s.dir)
	if err != nil {
		return 0, 0, err
	}
	defer p.stop()
	for range 10_000 {
		conn, err := idleSubscriber(p.address)
		if err != nil {
			return 0, 0, err
		}
		defer conn.Close()
	}
	time.Sleep(5 * time.Second)
	ours, err = p.rss()
	return ours, 300e6, err
}

// idleSubscriber opens a subscription and keeps no buffer for it.
func idleSubscriber(address string) (net.Conn, error) {
	conn, _, err := dialWebSocket(address, "/v1/sys/events/subscribe/none?json=true", []string{"X-Vault-Token: " + benchToken})
	return conn, err
}

// followMemory follows a growing audit log and compares the memory at its end
// with the memory after a tenth of it.
func followMemory(ctx context.Context, s settings) (ours, against float64, err error) {
	log, err := newAuditLog()
	if err != nil {
		return 0, 0, err
	}
	path := filepath.Join(s.dir, "follow.log")
	defer os.Remove(path)
	f, err := os.Create(path)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	p, err := startProcess(ctx, s.dir, "--audit-file", path)
	if err != nil {
		return 0, 0, err
	}
	defer p.stop()
	written, lines := int64(0), 0
	for written < s.logSize {
		chunk := log.next()
		if _, err := f.Write(chunk); err != nil {
			return 0, 0, err
		}
		written, lines = written+int64(len(chunk)), lines+bytes.Count(chunk, []byte("\n"))
		// Not much faster than the hub reads: it follows, it does not catch up.
		for wait := time.Now(); ; time.Sleep(5 * time.Millisecond) {
			read, err := p.received(ctx)
			if err != nil {
				return 0, 0, err
			}
			if float64(lines)-read < 50_000 {
				break
			}
			if time.Since(wait) > time.Minute {
				return 0, 0, fmt.Errorf("the hub is %.0f lines behind and does not go on", float64(lines)-read)
			}
		}
		if against == 0 && written > s.logSize/10 {
			if against, err = p.rss(); err != nil {
				return 0, 0, err
			}
		}
	}
	ours, err = p.rss()
	return ours, against, err
}

// received tells how many lines the source of the hub has read.
func (p *process) received(ctx context.Context) (float64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.address+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), `tocsin_received_total{component="source"`); ok {
			_, value, _ = strings.Cut(value, "} ")
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, nil
}
