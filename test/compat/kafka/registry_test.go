package kafka

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bufbuild/protocompile"
	"github.com/hamba/avro/v2"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

// registry is a running schema registry.
type registry struct {
	dir, port string
	process   *exec.Cmd
	log       *lockedBuffer
}

var sharedRegistry struct {
	once     sync.Once
	registry *registry
	skip     string
	err      error
}

func startRegistry(t *testing.T) *registry {
	t.Helper()
	sharedRegistry.once.Do(func() { sharedRegistry.registry, sharedRegistry.skip, sharedRegistry.err = newRegistry() })
	if sharedRegistry.skip != "" {
		t.Skip("SKIPPED: " + sharedRegistry.skip)
	}
	if sharedRegistry.err != nil {
		t.Fatal(sharedRegistry.err)
	}
	return sharedRegistry.registry
}

func newRegistry() (_ *registry, skip string, err error) {
	archive, skip, err := peer("registry")
	if skip != "" || err != nil {
		return nil, skip, err
	}
	r := &registry{log: new(lockedBuffer)}
	if r.dir, err = os.MkdirTemp("", "registry"); err != nil {
		return nil, "", err
	}
	if out, err := exec.Command("tar", "xzf", archive, "-C", r.dir).CombinedOutput(); err != nil {
		return nil, "", fmt.Errorf("unpack the registry: %w: %s", err, out)
	}
	if r.port, err = freePort(); err != nil {
		return nil, "", err
	}
	return r, "", r.start()
}

func (r *registry) start() error {
	jars, err := filepath.Glob(filepath.Join(r.dir, "*-runner.jar"))
	if err != nil || len(jars) != 1 {
		return fmt.Errorf("jars of the registry: %v, %v", jars, err)
	}
	r.process = exec.Command("java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
		"-Dquarkus.http.host=127.0.0.1", "-Dquarkus.http.port="+r.port, "-jar", jars[0])
	r.process.Dir = r.dir
	r.process.Stdout, r.process.Stderr = r.log, r.log
	if err := r.process.Start(); err != nil {
		return err
	}
	deadline := time.Now().Add(90 * time.Second)
	for {
		resp, err := http.Get("http://127.0.0.1:" + r.port + "/health/ready")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		if time.Now().After(deadline) {
			r.stop()
			return fmt.Errorf("the registry does not answer: %v\n%s", err, r.log)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (r *registry) stop() {
	r.process.Process.Signal(syscall.SIGKILL)
	r.process.Wait()
}

// url is that of the API of Confluent's registry.
func (r *registry) url() string { return "http://127.0.0.1:" + r.port + "/apis/ccompat/v7" }

// call calls the API.
func (r *registry) call(t *testing.T, method, path string, body, into any) {
	t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, r.url()+path, bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/vnd.schemaregistry.v1+json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s, %v: %s", method, path, resp.Status, err, answer)
	}
	if into != nil {
		if err := json.Unmarshal(answer, into); err != nil {
			t.Fatalf("%s %s: %v: %s", method, path, err, answer)
		}
	}
}

// schemaOf reads the header of a value, gets the schema from the registry, and returns it with
// what is behind the id.
func (r *registry) schemaOf(t *testing.T, value []byte) (form, text string, rest []byte) {
	t.Helper()
	if len(value) < 5 || value[0] != 0 {
		t.Fatalf("no header: %.20x", value)
	}
	var s struct{ Schema, SchemaType string }
	r.call(t, "GET", fmt.Sprintf("/schemas/ids/%d", binary.BigEndian.Uint32(value[1:])), nil, &s)
	return s.SchemaType, s.Schema, value[5:]
}

// decodeAvro decodes with a library that the sink does not use.
func decodeAvro(t *testing.T, schema string, b []byte) map[string]any {
	t.Helper()
	parsed, err := avro.ParseWithCache(schema, "", &avro.SchemaCache{})
	if err != nil {
		t.Fatalf("schema: %v", err)
	}
	var m map[string]any
	reader := avro.NewReader(bytes.NewReader(b), 512)
	reader.ReadVal(parsed, &m)
	if reader.Error != nil {
		t.Fatalf("decode %x: %v", b, reader.Error)
	}
	if again, err := avro.Marshal(parsed, m); err == nil && len(again) > len(b)+64 {
		t.Errorf("%d bytes, the library makes %d", len(b), len(again))
	}
	return m
}

// compiled compiles the text of a schema.
func compiled(t *testing.T, text string) protoreflect.FileDescriptor {
	t.Helper()
	c := protocompile.Compiler{Resolver: protocompile.WithStandardImports(&protocompile.SourceResolver{
		Accessor: protocompile.SourceAccessorFromMap(map[string]string{"schema.proto": text}),
	})}
	files, err := c.Compile(context.Background(), "schema.proto")
	if err != nil {
		t.Fatalf("compile the schema: %v", err)
	}
	return files[0]
}

// decodeProto decodes the message by the schema; indexes says that the value begins with where
// it is in there.
func decodeProto(t *testing.T, file protoreflect.FileDescriptor, name string, b []byte, indexes bool) *dynamicpb.Message {
	t.Helper()
	message := file.Messages().ByName(protoreflect.Name(name))
	if indexes {
		number := func() int64 {
			n, size := binary.Varint(b)
			if size <= 0 {
				t.Fatal("indexes end early")
			}
			b = b[size:]
			return n
		}
		path := []int64{0} // for which a count of 0 is short
		if n := number(); n > 0 {
			path = nil
			for range n {
				path = append(path, number())
			}
		}
		message = file.Messages().Get(int(path[0]))
		for _, i := range path[1:] {
			message = message.Messages().Get(int(i))
		}
		if string(message.Name()) != name {
			t.Fatalf("indexes %v are of message %s, want %s", path, message.Name(), name)
		}
	}
	m := dynamicpb.NewMessage(message)
	if err := (proto.UnmarshalOptions{}).Unmarshal(b, m); err != nil {
		t.Fatalf("decode %x: %v", b, err)
	}
	if len(m.GetUnknown()) != 0 {
		t.Errorf("unknown fields %x", m.GetUnknown())
	}
	return m
}

func header(r *kgo.Record, name string) string {
	for _, h := range r.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

// console runs the consumer of Kafka's own tools, as users do.
func (b *broker) console(t *testing.T, topic string, n int, args ...string) string {
	t.Helper()
	c := b.java("org.apache.kafka.tools.consumer.ConsoleConsumer", append([]string{
		"--bootstrap-server", b.address("PLAINTEXT"), "--topic", topic, "--from-beginning", "--max-messages", fmt.Sprint(n), "--timeout-ms", "30000",
	}, args...)...)
	var problems bytes.Buffer
	c.Stderr = &problems
	out, err := c.Output()
	if err != nil {
		t.Fatalf("console consumer: %v: %s", err, problems.String())
	}
	return strings.TrimSpace(string(out))
}
