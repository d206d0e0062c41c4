package pluginwire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
)

// ErrNotHosted is returned by Serve if the hub did not start this process.
var ErrNotHosted = errors.New("this is a plugin of Tocsin, which starts it itself: try \"tocsin plugin run\", or name it in plugins.sources of the configuration")

// Main is the main function of a plugin: it serves the offer and returns the exit code of the
// process. What the plugin prints to os.Stdout meanwhile goes to standard error, that is, into the
// log of the hub, so that it does not come before what the hub has to read.
func Main(o Offer) int {
	out := os.Stdout
	os.Stdout = os.Stderr
	defer func() { os.Stdout = out }()
	if err := Serve(o, out, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		return 1
	}
	return 0
}

// Hosted says whether the hub, or another program that speaks the protocol, has started this
// process as a plugin.
func Hosted() bool { return os.Getenv(CookieKey) == CookieValue }

// Serve serves the offer on a socket until the hub wants it to end, and closes the plugin then.
// It tells where the socket is on out, which should be standard output; nothing else may be
// written there before. What it has to log itself goes to log.
func Serve(o Offer, out, log io.Writer) error {
	if !Hosted() {
		return ErrNotHosted
	}
	if !offersVersion(os.Getenv("PLUGIN_PROTOCOL_VERSIONS")) {
		return fmt.Errorf("the hub speaks other versions of the plugin protocol (%q) than this plugin, which speaks %d; build it with a newer SDK, or get a newer hub", os.Getenv("PLUGIN_PROTOCOL_VERSIONS"), ProtocolVersion)
	}
	go endWithParent()
	s := NewServer(o)
	// What go-plugin calls a test is a server that leaves standard output and standard error to
	// this process. Otherwise the last words of a plugin that ends would be lost.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	listening := make(chan *plugin.ReattachConfig, 1)
	over := make(chan struct{})
	go plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig:  plugin.HandshakeConfig{MagicCookieKey: CookieKey, MagicCookieValue: CookieValue},
		VersionedPlugins: map[int]plugin.PluginSet{ProtocolVersion: {PluginName: &Connector{Service: s}}},
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(opts, ServerOptions()...)...)
		},
		Logger: hclog.New(&hclog.LoggerOptions{Output: log, JSONFormat: true, Level: hclog.Warn}),
		Test:   &plugin.ServeTestConfig{Context: ctx, ReattachConfigCh: listening, CloseCh: over},
	})
	var failed error
	select {
	case at := <-listening:
		// Its parts: version of the handshake, of the protocol, where it listens, what it speaks.
		if _, err := fmt.Fprintf(out, "1|%d|%s|%s|grpc|\n", ProtocolVersion, at.Addr.Network(), at.Addr.String()); err != nil {
			failed = fmt.Errorf("tell the hub where the plugin listens: %w", err)
			cancel()
		}
		<-over
	case <-over:
		failed = errors.New("the plugin cannot listen on a socket; what it has logged says why")
	}
	closing, done := context.WithTimeout(context.Background(), closeTime)
	defer done()
	return errors.Join(failed, s.Close(closing))
}

// endWithParent ends this process when the one that started it is gone, which may be a script
// between it and the hub. A hub that is killed cannot do that itself.
func endWithParent() {
	parent := os.Getppid()
	for range time.Tick(parentEvery) {
		if os.Getppid() != parent {
			os.Exit(1)
		}
	}
}

const parentEvery = 500 * time.Millisecond

// offersVersion says whether our version is one of those in a list.
func offersVersion(list string) bool {
	for one := range strings.SplitSeq(list, ",") {
		if strings.TrimSpace(one) == fmt.Sprint(ProtocolVersion) {
			return true
		}
	}
	return list == ""
}
