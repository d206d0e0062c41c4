package vaultplugin

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	pb "github.com/tocsin-events/tocsin/proto/tocsin/vaultplugin/v1"
)

const (
	// maxHostCalls bounds the calls of a plugin that are served at the same time on one
	// connection. More wait in the plugin.
	maxHostCalls = 64
	// maxHostConns is one more than a plugin needs, which may replace one that broke.
	maxHostConns = 2

	defaultLeaseTTL = 768 * time.Hour
)

// hostServer serves storage, system view, events and observations to one backend.
type hostServer struct {
	setup   Setup
	options *Options
	server  *grpc.Server
	served  sync.WaitGroup
}

// serveHost serves on a listener until stop is called.
func serveHost(ln net.Listener, tlsConfig *tls.Config, setup Setup, o *Options) *hostServer {
	h := &hostServer{setup: setup, options: o}
	h.server = grpc.NewServer(
		grpc.Creds(credentials.NewTLS(tlsConfig)),
		grpc.MaxRecvMsgSize(o.MaxEntry),
		grpc.MaxSendMsgSize(o.MaxMessage),
		grpc.MaxConcurrentStreams(maxHostCalls),
		grpc.MaxHeaderListSize(16<<10),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.WaitForHandlers(true),
	)
	for _, s := range []*grpc.ServiceDesc{storageService, eventsService, observationsService, systemService} {
		h.server.RegisterService(s, h)
	}
	h.served.Go(func() { _ = h.server.Serve(&limitedListener{Listener: ln, free: maxHostConns}) })
	return h
}

// stop ends all calls and returns when they are over.
func (h *hostServer) stop() {
	h.server.Stop()
	h.served.Wait()
}

func (h *hostServer) panicked(method string, r any, stack []byte) {
	h.options.Logger.Error("serving a plugin failed", "method", method, "panic", fmt.Sprint(r), "stack", string(stack))
}

// bound gives a call of the plugin a time limit.
func (h *hostServer) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, h.options.CallTimeout)
}

// checkKey refuses the keys that [Storage] excludes.
func checkKey(key string) error {
	if key == "" {
		return errors.New("the storage key is empty")
	}
	return checkPrefix(key)
}

func checkPrefix(key string) error {
	if !utf8.ValidString(key) || strings.ContainsRune(key, 0) {
		return errors.New("the storage key is not text")
	}
	for element := range strings.SplitSeq(key, "/") {
		if element == ".." {
			return fmt.Errorf("the storage key %.200q leaves the mount", key)
		}
	}
	return nil
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return strings.ToValidUTF8(err.Error(), "\uFFFD")
}

func (h *hostServer) list(ctx context.Context, r *pb.StorageListRequest) (*pb.StorageListReply, error) {
	if err := checkPrefix(r.Prefix); err != nil {
		return &pb.StorageListReply{Error: errorText(err)}, nil
	}
	ctx, cancel := h.bound(ctx)
	defer cancel()
	keys, err := h.setup.Storage.List(ctx, r.Prefix)
	return &pb.StorageListReply{Keys: keys, Error: errorText(err)}, nil
}

func (h *hostServer) get(ctx context.Context, r *pb.StorageGetRequest) (*pb.StorageGetReply, error) {
	if err := checkKey(r.Key); err != nil {
		return &pb.StorageGetReply{Error: errorText(err)}, nil
	}
	ctx, cancel := h.bound(ctx)
	defer cancel()
	entry, err := h.setup.Storage.Get(ctx, r.Key)
	reply := &pb.StorageGetReply{Error: errorText(err)}
	if entry != nil {
		reply.Entry = &pb.StorageEntry{Key: entry.Key, Value: entry.Value, SealWrap: entry.SealWrap}
	}
	return reply, nil
}

func (h *hostServer) put(ctx context.Context, r *pb.StoragePutRequest) (*pb.StoragePutReply, error) {
	entry := r.GetEntry()
	if err := checkKey(entry.GetKey()); err != nil {
		return &pb.StoragePutReply{Error: errorText(err)}, nil
	}
	ctx, cancel := h.bound(ctx)
	defer cancel()
	err := h.setup.Storage.Put(ctx, &StorageEntry{Key: entry.Key, Value: entry.Value, SealWrap: entry.SealWrap})
	return &pb.StoragePutReply{Error: errorText(err)}, nil
}

func (h *hostServer) delete(ctx context.Context, r *pb.StorageDeleteRequest) (*pb.StorageDeleteReply, error) {
	if err := checkKey(r.Key); err != nil {
		return &pb.StorageDeleteReply{Error: errorText(err)}, nil
	}
	ctx, cancel := h.bound(ctx)
	defer cancel()
	return &pb.StorageDeleteReply{Error: errorText(h.setup.Storage.Delete(ctx, r.Key))}, nil
}

func (h *hostServer) sendEvent(ctx context.Context, r *pb.SendEventRequest) (*pb.Empty, error) {
	if h.setup.SendEvent == nil {
		return noReply, nil
	}
	data, err := eventFromWire(r.Event)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	ctx, cancel := h.bound(ctx)
	defer cancel()
	if err := h.setup.SendEvent(ctx, r.EventType, data); err != nil {
		return nil, callError(err)
	}
	return noReply, nil
}

func (h *hostServer) recordObservation(ctx context.Context, r *pb.RecordObservationRequest) (*pb.Empty, error) {
	if h.setup.RecordObservation == nil {
		return noReply, nil
	}
	data, err := fieldsFromWire(r.Data)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	ctx, cancel := h.bound(ctx)
	defer cancel()
	if err := h.setup.RecordObservation(ctx, r.ObservationType, data); err != nil {
		return nil, callError(err)
	}
	return noReply, nil
}

// callError is what a plugin sees of an error of the host.
func callError(err error) error {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, errorText(err))
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, errorText(err))
	}
	return status.Error(codes.Unknown, errorText(err))
}

// limitedListener accepts few connections at a time and closes others.
type limitedListener struct {
	net.Listener
	mu   sync.Mutex
	free int
}

func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		l.mu.Lock()
		ok := l.free > 0
		if ok {
			l.free--
		}
		l.mu.Unlock()
		if ok {
			return &limitedConn{Conn: c, listener: l}, nil
		}
		c.Close()
	}
}

type limitedConn struct {
	net.Conn
	listener *limitedListener
	once     sync.Once
}

func (c *limitedConn) Close() error {
	c.once.Do(func() {
		c.listener.mu.Lock()
		c.listener.free++
		c.listener.mu.Unlock()
	})
	return c.Conn.Close()
}
