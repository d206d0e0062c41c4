package compat

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The packages of the Python client. It is skipped where they cannot be installed.
var pythonPackages = []string{"grpcio==1.85.1", "grpcio-tools==1.85.1", "googleapis-common-protos==1.*"}

// TestPublishFromPython publishes with code that was made from our proto by the tools of
// another language, over another implementation of HTTP/2 than Go's.
func TestPublishFromPython(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3")
	}
	dir := t.TempDir()
	lib, generated := filepath.Join(dir, "lib"), filepath.Join(dir, "generated")
	if err := os.Mkdir(generated, 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	command := func(args ...string) *exec.Cmd {
		c := exec.CommandContext(ctx, python, args...)
		c.Env = append(os.Environ(), "PYTHONPATH="+lib+string(os.PathListSeparator)+generated, "PYTHONDONTWRITEBYTECODE=1", "PYTHONIOENCODING=utf-8")
		return c
	}
	if out, err := command(append([]string{"-m", "pip", "install", "--quiet", "--only-binary=:all:", "--target", lib}, pythonPackages...)...).CombinedOutput(); err != nil {
		t.Skipf("the packages cannot be installed: %v\n%s", err, out)
	}
	proto := filepath.Join("..", "..", "proto")
	if out, err := command("-m", "grpc_tools.protoc", "-I", proto, "--python_out", generated, "--grpc_python_out", generated,
		filepath.Join(proto, "tocsin", "v1", "publisher.proto")).CombinedOutput(); err != nil {
		t.Fatalf("protoc: %v\n%s", err, out)
	}
	address := strings.TrimPrefix(run(t, "dev", "--listen", "127.0.0.1:0", "--root-token", rootToken), "http://")
	out, err := command(filepath.Join("testdata", "publish.py"), address, rootToken).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	for i, want := range []string{
		"accepted 1 0",
		"accepted 0 1",
		"accepted 1 0",
		"UNAUTHENTICATED 0 False permission denied; invalid token",
		"UNAUTHENTICATED 0 False permission denied",
		"INVALID_ARGUMENT 5000 True event 0: datacontenttype",
		"stream 200 10000",
	} {
		if i >= len(lines) || !strings.HasPrefix(lines[i], want) {
			t.Fatalf("line %d is not %q in\n%s", i, want, out)
		}
	}
}
