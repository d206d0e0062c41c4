package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Source is one element of "sources": one audit device of one server, or one Flipt server.
type Source struct {
	Name          string      `yaml:"name" doc:"Names the source in metrics, logs and health, and, unless server is set, in events (vault://NAME). Lower-case letters, digits, - and _. Changing it makes the source start again."`
	Type          SourceType  `yaml:"type" oneof:"vault_audit_file,vault_audit_socket,vault_audit_syslog,vault_audit_http,flipt" doc:"vault_audit_file follows the file of an audit device of Vault or OpenBao; vault_audit_socket, _syslog and _http receive what the device of that kind sends. flipt receives the webhooks of a Flipt server at /api/v1/ingest/flipt/NAME."`
	Server        string      `yaml:"server" doc:"The server (or cluster) that the device belongs to: events have the source vault://SERVER. What arrives over several devices of one server is one: an entry that came over one of them is recognised when it comes over another. Empty: the name."`
	Path          string      `yaml:"path" doc:"File: the file, or a pattern such as /var/log/openbao/audit-*.log. Files may be missing, rotated, truncated or replaced at any time."`
	Paths         []string    `yaml:"paths" doc:"File: further files or patterns."`
	From          From        `yaml:"from" oneof:"start,end" doc:"File: where to begin the first time: start or end of the file. Later runs go on where the last one ended."`
	Address       string      `yaml:"address" doc:"Socket, syslog, HTTP: where the device sends to: unix:/run/tocsin/audit.sock, tcp:127.0.0.1:9090, and, except for HTTP, unixgram:PATH or udp:HOST:PORT. systemd:NAME takes the socket that systemd holds under this name (FileDescriptorName=); one that systemd holds for the same address is taken by itself."`
	Socket        UnixSocket  `yaml:"unix_socket" doc:"Socket, syslog, HTTP: the file of a unix: or unixgram: address."`
	TLS           TLS         `yaml:"tls" doc:"Socket, syslog, HTTP, over tcp: certificate for TLS. The socket device cannot speak it, something in front of it can."`
	Allow         []string    `yaml:"allow" doc:"Socket, syslog, HTTP, over tcp and udp: addresses and networks that may send; others are cut off. Empty: anybody who reaches the address, which then must be on loopback or ask for client certificates or a secret."`
	Secret        Secret      `yaml:"secret" doc:"HTTP: what requests must have, as {env: NAME} or {file: PATH}. Sent as Authorization: Bearer SECRET, or in secret_header as it is."`
	SecretHeader  string      `yaml:"secret_header" doc:"HTTP: the header that has the secret. Empty: Authorization."`
	MaxSenders    int         `yaml:"max_connections" min:"1" max:"100000" doc:"Socket, syslog, HTTP: open connections; when there are more, the one that was silent longest is closed."`
	Spool         Spool       `yaml:"spool" doc:"Socket, syslog, HTTP: what keeps entries while the journal is slow, full or down, so that the server never waits."`
	KeepRaw       bool        `yaml:"keep_raw" doc:"true stores unhashed values of a device with log_raw=true as they are. false redacts them before anything is stored in the journal."`
	MaxLine       Size        `yaml:"max_line" min:"4KiB" max:"64MiB" doc:"A longer line is skipped, counted and reported."`
	HoldUncertain bool        `yaml:"hold_uncertain" doc:"true keeps back notifications of which it is not certain that something changed. false sends them with the attribute certainty=assumed."`
	OmitCaller    bool        `yaml:"omit_caller" doc:"true leaves out of notifications who made the request (display name, entity, hashed accessor, address)."`
	KVVersions    Versions    `yaml:"kv_versions" doc:"Version of kv mounts for which the log does not tell it: mount path (with its namespace) to 1 or 2."`
	Vault         VaultServer `yaml:"vault" doc:"The API of the server, asked for what the log hides: versions of kv mounts, hashes of small numbers. Nothing waits for it. See docs/enrichment.md."`

	SigningSecrets []Secret `yaml:"signing_secrets" doc:"Flipt: the signing_secret of the server, as {env: NAME} or {file: PATH}. While it is changed, both: a request needs the signature of one of them."`
	Unsigned       Unsigned `yaml:"unsigned" oneof:"refuse,loopback,token" doc:"Flipt: who may send without a signature: nobody (refuse), this machine (loopback), or who sends a token with the capability create on sys/events/publish/flipt/... (token), as templates of webhooks can."`
}

// SourceType is the kind of a source.
type SourceType string

// The kinds of sources.
const (
	VaultAuditFile   SourceType = "vault_audit_file"
	VaultAuditSocket SourceType = "vault_audit_socket"
	VaultAuditSyslog SourceType = "vault_audit_syslog"
	VaultAuditHTTP   SourceType = "vault_audit_http"
)

// From is where a source begins when it has no position yet.
type From string

// The places where a source can begin.
const (
	FromStart From = "start"
	FromEnd   From = "end"
)

// Versions maps the path of a kv mount, with namespace and trailing slash, to
// 1 or 2.
type Versions map[string]int

// UnixSocket is the section "sources[].unix_socket".
type UnixSocket struct {
	Mode  string `yaml:"mode" doc:"Its permissions, octal."`
	Owner string `yaml:"owner" doc:"User, by name or number. Empty: that of the hub."`
	Group string `yaml:"group" doc:"Group, by name or number, for example the one of the server. Empty: that of the hub."`
}

// Spool is the section "sources[].spool".
type Spool struct {
	MemoryBytes  Size      `yaml:"memory_bytes" min:"1MiB" max:"4GiB" doc:"Entries that wait for the spool take at most this much memory."`
	MaxBytes     Size      `yaml:"max_bytes" min:"8MiB" max:"1TiB" doc:"Entries that wait for the journal take at most this much of the disk."`
	ReserveBytes Size      `yaml:"reserve_bytes" min:"8MiB" max:"1TiB" zero:"none" doc:"So much of it is taken from the disk at the start, and is there when the disk is full."`
	SyncInterval Duration  `yaml:"sync_interval" min:"10ms" max:"1m" doc:"Entries that are not in the journal after this time are synced to the disk. A power cut loses at most these last ones; a crash of the program loses none that was written."`
	WhenFull     SpoolFull `yaml:"when_full" oneof:"drop,block" doc:"When memory and disk are full: drop does not keep new entries, counts them, and says so in the journal; block stops reading, so that the server waits."`
}

// SpoolFull is what happens when a spool is full.
type SpoolFull string

// What happens when a spool is full.
const (
	SpoolDrop  SpoolFull = "drop"
	SpoolBlock SpoolFull = "block"
)

// VaultServer is the section "sources[].vault".
type VaultServer struct {
	Address   string   `yaml:"address" doc:"URL of its API, for example https://127.0.0.1:8200. Empty: it is not asked."`
	Token     Secret   `yaml:"token" doc:"A token with the rights of docs/enrichment.md, as {env: NAME} or {file: PATH}; a file is read again for every question."`
	Namespace string   `yaml:"namespace" doc:"The namespace of the token. Empty: root."`
	Device    string   `yaml:"device" doc:"Path of the audit device whose entries these are (bao audit list), for the hashes of small numbers. Empty: they are not asked for."`
	CAFile    string   `yaml:"ca_file" doc:"PEM file with the authorities that sign its certificate. Empty: those of the system."`
	CertFile  string   `yaml:"cert_file" doc:"PEM file with a certificate for it, if it asks for one."`
	KeyFile   string   `yaml:"key_file" doc:"PEM file with the private key."`
	Interval  Duration `yaml:"interval" min:"1s" max:"1d" doc:"How often it is asked, at most; a mount that is not known yet makes it be asked sooner."`
}

// DefaultSource returns what the fields of a source are when its element in the
// file does not mention them.
func DefaultSource() Source {
	return Source{
		Type:       VaultAuditFile,
		From:       FromStart,
		Socket:     UnixSocket{Mode: "0660"},
		TLS:        TLS{ClientAuth: ClientAuthNone},
		MaxSenders: 1_000,
		Spool: Spool{
			MemoryBytes:  16 << 20,
			MaxBytes:     1 << 30,
			ReserveBytes: 64 << 20,
			SyncInterval: Duration(time.Second),
			WhenFull:     SpoolDrop,
		},
		MaxLine: 64 << 20,
		Vault:   VaultServer{Interval: Duration(5 * time.Minute)},

		Unsigned: UnsignedRefuse,
	}
}

// ServerName returns the server that the device belongs to.
func (s *Source) ServerName() string {
	if s.Server != "" {
		return s.Server
	}
	return s.Name
}

// concerned says which fields a type has; see the writer.
func (s Source) concerned(key string) bool {
	if s.Type == Flipt {
		return slices.Contains(fliptFields, key)
	}
	switch key {
	case "signing_secrets", "unsigned":
		return false
	case "path", "paths", "from":
		return s.Type == VaultAuditFile
	case "address", "max_connections", "spool":
		return s.Type != VaultAuditFile
	case "unix_socket", "tls", "allow":
		a, err := ParseSourceAddress(s.Address)
		local := a.Network == "unix" || a.Network == "unixgram"
		return s.Type != VaultAuditFile && err == nil && local == (key == "unix_socket")
	case "secret", "secret_header":
		return s.Type == VaultAuditHTTP
	}
	return true
}

// Files returns the files and patterns of a source that follows files.
func (s *Source) Files() []string {
	if s.Path == "" {
		return s.Paths
	}
	return append([]string{s.Path}, s.Paths...)
}

// SourceAddress is where a source receives.
type SourceAddress struct {
	Network string // "unix", "unixgram", "tcp", "udp" or "systemd"
	Address string // path, host:port, or the name of systemd's socket
}

var sourceNetworks = []string{"unix", "unixgram", "tcp", "udp", "systemd"}

// ParseSourceAddress reads "NETWORK:ADDRESS", "NETWORK://ADDRESS", or, without a network, a
// path with a slash, which is "unix", or host:port, which is "tcp".
func ParseSourceAddress(text string) (SourceAddress, error) {
	network, address, found := strings.Cut(text, ":")
	if scheme, rest, url := strings.Cut(text, "://"); url && !slices.Contains(sourceNetworks, scheme) {
		return SourceAddress{}, fmt.Errorf("%q is no kind of address; write for example tcp:%s", shorten(scheme), shorten(strings.TrimRight(rest, "/")))
	}
	if !found || !slices.Contains(sourceNetworks, network) {
		network, address = "tcp", text
		if strings.Contains(text, "/") {
			network = "unix"
		}
	} else {
		address = strings.TrimPrefix(address, "//")
	}
	a := SourceAddress{network, address}
	switch {
	case address == "":
		return a, errors.New("is empty; write for example unix:/run/tocsin/audit.sock or tcp:127.0.0.1:9090")
	case network == "tcp" || network == "udp":
		return a, CheckAddress(address)
	case network == "systemd":
		return a, nil
	case !filepath.IsAbs(address):
		return a, fmt.Errorf("%q is not an absolute path; write for example %s:/run/tocsin/audit.sock", shorten(address), network)
	case len(address) > maxSocketPath:
		return a, fmt.Errorf("the path has %d bytes; the system allows %d for a socket", len(address), maxSocketPath)
	}
	return a, nil
}

// maxSocketPath is the longest path of a unix socket on the systems that there are.
const maxSocketPath = 103

// sourceName keeps names usable in URIs, metrics, file names and NATS subjects.
var sourceName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

func (v *validator) sources(sources []Source, listen string) {
	names, places := make(map[string]int), make(map[string]int)
	servers := make(map[string]int)
	for i := range sources {
		s, key := &sources[i], fmt.Sprintf("sources[%d]", i)
		switch first, seen := names[s.Name]; {
		case s.Name == "":
			v.report(key, "has no name; add for example \"name: vault\"")
		case !sourceName.MatchString(s.Name):
			v.report(key+".name", "%q must be 1 to 63 lower-case letters, digits, - and _, and begin with a letter or digit", shorten(s.Name))
		case seen:
			v.report(key+".name", "%q is already the name of sources[%d]", s.Name, first)
		default:
			names[s.Name] = i
		}
		if s.Type == Flipt {
			v.fliptSource(key, s)
			continue
		}
		if len(s.SigningSecrets) > 0 || s.Unsigned != UnsignedRefuse {
			v.report(key+".signing_secrets", "is for sources of type flipt, as is unsigned")
		}
		if s.Server != "" && !sourceName.MatchString(s.Server) {
			v.report(key+".server", "%q must be 1 to 63 lower-case letters, digits, - and _, and begin with a letter or digit", shorten(s.Server))
		}
		place := func(field, what string) {
			if first, seen := places[what]; seen {
				v.report(key+"."+field, "%q is already read by sources[%d]", shorten(what), first)
			}
			places[what] = i
		}
		switch s.Type {
		case VaultAuditFile:
			v.fileSource(key, s, place)
		case VaultAuditSocket, VaultAuditSyslog, VaultAuditHTTP:
			v.receiver(key, s, place)
			if a, err := ParseSourceAddress(s.Address); err == nil && a.Network == "tcp" && a.Address == listen && !strings.HasSuffix(listen, ":0") {
				v.report(key+".address", "%q is where the hub itself listens (listen.address); take another port", listen)
			}
		}
		for mount, version := range s.KVVersions {
			if version != 1 && version != 2 {
				v.report(key+".kv_versions", "version %d of %q must be 1 or 2", version, mount)
			}
		}
		if first, seen := servers[s.ServerName()]; seen {
			v.sameServer(key, s, first, &sources[first])
		} else {
			servers[s.ServerName()] = i
		}
		v.vaultServer(key+".vault", s.Vault)
	}
}

// sameServer checks that two devices of one server are understood in the same way.
func (v *validator) sameServer(key string, s *Source, first int, other *Source) {
	differs := func(field string, same bool) {
		if !same {
			v.report(key+"."+field, "differs from that of sources[%d], which is another device of the same server; give both the same", first)
		}
	}
	differs("keep_raw", s.KeepRaw == other.KeepRaw)
	differs("hold_uncertain", s.HoldUncertain == other.HoldUncertain)
	differs("omit_caller", s.OmitCaller == other.OmitCaller)
	differs("kv_versions", reflect.DeepEqual(s.KVVersions, other.KVVersions))
}

func (v *validator) fileSource(key string, s *Source, place func(field, what string)) {
	if s.Path == "" && len(s.Paths) == 0 {
		v.report(key, "has no path; add \"path:\" with the audit file")
	}
	for i, path := range s.Files() {
		field := "path"
		if s.Path == "" || i > 0 {
			field = "paths"
		}
		if _, err := filepath.Match(path, ""); err != nil || path == "" {
			v.report(key+"."+field, "%q is not a file or pattern", shorten(path))
			continue
		}
		place(field, path)
	}
	if s.Address != "" {
		v.report(key+".address", "a source of type %s reads files; name the type that receives, for example vault_audit_socket", s.Type)
	}
}

func (v *validator) receiver(key string, s *Source, place func(field, what string)) {
	if s.Path != "" || len(s.Paths) > 0 {
		v.report(key+".path", "a source of type %s reads no files; use address", s.Type)
	}
	if s.Address == "" {
		v.report(key, "has no address; add for example \"address: unix:/run/tocsin/audit.sock\"")
		return
	}
	a, err := ParseSourceAddress(s.Address)
	if err != nil {
		v.report(key+".address", "%v", err)
		return
	}
	if !strings.HasSuffix(a.Address, ":0") { // any free port
		place("address", a.Network+":"+a.Address)
	}
	stream := a.Network == "unix" || a.Network == "tcp" || a.Network == "systemd"
	switch {
	case s.Type == VaultAuditHTTP && !stream:
		v.report(key+".address", "HTTP needs unix: or tcp:")
	case s.TLS.CertFile != "" && s.TLS.KeyFile == "" || s.TLS.CertFile == "" && s.TLS.KeyFile != "":
		v.report(key+".tls", "needs both cert_file and key_file")
	case s.TLS.Enabled() && !stream:
		v.report(key+".tls", "there is no TLS over %s", a.Network)
	case s.TLS.ClientAuth != ClientAuthNone && (s.TLS.ClientCAFile == "" || !s.TLS.Enabled()) && !v.reported(key+".tls.client_auth"):
		v.report(key+".tls", "client_auth is %s, which needs client_ca_file, cert_file and key_file", s.TLS.ClientAuth)
	}
	for i, text := range s.Allow {
		if _, err := ParseNetwork(text); err != nil {
			v.report(fmt.Sprintf("%s.allow[%d]", key, i), "%v", err)
		}
	}
	if len(s.Allow) > 0 && (a.Network == "unix" || a.Network == "unixgram") {
		v.report(key+".allow", "is for tcp and udp; unix_socket says who may send to a socket of this machine")
	}
	if s.Type != VaultAuditHTTP && (s.Secret.IsSet() || s.SecretHeader != "") {
		v.report(key+".secret", "only HTTP can carry a secret")
	}
	if s.SecretHeader != "" && !s.Secret.IsSet() {
		v.report(key+".secret_header", "is set but secret is not")
	}
	if s.SecretHeader != "" && !headerName.MatchString(s.SecretHeader) {
		v.report(key+".secret_header", "%q is no name of a header", shorten(s.SecretHeader))
	}
	if inet := a.Network == "tcp" || a.Network == "udp"; inet && !IsLoopback(a.Address) && len(s.Allow) == 0 &&
		!s.Secret.IsSet() && s.TLS.ClientAuth != ClientAuthRequire {
		v.report(key+".address", "%q can be reached from other machines, so anybody could send entries; say in allow who may, or ask for client certificates, or, over HTTP, for a secret", a.Address)
	}
	if s.Spool.ReserveBytes > s.Spool.MaxBytes {
		v.report(key+".spool.reserve_bytes", "%s is more than max_bytes, %s", s.Spool.ReserveBytes, s.Spool.MaxBytes)
	}
	if _, err := s.Socket.FileMode(); err != nil {
		v.report(key+".unix_socket.mode", "%v", err)
	}
}

// FileMode returns the permissions.
func (u UnixSocket) FileMode() (mode uint32, err error) {
	if n, err := fmt.Sscanf(u.Mode, "%o", &mode); n != 1 || err != nil || mode > 0o777 || strings.Trim(u.Mode, "01234567") != "" {
		return 0, fmt.Errorf("%q is not a mode; write for example \"0660\"", shorten(u.Mode))
	}
	return mode, nil
}

// ParseNetwork reads an address or a network in CIDR notation.
func ParseNetwork(text string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(text); err == nil {
		if p.Addr().Is4In6() && p.Bits() >= 96 { // addresses are compared in their short form
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is neither an address nor a network such as 10.0.0.0/8", shorten(text))
	}
	if a.Zone() != "" { // it would be let in over any interface
		return netip.Prefix{}, fmt.Errorf("%q has a zone, by which senders are not told apart; leave it out", shorten(text))
	}
	a = a.Unmap()
	return netip.PrefixFrom(a, a.BitLen()), nil
}

func (v *validator) vaultServer(key string, s VaultServer) {
	switch {
	case s.Address == "":
		if s.Token.IsSet() || s.Device != "" {
			v.report(key, "has no address; add for example \"address: https://127.0.0.1:8200\"")
		}
		return
	case !strings.HasPrefix(s.Address, "https://") && !strings.HasPrefix(s.Address, "http://"):
		v.report(key+".address", "%q is not a URL; write for example https://127.0.0.1:8200", shorten(s.Address))
	case strings.HasPrefix(s.Address, "http://") && !loopbackURL(s.Address):
		v.report(key+".address", "%q would send the token in clear to another machine; use https", shorten(s.Address))
	}
	if !s.Token.IsSet() {
		v.report(key, "has no token; see docs/enrichment.md for the policy that it needs")
	}
	if (s.CertFile == "") != (s.KeyFile == "") {
		v.report(key, "needs both cert_file and key_file")
	}
}

// loopbackURL reports whether a URL without a path leads to this machine.
func loopbackURL(u string) bool {
	host := strings.TrimRight(strings.TrimPrefix(u, "http://"), "/")
	if _, _, err := net.SplitHostPort(host); err != nil {
		host = net.JoinHostPort(strings.Trim(host, "[]"), "80")
	}
	return IsLoopback(host)
}
