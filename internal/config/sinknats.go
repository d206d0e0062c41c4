package config

import (
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/tocsin-events/tocsin/internal/sink/nats"
	"github.com/tocsin-events/tocsin/internal/sink/nats/subject"
)

// SinkNATS is the section "sinks[].nats".
type SinkNATS struct {
	URLs        []string   `yaml:"urls" doc:"Servers of one cluster, of which one that answers is enough: nats://nats.example.com:4222, tls://..."`
	Subject     string     `yaml:"subject" doc:"Subject of messages: {type}, {namespace}, {path} and {source} are replaced by those of the event, / becoming a dot, and what is no letter, digit, - or _ becoming _. A stream must have it."`
	Format      SinkFormat `yaml:"format" oneof:"cloudevents,vault,raw,flipt" doc:"What a message is, as of files."`
	Username    string     `yaml:"username" doc:"The user."`
	Password    Secret     `yaml:"password" doc:"Its password, as {env: NAME} or {file: PATH}."`
	Token       Secret     `yaml:"token" doc:"A token instead, as {env: NAME} or {file: PATH}."`
	Credentials Secret     `yaml:"credentials" doc:"A credentials file (JWT and seed) instead, as {file: PATH}."`
	TLS         SinkTLS    `yaml:"tls" doc:"How a TLS connection is checked. With any of it there is no connection without TLS."`

	InsecureAllowPlain bool `yaml:"insecure_allow_plain" doc:"true logs in with a password or token also without TLS to other machines: whoever is on the way can read it."`
}

func defaultSinkNATS() SinkNATS {
	return SinkNATS{Subject: "tocsin.{type}", Format: "cloudevents"}
}

// maxNATSServers bounds a list of servers of which one that answers is enough.
const maxNATSServers = 16

// sinkNATS checks what holds between the fields of the section at key.
func (v *validator) sinkNATS(key string, c *SinkNATS) {
	switch n := len(c.URLs); {
	case n == 0:
		v.report(key+".urls", "must name at least one server, as [nats://nats.example.com:4222]")
	case n > maxNATSServers:
		v.report(key+".urls", "has %d elements, at most %d are possible", n, maxNATSServers)
	}
	for i, u := range c.URLs {
		if err := nats.CheckURL(u); err != nil {
			v.report(fmt.Sprintf("%s.urls[%d]", key, i), "%v", err)
		}
	}
	if _, err := subject.Parse(c.Subject); err != nil {
		v.report(key+".subject", "%v", err)
	}
	var ways []string
	for _, way := range []struct {
		name string
		used bool
	}{{"username", c.Username != "" || c.Password.IsSet()}, {"token", c.Token.IsSet()}, {"credentials", c.Credentials.IsSet()}} {
		if way.used {
			ways = append(ways, way.name)
		}
	}
	switch {
	case len(ways) > 1:
		v.report(key, "has more than one way to log in: %s; keep one", strings.Join(ways, " and "))
	case (c.Username != "") != c.Password.IsSet():
		v.report(key, "needs both username and password, or none of them")
	case c.Password.IsSet() || c.Token.IsSet():
		v.natsPlain(key, c)
	}
	if c.TLS.Cert.IsSet() != c.TLS.Key.IsSet() {
		v.report(key+".tls", "needs both cert and key, or none of them")
	}
}

// natsPlain reports secrets that could be sent readable to another machine.
func (v *validator) natsPlain(key string, c *SinkNATS) {
	if c.InsecureAllowPlain || c.TLS != (SinkTLS{}) {
		return
	}
	for i, text := range c.URLs {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "nats" || IsLoopback(net.JoinHostPort(u.Hostname(), "4222")) {
			continue
		}
		v.report(fmt.Sprintf("%s.urls[%d]", key, i), "begins with nats://, so the password or token could be readable for everybody on the way to %s; write tls://, or set insecure_allow_plain: true", shorten(u.Host))
	}
}
