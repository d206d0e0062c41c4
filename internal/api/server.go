package api

import (
	"log/slog"
	"net/http"
	"time"
)

// Limits of [NewServer].
const (
	readHeaderTimeout = 10 * time.Second
	readTimeout       = time.Minute
	writeTimeout      = 10 * time.Minute
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 64 << 10
)

// Limits of an HTTP/2 connection. How many requests it may have at once multiplies what
// a connection can cost; what its requests have sent and nobody has read yet does not.
const (
	maxStreams        = 100
	maxReceiveBytes   = 1 << 20
	pingAfter         = 30 * time.Second // of silence, while there are requests or not
	pingTimeout       = 15 * time.Second
	writeStallTimeout = time.Minute
)

// NewServer returns a server with limits on what a client can make it wait for
// and keep. Subscriptions leave these limits with their handshake.
//
// It speaks HTTP/1.1 and HTTP/2: with TLS what the client and the settings of the
// listener agree on, without it either, as the client begins.
func NewServer(h http.Handler, log *slog.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Protocols: protocols,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxStreams,
			MaxReceiveBufferPerConnection: maxReceiveBytes,
			MaxReceiveBufferPerStream:     maxReceiveBytes,
			SendPingTimeout:               pingAfter,
			PingTimeout:                   pingTimeout,
			WriteByteTimeout:              writeStallTimeout,
		},
		Handler:           h,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
