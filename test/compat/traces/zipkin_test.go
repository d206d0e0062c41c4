package traces

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// startZipkin runs a real Zipkin server and returns its URL.
func startZipkin(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("java"); err != nil {
		t.Skip("SKIPPED: there is no Java to run Zipkin with")
	}
	out, err := exec.Command("../../../scripts/zipkin.sh").Output()
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
		if failed.ExitCode() == 3 {
			t.Skipf("SKIPPED: the registry with Zipkin is not reached: %s", failed.Stderr)
		}
		t.Fatalf("%v: %s", err, failed.Stderr)
	}
	port := freePort(t)
	start(t, "zipkin", []string{"QUERY_PORT=" + port, "JAVA_TOOL_OPTIONS=-Xmx256m"}, "java", "-jar", strings.TrimSpace(string(out)))
	url := "http://127.0.0.1:" + port
	eventually(t, "Zipkin listens", func() bool {
		r, err := http.Get(url + "/health")
		if err != nil {
			return false
		}
		r.Body.Close()
		return r.StatusCode == http.StatusOK
	})
	return url
}

// zipkinSpan is what Zipkin's API tells about a span.
type zipkinSpan struct {
	TraceID, ID, ParentID, Kind, Name string
	Timestamp, Duration               int64
	LocalEndpoint, RemoteEndpoint     struct {
		ServiceName, IPv4 string
		Port              int
	}
	Tags map[string]string
}

// TestZipkin is what the README promises: a hub for development, two flags, and the requests
// are in Zipkin.
func TestZipkin(t *testing.T) {
	url := startZipkin(t)
	t.Run("file", func(t *testing.T) {
		log := newAuditLog(t)
		requests := log.write(60)
		startHub(t, "dev", "--audit-file", log.path, "--listen", "127.0.0.1:0", "--traces", "zipkin="+url)
		checkZipkin(t, url, append(requests, log.write(40)...))
	})
	t.Run("socket", func(t *testing.T) {
		socket := filepath.Join(t.TempDir(), "audit.sock")
		startHub(t, "dev", "--audit-socket", socket, "--listen", "127.0.0.1:0", "--traces", "zipkin="+url)
		requests := newAuditDevice(t, socket).write(60)
		checkZipkin(t, url, append(requests, newAuditDevice(t, socket).write(40)...))
	})
}

func checkZipkin(t *testing.T, url string, requests []request) {
	t.Helper()
	for _, r := range requests {
		var spans []zipkinSpan
		eventually(t, "the request is in Zipkin", func() bool {
			response, err := http.Get(url + "/api/v2/trace/" + r.traceID())
			if err != nil {
				return false
			}
			defer response.Body.Close()
			return response.StatusCode == http.StatusOK && json.NewDecoder(response.Body).Decode(&spans) == nil
		})
		if len(spans) != 1 {
			t.Fatalf("%s has %d spans", r.id, len(spans))
		}
		s := spans[0]
		if s.TraceID != r.traceID() || s.ID == "" || s.ParentID != "" || s.Kind != "SERVER" || s.Name != "update secret/data/…" ||
			s.LocalEndpoint.ServiceName != "vault" || s.RemoteEndpoint.IPv4 != "192.0.2.7" || s.RemoteEndpoint.Port != 40000 {
			t.Errorf("%+v", s)
		}
		if s.Timestamp != r.start.UnixMicro() || s.Duration != max(r.duration.Microseconds(), 1) {
			t.Errorf("%s: from %d for %d µs, want %d for %v", r.id, s.Timestamp, s.Duration, r.start.UnixMicro(), r.duration)
		}
		message, failed := s.Tags["error"]
		if s.Tags["request.path"] != "secret/data/"+r.secret || s.Tags["request.operation"] != "update" || s.Tags["request.id"] != r.id ||
			failed != r.failed || failed && !strings.Contains(message, "permission denied") {
			t.Errorf("%v", s.Tags)
		}
	}
	var services []string
	response, err := http.Get(url + "/api/v2/services")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&services); err != nil || fmt.Sprint(services) != "[vault]" {
		t.Errorf("%v, %v", services, err)
	}
}
