package trace

import (
	"bytes"
	"encoding/hex"
	"slices"

	"github.com/klauspost/compress/s2"

	"github.com/tocsin-events/tocsin/internal/auditlog"
)

// packer keeps entries in little memory, for requests that stay open longer than one batch
// of the journal. Hashes and UUIDs, most of an entry, become their bytes; the rest is
// compressed against what all entries have in common. Nothing is lost.
type packer struct {
	dict *s2.Dict
	buf  []byte
	room []byte
}

// Bytes that begin what was replaced. They do not occur in an entry: JSON has no control
// characters but white space.
const (
	packedHash = 1 // and 32 bytes
	packedUUID = 2 // and 16 bytes
)

// The first byte of a packed entry.
const (
	formPlain = iota
	formReplaced
)

var hashPrefix = []byte("hmac-sha256:")

func newPacker() *packer { return &packer{dict: s2.MakeDict(packSample, nil)} }

// pack returns a copy of an entry, or of any other bytes, in little memory.
func (p *packer) pack(data []byte) []byte {
	form := byte(formReplaced)
	plain := data
	if bytes.IndexByte(data, packedHash) >= 0 || bytes.IndexByte(data, packedUUID) >= 0 {
		form = formPlain
	} else {
		p.buf = replaceHex(p.buf[:0], data)
		plain = p.buf
	}
	need := s2.MaxEncodedLen(len(plain))
	if need < 0 { // larger than any entry
		return slices.Clone(append([]byte{formPlain}, data...))
	}
	p.room = slices.Grow(p.room[:0], need)
	encoded := p.dict.Encode(p.room[:need], plain)
	out := make([]byte, 1+len(encoded))
	out[0] = form
	copy(out[1:], encoded)
	if cap(p.buf) > 1<<20 {
		p.buf, p.room = nil, nil
	}
	return out
}

// unpack returns what was packed.
func (p *packer) unpack(packed []byte) ([]byte, error) {
	plain, err := p.dict.Decode(nil, packed[1:])
	if err != nil || packed[0] == formPlain {
		return plain, err
	}
	return restoreHex(make([]byte, 0, 2*len(plain)), plain), nil
}

// replaceHex appends data with its hashes and UUIDs replaced.
func replaceHex(dst, data []byte) []byte {
	for {
		quote := bytes.IndexByte(data, '"')
		if quote < 0 {
			return append(dst, data...)
		}
		dst = append(dst, data[:quote+1]...)
		data = data[quote+1:]
		switch {
		case len(data) > 76 && data[76] == '"' && bytes.HasPrefix(data, hashPrefix) && auditlog.IsHashed(string(data[:76])):
			dst = append(dst, packedHash)
			n := len(dst)
			dst = append(dst, data[12:44]...)
			hex.Decode(dst[n:], data[12:76])
			data = data[76:]
		case len(data) > 36 && data[36] == '"' && data[8] == '-':
			if id, ok := auditlog.ParseUUID(string(data[:36])); ok && !bytes.ContainsAny(data[:36], "ABCDEF") {
				dst = append(append(dst, packedUUID), id[:]...)
				data = data[36:]
			}
		}
	}
}

// restoreHex is the inverse of replaceHex.
func restoreHex(dst, data []byte) []byte {
	for i := 0; i < len(data); {
		switch b := data[i]; {
		case b == packedHash && len(data)-i > 32:
			dst = append(dst, hashPrefix...)
			dst = hex.AppendEncode(dst, data[i+1:i+33])
			i += 33
		case b == packedUUID && len(data)-i > 16:
			id := data[i+1 : i+17]
			for k, part := range [...][]byte{id[:4], id[4:6], id[6:8], id[8:10], id[10:]} {
				if k > 0 {
					dst = append(dst, '-')
				}
				dst = hex.AppendEncode(dst, part)
			}
			i += 17
		default:
			dst = append(dst, b)
			i++
		}
	}
	return dst
}

// packSample has what entries have in common. The end is found best.
var packSample = []byte(`"error":"1 error occurred:\n\t* permission denied\n\n"` +
	`"warnings":["redirect":"","wrap_info":{"ttl":60,"token":"","accessor":"","creation_time":"2026-","creation_path":"","wrapped_accessor":""}` +
	`"headers":{"traceparent":["00-"tracestate":["x-correlation-id":["correlation-id":["user-agent":["` +
	`"mount_is_external_plugin":true,"mount_running_sha256":"replication_cluster":"client_certificate_serial_number":"policy_override":true,"wrap_ttl":60,` +
	`"no_default_policy":true,"num_uses":1,"remaining_uses":1,"external_namespace_policies":{"identity_policies":["entity_created":true,"metadata":{"username":"role_name":"service_account_name":"` +
	`"token_ttl":2764800,"token_type":"batch","token_type":"default"},` +
	`auth/kubernetes/","mount_type":"kubernetes","mount_accessor":"auth_kubernetes_auth/approle/","mount_type":"approle","mount_accessor":"auth_approle_auth/userpass/","mount_type":"userpass","mount_accessor":"auth_userpass_` +
	`"mount_type":"transit","mount_accessor":"transit_","mount_type":"pki","mount_accessor":"pki_","mount_type":"database","mount_accessor":"database_"` +
	`"mount_point":"identity/","mount_type":"identity","mount_accessor":"identity_","mount_point":"cubbyhole/","mount_type":"cubbyhole","mount_accessor":"cubbyhole_",` +
	`"mount_point":"auth/token/","mount_type":"token","mount_accessor":"auth_token_","path":"auth/token/lookup-self","path":"auth/token/create","path":"auth/token/renew-self"` +
	`"operation":"create","operation":"delete","operation":"list","operation":"patch","path":"sys/internal/ui/mounts/","mount_point":"sys/","mount_type":"system","mount_accessor":"system_",` +
	`"type":"response","auth":{"token_type":"default"},"response":{"mount_point":"secret/","mount_type":"kv","mount_accessor":"kv_","mount_running_plugin_version":"v0.","mount_class":"auth","data":{"keys":["data":{"metadata":{"created_time":"2026-","custom_metadata":null,"deletion_time":"","destroyed":false,"version":1}}}` +
	`{"time":"2026-11-21T01:49:29.731406499Z","type":"request","auth":{"client_token":"` + "\x01" + `","accessor":"` + "\x01" + `","display_name":"token-","display_name":"root","policies":["default","policies":["root"],"token_policies":["default","token_policies":["root"],"entity_id":"` + "\x02" +
	`","policy_results":{"allowed":true,"granting_policies":[{"name":"root","namespace_id":"root","type":"acl"}]},"token_type":"service","token_issue_time":"2026-11-21T01:49:29Z"},"request":{"id":"` + "\x02" +
	`","client_id":"` + `","operation":"update","operation":"read","mount_point":"secret/","mount_type":"kv","mount_accessor":"kv_","mount_running_version":"v2.6.2+builtin.bao","mount_running_version":"v0.25.0+builtin","mount_class":"secret","client_token":"` + "\x01" +
	`","client_token_accessor":"` + "\x01" + `","namespace":{"id":"root"},"path":"secret/data/","data":{"options":{},"data":{"` + `"remote_address":"127.0.0.1","remote_port":4` + `"remote_address":"10.","remote_port":5`)
