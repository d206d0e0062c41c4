// Package hubplugin is a source plugin whose streams are subscriptions to a hub, and which extracts
// the hub's own fields from events. It is what brings the events of a hub into Falco.
//
// The payload of its events is the CloudEvent, as in captures, so it also extracts fields from
// captures that a hub has written.
package hubplugin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"sync/atomic"

	"github.com/tocsin-events/tocsin/internal/falcoevent"
	"github.com/tocsin-events/tocsin/internal/vaultclient"
	"github.com/tocsin-events/tocsin/plugin"
)

// Name is the name of the plugin.
const Name = "tocsin"

// Config is the config of the plugin. All of it can be left out, and is then that of the
// environment, or of the params of a stream.
type Config struct {
	Address       string   `json:"address,omitempty" jsonschema_description:"URL of the hub. Default: $TOCSIN_ADDR, or http://127.0.0.1:8280."`
	Token         string   `json:"token,omitempty" jsonschema_description:"Token of the hub. Better name a file."`
	TokenFile     string   `json:"token_file,omitempty" jsonschema_description:"File with the token, which is read again when the hub refuses. Default: $TOCSIN_TOKEN."`
	Namespace     string   `json:"namespace,omitempty" jsonschema_description:"Namespace of the token. Default: $TOCSIN_NAMESPACE, or the root namespace."`
	Namespaces    []string `json:"namespaces,omitempty" jsonschema_description:"Globs of further namespaces below it whose events are wanted: * for all."`
	CACert        string   `json:"ca_cert,omitempty" jsonschema_description:"PEM file with the authorities that sign the certificate of the hub. Default: $TOCSIN_CACERT, or those of the machine."`
	ClientCert    string   `json:"client_cert,omitempty" jsonschema_description:"PEM file with a certificate for a hub that asks for one. Default: $TOCSIN_CLIENT_CERT."`
	ClientKey     string   `json:"client_key,omitempty" jsonschema_description:"PEM file with the key of client_cert. Default: $TOCSIN_CLIENT_KEY."`
	TLSServerName string   `json:"tls_server_name,omitempty" jsonschema_description:"Name in the certificate of the hub if it is not that in its address. Default: $TOCSIN_TLS_SERVER_NAME."`
	Types         []string `json:"types,omitempty" jsonschema_description:"Globs of the types of the events that are wanted. Default: all."`
	Filter        string   `json:"filter,omitempty" jsonschema_description:"Filter of the events, as for a subscription."`
	Since         string   `json:"since,omitempty" jsonschema_description:"Where to begin: oldest, a duration (15m), a time (RFC 3339), the id of an event, or a position. Default: now."`
	PositionFile  string   `json:"position_file,omitempty" jsonschema_description:"File that keeps how far the stream was read, so that the next one goes on there. since counts only as long as there is none."`
	MaxEventBytes int64    `json:"max_event_bytes,omitempty" jsonschema:"minimum=1024,maximum=268435456" jsonschema_description:"The largest event that is taken, in JSON. Default: 64 MiB."`
}

// Info is what the plugin says of itself.
func Info() plugin.Info {
	return plugin.Info{
		Name: Name, Version: version(), Description: "Events of a Tocsin hub: notifications and audit entries of Vault and OpenBao, and whatever else is sent to it",
		Contact: "https://github.com/tocsin-events/tocsin", ID: falcoevent.PluginID, EventSource: falcoevent.EventSource,
		Resumes: true, Fields: fields(),
	}
}

// version is that of the module, as a plugin must have it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range append([]*debug.Module{&info.Main}, info.Deps...) {
			if v, ok := strings.CutPrefix(m.Version, "v"); ok && m.Path == "github.com/tocsin-events/tocsin" {
				return v
			}
		}
	}
	return "0.0.0-devel"
}

// New declares the plugin.
func New() *plugin.Plugin {
	return plugin.New(Info(), func(_ context.Context, c Config) (*hubPlugin, error) {
		c = c.withEnvironment()
		// Who only extracts fields needs neither a hub nor a token.
		if err := c.check(); err != nil {
			return nil, err
		}
		return &hubPlugin{config: c}, nil
	})
}

// hubPlugin implements [plugin.Opener] and what else there is.
type hubPlugin struct {
	config  Config
	counts  counts
	extract extractor
}

// counts are of all streams.
type counts struct {
	events, bytes, connects, gaps, refused atomic.Uint64
	connected                              atomic.Int64
}

// Metrics implements [plugin.Measurer].
func (p *hubPlugin) Metrics() []plugin.Metric {
	c := &p.counts
	return []plugin.Metric{
		{Name: "events", Value: float64(c.events.Load()), Monotonic: true},
		{Name: "bytes", Value: float64(c.bytes.Load()), Monotonic: true},
		{Name: "connects", Value: float64(c.connects.Load()), Monotonic: true},
		{Name: "gaps", Value: float64(c.gaps.Load()), Monotonic: true},
		{Name: "refused", Value: float64(c.refused.Load()), Monotonic: true},
		{Name: "connected", Value: float64(c.connected.Load())},
	}
}

// withEnvironment fills in what the environment says.
func (c Config) withEnvironment() Config {
	if c.Token == "" && c.TokenFile == "" {
		c.Token = os.Getenv("TOCSIN_TOKEN")
	}
	c.Address = cmp.Or(c.Address, os.Getenv("TOCSIN_ADDR"), "http://127.0.0.1:8280")
	c.Namespace = cmp.Or(c.Namespace, os.Getenv("TOCSIN_NAMESPACE"))
	c.CACert = cmp.Or(c.CACert, os.Getenv("TOCSIN_CACERT"))
	c.ClientCert = cmp.Or(c.ClientCert, os.Getenv("TOCSIN_CLIENT_CERT"))
	c.ClientKey = cmp.Or(c.ClientKey, os.Getenv("TOCSIN_CLIENT_KEY"))
	c.TLSServerName = cmp.Or(c.TLSServerName, os.Getenv("TOCSIN_TLS_SERVER_NAME"))
	return c
}

// token returns the token as it is now.
func (c *Config) token() (string, error) {
	if c.TokenFile == "" {
		return c.Token, nil
	}
	f, err := os.Open(c.TokenFile)
	if err != nil {
		return "", fmt.Errorf("token_file: %w", err)
	}
	defer f.Close()
	const most = 64 << 10
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	token := strings.TrimRight(string(b), "\r\n")
	switch {
	case err != nil:
		return "", fmt.Errorf("token_file: %w", err)
	case token == "" || len(b) > most:
		return "", fmt.Errorf("token_file: %s has no token", c.TokenFile)
	}
	return token, nil
}

// transport returns what connects to the hub.
func (c *Config) transport() (*http.Transport, error) {
	tls := vaultclient.TLS{CACert: c.CACert, ClientCert: c.ClientCert, ClientKey: c.ClientKey, ServerName: c.TLSServerName}
	t, err := tls.Transport()
	if err != nil {
		return nil, err
	}
	return t, nil
}

var errTokenTwice = errors.New("token and token_file cannot both be given; name the file")
