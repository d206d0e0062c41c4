package kafka

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Users of the broker, with these passwords.
const (
	userName      = "alice"
	userPassword  = "correct horse battery staple"
	deniedName    = "mallory"
	wrongPassword = "not-the-password-of-alice"
)

// broker is a running Apache Kafka in KRaft mode.
type broker struct {
	classPath string
	dir       string
	ports     map[string]string // by listener
	gate      *gate             // in front of the listener GATED
	ca        *authority
	process   *exec.Cmd
	log       *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// shared is the one broker of all tests, started by the first that needs it.
var shared struct {
	once   sync.Once
	broker *broker
	skip   string
	err    error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if b := shared.broker; b != nil {
		b.kill(syscall.SIGKILL)
		b.gate.close()
		os.RemoveAll(b.dir)
	}
	if r := sharedRegistry.registry; r != nil {
		r.stop()
		os.RemoveAll(r.dir)
	}
	os.Exit(code)
}

// startBroker returns the broker, which runs.
func startBroker(t *testing.T) *broker {
	t.Helper()
	shared.once.Do(func() { shared.broker, shared.skip, shared.err = newBroker() })
	if shared.skip != "" {
		t.Skip("SKIPPED: " + shared.skip)
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.broker
}

// peer returns what scripts/kafka.sh prints, or why it cannot be had.
func peer(what string) (path, skip string, err error) {
	if _, err := exec.LookPath("java"); err != nil {
		return "", "there is no Java to run Kafka with", nil
	}
	out, err := exec.Command("../../../scripts/kafka.sh", what).Output()
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
		if failed.ExitCode() == 3 {
			return "", fmt.Sprintf("the registry with Kafka is not reached: %s", failed.Stderr), nil
		}
		return "", "", fmt.Errorf("%w: %s", err, failed.Stderr)
	}
	return strings.TrimSpace(string(out)), "", err
}

func newBroker() (_ *broker, skip string, err error) {
	classPath, skip, err := peer("broker")
	if skip != "" || err != nil {
		return nil, skip, err
	}
	dir, err := os.MkdirTemp("", "kafka")
	if err != nil {
		return nil, "", err
	}
	b := &broker{classPath: classPath, dir: dir, ports: make(map[string]string), log: new(lockedBuffer)}
	for _, listener := range []string{"PLAINTEXT", "GATED", "SASL", "MTLS", "SASLTLS", "CONTROLLER"} {
		if b.ports[listener], err = freePort(); err != nil {
			return nil, "", err
		}
	}
	if b.gate, err = newGate("127.0.0.1:" + b.ports["GATED"]); err != nil {
		return nil, "", err
	}
	if b.ca, err = newAuthority(); err != nil {
		return nil, "", err
	}
	if err := b.configure(); err != nil {
		return nil, "", err
	}
	if err := b.start(); err != nil {
		return nil, "", err
	}
	return b, "", nil
}

func (b *broker) configure() error {
	cert, key, err := b.ca.issue("127.0.0.1")
	if err != nil {
		return err
	}
	// In a file of properties a line break is \n.
	line := func(text string) string { return strings.ReplaceAll(text, "\n", `\n`) }
	properties := map[string]string{
		"process.roles":                                    "broker,controller",
		"node.id":                                          "1",
		"controller.quorum.voters":                         "1@127.0.0.1:" + b.ports["CONTROLLER"],
		"controller.listener.names":                        "CONTROLLER",
		"inter.broker.listener.name":                       "PLAINTEXT",
		"log.dirs":                                         filepath.Join(b.dir, "data"),
		"offsets.topic.replication.factor":                 "1",
		"transaction.state.log.replication.factor":         "1",
		"transaction.state.log.min.isr":                    "1",
		"num.partitions":                                   "3",
		"auto.create.topics.enable":                        "true",
		"num.network.threads":                              "2",
		"num.io.threads":                                   "2",
		"controlled.shutdown.enable":                       "false",
		"sasl.enabled.mechanisms":                          "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
		"ssl.keystore.type":                                "PEM",
		"ssl.keystore.certificate.chain":                   line(cert),
		"ssl.keystore.key":                                 line(key),
		"ssl.truststore.type":                              "PEM",
		"ssl.truststore.certificates":                      line(b.ca.pem),
		"listener.name.mtls.ssl.client.auth":               "required",
		"authorizer.class.name":                            "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
		"super.users":                                      "User:ANONYMOUS",
		"allow.everyone.if.no.acl.found":                   "true",
		"listener.security.protocol.map":                   "PLAINTEXT:PLAINTEXT,GATED:PLAINTEXT,SASL:SASL_PLAINTEXT,MTLS:SSL,SASLTLS:SASL_SSL,CONTROLLER:PLAINTEXT",
		"broker.session.timeout.ms":                        "3000", // a broker that was killed may register again after it
		"broker.heartbeat.interval.ms":                     "500",
		"log.segment.bytes":                                "16777216",
		"log.cleaner.dedupe.buffer.size":                   "8388608",
		"group.coordinator.append.linger.ms":               "0",
		"initial.broker.registration.timeout.ms":           "60000",
		"unstable.api.versions.enable":                     "false",
		"connection.failed.authentication.delay.ms":        "0",
		"share.coordinator.state.topic.replication.factor": "1",
	}
	for _, name := range []string{"sasl", "sasltls"} {
		properties["listener.name."+name+".plain.sasl.jaas.config"] = fmt.Sprintf(
			"org.apache.kafka.common.security.plain.PlainLoginModule required user_%s=%q user_%s=%q;", userName, userPassword, deniedName, userPassword)
		for _, mechanism := range []string{"scram-sha-256", "scram-sha-512"} {
			properties["listener.name."+name+"."+mechanism+".sasl.jaas.config"] = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
		}
	}
	var listeners, advertised []string
	for name, port := range b.ports {
		listeners = append(listeners, name+"://127.0.0.1:"+port)
		switch name {
		case "CONTROLLER":
		case "GATED":
			advertised = append(advertised, name+"://"+b.gate.address())
		default:
			advertised = append(advertised, name+"://127.0.0.1:"+port)
		}
	}
	properties["listeners"] = strings.Join(listeners, ",")
	properties["advertised.listeners"] = strings.Join(advertised, ",")
	var text strings.Builder
	for k, v := range properties {
		fmt.Fprintf(&text, "%s=%s\n", k, v)
	}
	if err := os.WriteFile(b.properties(), []byte(text.String()), 0o600); err != nil {
		return err
	}
	format := b.java("kafka.tools.StorageTool", "format", "-t", "tocsinAAAAAAAAAAAAAAA", "-c", b.properties(),
		"--add-scram", fmt.Sprintf("SCRAM-SHA-256=[name=%s,password=%s]", userName, userPassword),
		"--add-scram", fmt.Sprintf("SCRAM-SHA-512=[name=%s,password=%s]", userName, userPassword))
	if out, err := format.CombinedOutput(); err != nil {
		return fmt.Errorf("format the storage: %w: %s", err, out)
	}
	return nil
}

func (b *broker) properties() string { return filepath.Join(b.dir, "server.properties") }

// java runs a main class with little memory and a quick start.
func (b *broker) java(class string, args ...string) *exec.Cmd {
	c := exec.Command("java", append([]string{"-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dlog4j2.level=WARN", "-cp", b.classPath, class}, args...)...)
	c.Dir = b.dir
	return c
}

// start runs the broker, and returns when it answers.
func (b *broker) start() error {
	b.process = b.java("kafka.Kafka", b.properties())
	b.process.Stdout, b.process.Stderr = b.log, b.log
	if err := b.process.Start(); err != nil {
		return err
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(b.address("PLAINTEXT")), kgo.RetryTimeout(time.Second))
	if err != nil {
		return err
	}
	defer client.Close()
	deadline := time.Now().Add(90 * time.Second)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		err := client.Ping(ctx)
		cancel()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			b.kill(syscall.SIGKILL)
			return fmt.Errorf("the broker does not answer: %w\n%s", err, b.log)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// kill ends the broker, and waits until it has ended.
func (b *broker) kill(signal syscall.Signal) {
	b.process.Process.Signal(signal)
	b.process.Wait()
}

// address is where a listener is reached.
func (b *broker) address(listener string) string {
	if listener == "GATED" {
		return b.gate.address()
	}
	return "127.0.0.1:" + b.ports[listener]
}

// admin returns a client that may do everything.
func (b *broker) admin(t *testing.T, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(b.address("PLAINTEXT"))}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// topic makes a topic of a test.
func (b *broker) topic(t *testing.T, partitions int, config ...string) string {
	t.Helper()
	name := strings.NewReplacer("/", ".", " ", "-").Replace(t.Name())
	b.create(t, name, partitions, config...)
	return name
}

func (b *broker) create(t *testing.T, name string, partitions int, config ...string) {
	t.Helper()
	req := kmsg.NewPtrCreateTopicsRequest()
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = name, int32(partitions), 1
	for i := 0; i+1 < len(config); i += 2 {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = config[i], &config[i+1]
		rt.Configs = append(rt.Configs, c)
	}
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(t.Context(), b.admin(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := kerr.ErrorForCode(resp.Topics[0].ErrorCode); err != nil {
		t.Fatalf("make topic %s: %v", name, err)
	}
}

// read returns all records of a topic, which must be n or, with n < 0, any number.
func (b *broker) read(t *testing.T, topic string, n int) []*kgo.Record {
	t.Helper()
	client := b.admin(t)
	meta := kmsg.NewPtrMetadataRequest()
	mt := kmsg.NewMetadataRequestTopic()
	mt.Topic = &topic
	meta.Topics = append(meta.Topics, mt)
	resp, err := meta.RequestWith(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	offsets := kmsg.NewPtrListOffsetsRequest()
	offsets.ReplicaID = -1
	ot := kmsg.NewListOffsetsRequestTopic()
	ot.Topic = topic
	for _, p := range resp.Topics[0].Partitions {
		op := kmsg.NewListOffsetsRequestTopicPartition()
		op.Partition, op.Timestamp = p.Partition, -1
		ot.Partitions = append(ot.Partitions, op)
	}
	offsets.Topics = append(offsets.Topics, ot)
	ends, err := offsets.RequestWith(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, p := range ends.Topics[0].Partitions {
		total += int(p.Offset)
	}
	if n >= 0 && total != n {
		t.Errorf("topic %s has %d records, want %d", topic, total, n)
	}
	consumer := b.admin(t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var records []*kgo.Record
	for len(records) < total {
		f := consumer.PollFetches(ctx)
		if err := f.Err0(); err != nil {
			t.Fatalf("read %s after %d of %d records: %v", topic, len(records), total, err)
		}
		f.EachRecord(func(r *kgo.Record) { records = append(records, r) })
	}
	return records
}

// deny forbids a user to write to a topic.
func (b *broker) deny(t *testing.T, user, topic string) (allow func()) {
	t.Helper()
	client := b.admin(t)
	req := kmsg.NewPtrCreateACLsRequest()
	c := kmsg.NewCreateACLsRequestCreation()
	c.ResourceType, c.ResourceName, c.ResourcePatternType = kmsg.ACLResourceTypeTopic, topic, kmsg.ACLResourcePatternTypeLiteral
	c.Principal, c.Host, c.Operation, c.PermissionType = "User:"+user, "*", kmsg.ACLOperationWrite, kmsg.ACLPermissionTypeDeny
	req.Creations = append(req.Creations, c)
	resp, err := req.RequestWith(t.Context(), client)
	if err != nil || resp.Results[0].ErrorCode != 0 {
		t.Fatalf("deny: %v, %+v", err, resp)
	}
	return func() {
		req := kmsg.NewPtrDeleteACLsRequest()
		f := kmsg.NewDeleteACLsRequestFilter()
		f.ResourceType, f.ResourceName, f.ResourcePatternType = kmsg.ACLResourceTypeTopic, &topic, kmsg.ACLResourcePatternTypeLiteral
		f.Operation, f.PermissionType = kmsg.ACLOperationAny, kmsg.ACLPermissionTypeAny
		req.Filters = append(req.Filters, f)
		if _, err := req.RequestWith(t.Context(), client); err != nil {
			t.Fatal(err)
		}
	}
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

// authority issues certificates.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  string
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{key, cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}, err
}

// issue returns a certificate for an address, or a name of a client, and its key.
func (a *authority) issue(name string) (cert, key string, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &private.PublicKey, a.key)
	if err != nil {
		return "", "", err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})), nil
}
