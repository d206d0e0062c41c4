package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	streamName    = "TOCSIN_JOURNAL"
	streamSubject = "tocsin.journal"
	directGet     = "$JS.API.DIRECT.GET." + streamName

	// serverMemory bounds what JetStream may keep in memory streams; the
	// journal has none.
	serverMemory = 16 << 20
	// serverStore is no bound: the disk and the retention of the stream are.
	serverStore = 1 << 60
	// serverPending is the most that the server queues for one connection before
	// it cuts it off. Fetches stay far below (see maxFlights).
	serverPending = 128 << 20

	// statePayload is how large a value of a state may be at least. The largest event that the
	// journal may have, with what a list keeps of it, is not larger.
	statePayload = 9 << 20

	readyTimeout = 60 * time.Second
	readyPoll    = time.Millisecond
)

// session is one run of the embedded server with the connections that must not
// outlive it. Records are published and read over connections of their own, since
// the server works off a read within the connection that asked.
type session struct {
	server    *server.Server
	pub, read *nats.Conn
	acks      string // prefix of reply subjects of published records
	gone      chan struct{}
}

// startServer starts the embedded server on dir and waits until it has recovered
// what is there. alarm is called when the server logs an error.
func startServer(ctx context.Context, dir string, maxPayload int, log *slog.Logger, alarm func()) (*server.Server, error) {
	if err := repairStreams(dir, log); err != nil {
		return nil, err
	}
	s, err := server.NewServer(&server.Options{
		ServerName:             "tocsin",
		DontListen:             true,
		NoSigs:                 true,
		NoLog:                  true,
		JetStream:              true,
		StoreDir:               dir,
		SyncAlways:             true,
		JetStreamMaxMemory:     serverMemory,
		JetStreamMaxStore:      serverStore,
		MaxPayload:             int32(maxPayload),
		MaxPending:             serverPending,
		DisableJetStreamBanner: true,
		DisableShortFirstPing:  true,
	})
	if err != nil {
		return nil, fmt.Errorf("configure embedded server: %w", err)
	}
	bridge := &serverLog{log: log, alarm: alarm}
	s.SetLoggerV2(bridge, false, false, false)
	s.Start()
	if err := awaitReady(ctx, s); err != nil {
		s.Shutdown()
		s.WaitForShutdown()
		if fatal := bridge.fatal.Load(); fatal != nil {
			err = fmt.Errorf("embedded server: %s", *fatal)
		}
		return nil, err
	}
	return s, nil
}

// awaitReady waits for the server and for every stream on disk: a stream that
// could not be recovered must not be created anew over its data.
func awaitReady(ctx context.Context, s *server.Server) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for !s.ReadyForConnections(readyPoll) {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("wait for embedded server: %w", err)
		}
	}
	if !s.JetStreamEnabled() {
		return errors.New("embedded server could not open its store; its log says why")
	}
	return serverHealth(s)
}

// serverHealth returns the write error or the failed recovery of any stream.
func serverHealth(s *server.Server) error {
	h := s.Healthz(&server.HealthzOptions{Details: true})
	// The server gives itself a millisecond to say that it is ready, which a busy machine exceeds.
	for range 10 {
		if len(h.Errors) == 0 || h.Errors[0].Type != server.HealthzErrorConn || !s.ReadyForConnections(time.Second) {
			break
		}
		h = s.Healthz(&server.HealthzOptions{Details: true})
	}
	for _, problem := range h.Errors {
		// The directory of a stream that is deleted gets a dot in front and is removed in
		// the background, also after the next start.
		if problem.Type == server.HealthzErrorStream && strings.HasPrefix(problem.Stream, ".") {
			continue
		}
		return fmt.Errorf("embedded server: %s", problem.Error)
	}
	return nil
}

// currentServer lets a connection that outlives an embedded server find the next
// one. It implements nats.InProcessConnProvider.
type currentServer struct{ *Journal }

func (c currentServer) InProcessConn() (net.Conn, error) {
	s := c.session.Load()
	if s == nil {
		return nil, errors.New("embedded server is restarting")
	}
	return s.server.InProcessConn()
}

func connect(name string, provider nats.InProcessConnProvider, options ...nats.Option) (*nats.Conn, error) {
	options = append([]nats.Option{
		nats.Name(name),
		nats.InProcessServer(provider),
		nats.Timeout(10 * time.Second),
		// What cannot be sent now must fail now, not be sent after a restart.
		nats.ReconnectBufSize(-1),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}),
	}, options...)
	nc, err := nats.Connect("", options...)
	if err != nil {
		return nil, fmt.Errorf("connect to embedded server: %w", err)
	}
	return nc, nil
}

// openSession starts a server and the session's connections. Acks of published
// records go to onAck, with the number that the publisher gave.
func (j *Journal) openSession(ctx context.Context) (_ *session, err error) {
	srv, err := startServer(ctx, j.dir.path, max(j.limits.payload, statePayload), j.log, j.alarm)
	if err != nil {
		return nil, err
	}
	s := &session{server: srv, acks: nats.NewInbox() + ".", gone: make(chan struct{})}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.pub, err = connect("tocsin journal writer", srv, nats.NoReconnect()); err != nil {
		return nil, err
	}
	if s.read, err = connect("tocsin journal readers", srv, nats.NoReconnect()); err != nil {
		return nil, err
	}
	sub, err := s.pub.Subscribe(s.acks+"*", func(m *nats.Msg) {
		select {
		case j.acks <- parseAck(s, m):
		case <-j.stopped:
		case <-s.gone:
		}
	})
	if err == nil {
		err = errors.Join(sub.SetPendingLimits(-1, -1), s.pub.Flush())
	}
	if err != nil {
		return nil, fmt.Errorf("subscribe to acknowledgements: %w", err)
	}
	return s, nil
}

// close ends the connections and the server and returns when all files are
// closed.
func (s *session) close() {
	close(s.gone)
	for _, nc := range []*nats.Conn{s.pub, s.read} {
		if nc != nil {
			nc.Close()
		}
	}
	s.server.Shutdown()
	s.server.WaitForShutdown()
}

// ack is the server's answer to one published record.
type ack struct {
	session *session
	number  uint64 // as given to publish
	seq     uint64 // of the stored record
	err     error
}

// publish sends a record. The server stores it only directly after record
// last, so that a record whose fate is unknown can never be followed by one that
// assumes it away. data is not used after the return.
func (s *session) publish(number, last uint64, data []byte) error {
	return s.pub.PublishMsg(&nats.Msg{
		Subject: streamSubject,
		Reply:   s.acks + strconv.FormatUint(number, 36),
		Header:  nats.Header{jetstream.ExpectedLastSeqHeader: []string{strconv.FormatUint(last, 10)}},
		Data:    data,
	})
}

func parseAck(s *session, m *nats.Msg) ack {
	a := ack{session: s}
	a.number, _ = strconv.ParseUint(m.Subject[len(s.acks):], 36, 64)
	if status := m.Header.Get("Status"); status != "" {
		a.err = fmt.Errorf("embedded server answered with status %s %s", status, m.Header.Get("Description"))
		return a
	}
	var answer struct {
		Error *jetstream.APIError `json:"error"`
		Seq   uint64              `json:"seq"`
	}
	switch err := json.Unmarshal(m.Data, &answer); {
	case err != nil:
		a.err = fmt.Errorf("read acknowledgement: %w", err)
	case answer.Error != nil:
		a.err = answer.Error
	case answer.Seq == 0:
		a.err = errors.New("acknowledgement without a sequence")
	}
	a.seq = answer.Seq
	return a
}

// ensureStream creates the journal's stream in a new data directory, and changes
// the configuration of an existing one where it is different. A stream that is on
// disk is known to the server, or it would not be ready.
func (j *Journal) ensureStream(ctx context.Context, js jetstream.JetStream) error {
	config := jetstream.StreamConfig{
		Name:        streamName,
		Description: "Tocsin's journal: one message is one record of many events.",
		Subjects:    []string{streamSubject},
		Storage:     jetstream.FileStorage,
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardOld,
		MaxBytes:    j.config.MaxBytes,
		MaxMsgSize:  int32(j.limits.payload),
		Replicas:    1,
		AllowDirect: true,
		// Producers have their own ids; the server's window would only cost memory.
		Duplicates: time.Second,
	}
	if config.MaxBytes == 0 {
		config.MaxBytes = -1
	}
	stream, err := js.Stream(ctx, streamName)
	if err == nil {
		if was := stream.CachedInfo().Config; was.MaxBytes == config.MaxBytes && was.MaxMsgSize == config.MaxMsgSize {
			return nil
		}
	}
	if _, err := js.CreateOrUpdateStream(ctx, config); err != nil {
		return fmt.Errorf("open journal stream: %w", err)
	}
	return nil
}

// serverLog takes the embedded server's log. Only what somebody should read goes
// on; the rest is the server's private business.
type serverLog struct {
	log   *slog.Logger
	alarm func()
	fatal atomic.Pointer[string]
}

func (l *serverLog) Noticef(string, ...any) {}
func (l *serverLog) Debugf(string, ...any)  {}
func (l *serverLog) Tracef(string, ...any)  {}

func (l *serverLog) Warnf(format string, v ...any) {
	if strings.HasPrefix(format, "Maximum payloads over ") {
		return // they are meant: statePayload
	}
	l.log.Warn("embedded server: " + fmt.Sprintf(format, v...))
}

func (l *serverLog) Errorf(format string, v ...any) {
	l.log.Error("embedded server: " + fmt.Sprintf(format, v...))
	l.alarm()
}

// Fatalf keeps the reason why the server gave up, for the error of whoever started
// it; the program goes on.
func (l *serverLog) Fatalf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.fatal.Store(&text)
	l.Errorf("%s", text)
}
