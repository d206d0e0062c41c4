package config

import (
	"fmt"
	"net"
	"net/netip"
	"path"
	"strconv"
	"strings"
	"time"
)

// Listen is the section "listen".
type Listen struct {
	Address         string       `yaml:"address" doc:"Host and port. Port 0 takes a free one; an empty host means every interface."`
	TLS             TLS          `yaml:"tls" doc:"Certificate for HTTPS and WSS, of TLS 1.2 at least. Needed unless the address is on loopback."`
	SendUnencrypted bool         `yaml:"dangerously_send_tokens_unencrypted" doc:"true listens on other than loopback without TLS: everybody on the way can then read tokens and events, and use the tokens. Only for a network in which something else encrypts."`
	AllowedOrigins  []string     `yaml:"allowed_origins" doc:"Web pages that may subscribe from a browser besides those of this host: patterns for host and port, or with scheme. Example: [\"*.example.com\", \"https://ops.example.org\"]."`
	MaxConnections  int          `yaml:"max_connections" min:"16" max:"1000000" doc:"Open connections that are not subscriptions, for which there is subscriptions.max. Further ones are closed at once."`
	MaxPerAddress   int          `yaml:"max_connections_per_address" min:"1" max:"1000000" zero:"no limit of its own" doc:"How many of these one address may have; of IPv6, one network of 64 bits. Raise it for a proxy that all come through."`
	FailedLogins    FailedLogins `yaml:"failed_logins" doc:"How often one address may send tokens that are not valid. Beyond that it is refused (429), except with tokens that were valid lately."`
}

// TLS is the section "listen.tls". Both files of the certificate are set, or none.
type TLS struct {
	CertFile     string     `yaml:"cert_file" doc:"PEM file with the certificate and its chain. Read again when it changes."`
	KeyFile      string     `yaml:"key_file" doc:"PEM file with the private key."`
	ClientAuth   ClientAuth `yaml:"client_auth" oneof:"none,optional,require" doc:"Certificates of clients: none asks for none, optional checks one that is sent, require refuses clients without one. A client needs a token as well."`
	ClientCAFile string     `yaml:"client_ca_file" doc:"PEM file with the authorities that sign the certificates of clients. Read again when it changes."`
}

// ClientAuth says whether clients have to have certificates.
type ClientAuth string

// Whether clients have to have certificates.
const (
	ClientAuthNone     ClientAuth = "none"
	ClientAuthOptional ClientAuth = "optional"
	ClientAuthRequire  ClientAuth = "require"
)

// Enabled reports whether the server speaks TLS.
func (t TLS) Enabled() bool { return t.CertFile != "" }

// FailedLogins is the section "listen.failed_logins": a rate of Max/Per with bursts
// of Max.
type FailedLogins struct {
	Max int      `yaml:"max" min:"1" max:"1000000" zero:"no limit" doc:"This often."`
	Per Duration `yaml:"per" min:"1s" max:"1d" doc:"In this time."`
}

func defaultListen() Listen {
	return Listen{
		Address:        "127.0.0.1:8280",
		TLS:            TLS{ClientAuth: ClientAuthNone},
		MaxConnections: 10_000,
		MaxPerAddress:  1_000,
		FailedLogins:   FailedLogins{Max: 100, Per: Duration(10 * time.Second)},
	}
}

func (v *validator) listen(l Listen) {
	if err := CheckAddress(l.Address); err != nil {
		v.report("listen.address", "%v", err)
	} else if !IsLoopback(l.Address) && !l.TLS.Enabled() && l.TLS.KeyFile == "" && !l.SendUnencrypted {
		v.report("listen.address", "%q can be reached from other machines, and without TLS everybody on the way can read the tokens; "+
			"set listen.tls, or listen on 127.0.0.1 behind something that encrypts, or, if the network itself does, "+
			"set listen.dangerously_send_tokens_unencrypted to true", l.Address)
	}
	switch t := l.TLS; {
	case t.CertFile != "" && t.KeyFile == "":
		v.report("listen.tls", "cert_file is set but key_file is not; TLS needs both")
	case t.CertFile == "" && t.KeyFile != "":
		v.report("listen.tls", "key_file is set but cert_file is not; TLS needs both")
	case v.reported("listen.tls.client_auth"):
	case t.ClientAuth != ClientAuthNone && t.ClientCAFile == "":
		v.report("listen.tls", "client_auth is %s but client_ca_file is not set; say who signs the certificates of clients", t.ClientAuth)
	case t.ClientAuth == ClientAuthNone && t.ClientCAFile != "":
		v.report("listen.tls", "client_ca_file has no effect while client_auth is none; set client_auth to optional or require")
	case t.ClientAuth != ClientAuthNone && !t.Enabled():
		v.report("listen.tls", "client_auth is %s but there is no TLS; set cert_file and key_file too", t.ClientAuth)
	}
	for i, pattern := range l.AllowedOrigins {
		if _, err := path.Match(pattern, ""); err != nil {
			v.report(fmt.Sprintf("listen.allowed_origins[%d]", i), "%q is not a pattern: %v", pattern, err)
		}
	}
}

// CheckAddress returns nil when a is a host and port to listen on.
func CheckAddress(a string) error {
	_, port, err := net.SplitHostPort(a)
	if err != nil {
		return fmt.Errorf("%q is not an address; write host:port, for example 127.0.0.1:8280", a)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return fmt.Errorf("%q has no valid port; ports are 0 to 65535", a)
	}
	return nil
}

// IsLoopback reports whether an address of the form host:port can only be reached
// from this machine. Of names, only localhost is taken to be one.
func IsLoopback(a string) bool {
	host, _, err := net.SplitHostPort(a)
	if err != nil {
		return false
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
