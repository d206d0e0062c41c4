package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/tocsin-events/tocsin/internal/access"
	"github.com/tocsin-events/tocsin/internal/policy"
	"github.com/tocsin-events/tocsin/internal/source/vaultaudit"
)

// AuditLogs finds who takes in old audit logs of a server. The error wraps
// ErrNoAuditLog for a name that no server can have.
type AuditLogs interface {
	AuditLog(server string) (AuditLog, error)
}

// AuditLog takes in old audit logs of one server; see [vaultaudit.Source].
type AuditLog interface {
	ImportState(ctx context.Context, log string) (vaultaudit.Imported, error)
	Import(ctx context.Context, c vaultaudit.Chunk) (vaultaudit.Imported, vaultaudit.Counted, error)
}

// ErrNoAuditLog means that nothing can be imported under a name.
var ErrNoAuditLog = errors.New("no audit log can have this name")

// importTimeout bounds one request of an import. The first one reads what the journal has
// of the server.
const importTimeout = 5 * time.Minute

// auditPath begins the paths that say who may import; events of audit entries have the
// same.
const auditPath = "sys/audit/"

// importAnswer is how far an import is, and what became of the lines of a request.
type importAnswer struct {
	vaultaudit.Imported
	vaultaudit.Counted
}

var logName = regexp.MustCompile(`^[0-9A-Za-z]{0,64}$`)

// importEntries serves /api/v1/audit/{server}/entries: lines of an old audit log come in, in
// the order of the log, compressed with gzip or zstd or not. It needs the capabilities
// update and sudo on sys/audit/{server}.
//
//	log      names the log, so that an import can go on; letters and digits
//	offset   where in the log the body begins, in bytes without compression
//	length   how many bytes of the log the body stands for, if not all of them are sent
//	last     true: the log ends with the body
//	dry_run  true: count only
//
// GET with log says how far its import is. The answers are
//
//	200  {"offset":N,"complete":false,"lines":...}, after all is durable
//	409  the body does not begin where the import goes on, which GET says; or another
//	     log of the server is being imported
//	413, 415, 429, 503  as for events
func (a *API) importEntries(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost && r.Method != http.MethodGet {
		w.Header().Set("Allow", "GET, POST")
		fail(w, http.StatusMethodNotAllowed, "the method is "+strconv.Quote(clip(r.Method, 20))+", it must be GET or POST")
		return
	}
	server := r.PathValue("server")
	try := attempt{what: "request-denied", path: auditPath + clip(server, 100), operation: "update", request: r}
	p := publication{r: r, body: a.publisher.bodies.new()}
	defer p.body.free()
	answer, err := a.imported(w, &p, server)
	if err == nil {
		answerJSON(w, answer)
		return
	}
	refused := a.importRefusal(err)
	a.requests.Refused(refused.reason()).Inc()
	try.id = p.id
	a.recordRefusal(try, refused)
	p.body.free() // before what comes is thrown away, which takes its time
	p.answer(w, refused)
}

func (a *API) imported(w http.ResponseWriter, p *publication, server string) (answer importAnswer, err error) {
	r, body := p.r, p.body
	id, refused := a.authenticate(r, "")
	if refused == nil {
		p.id = id
		refused = a.use(r, id)
	}
	if refused == nil && !id.Allows(policy.Update|policy.Sudo, auditPath+server, nil) {
		refused = permissionDenied()
	}
	if refused != nil {
		return answer, refused
	}
	c, length, err := readChunk(r)
	if err != nil {
		return answer, err
	}
	log, err := a.auditLogs.AuditLog(server)
	if err != nil {
		return answer, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), importTimeout)
	defer cancel()
	if r.Method == http.MethodGet {
		answer.Imported, err = log.ImportState(ctx, c.Log)
		return answer, err
	}
	if p.encoding, err = contentEncoding(r); err != nil {
		return answer, err
	}
	begin := time.Now()
	if err := p.readBody(); err != nil {
		return answer, err
	}
	if time.Since(begin) > slowBody && a.hasEnded(id) {
		return answer, invalidToken(access.Token(r))
	}
	if err := body.reserve(len(body.bytes)); err != nil {
		return answer, err
	}
	c.Data = append([]byte(nil), body.bytes...) // events keep parts of it
	body.drop()
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(importTimeout + time.Minute))
	c.Length = max(length, int64(len(c.Data)))
	answer.Imported, answer.Counted, err = log.Import(ctx, c)
	return answer, err
}

// readChunk reads the query.
func readChunk(r *http.Request) (c vaultaudit.Chunk, length int64, err error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil { // else a dry run could become a real one
		return c, 0, badRequest("the query cannot be read: %v", err)
	}
	if c.Log = q.Get("log"); !logName.MatchString(c.Log) {
		return c, 0, badRequest("invalid parameter log: %q is not letters and digits, at most 64", clip(c.Log, 80))
	}
	number := func(name string) (n int64) {
		if text := q.Get(name); text != "" && err == nil {
			if n, err = strconv.ParseInt(text, 10, 64); err != nil || n < 0 || n > 1<<50 {
				n, err = 0, badRequest("invalid parameter %s: %q is not a number of bytes", name, clip(text, 20))
			}
		}
		return n
	}
	yes := func(name string) (is bool) {
		if text := q.Get(name); text != "" && err == nil {
			if is, err = strconv.ParseBool(text); err != nil {
				err = badRequest("invalid parameter %s: %q is neither true nor false", name, clip(text, 20))
			}
		}
		return is
	}
	c.Offset, length = number("offset"), number("length")
	c.Last, c.DryRun = yes("last"), yes("dry_run")
	return c, length, err
}

// importRefusal is the answer to an import that failed.
func (a *API) importRefusal(err error) *refusal {
	switch {
	case errors.Is(err, vaultaudit.ErrOffset), errors.Is(err, vaultaudit.ErrImporting):
		return &refusal{status: http.StatusConflict, text: err.Error()}
	case errors.Is(err, vaultaudit.ErrTooMany):
		return &refusal{status: http.StatusUnprocessableEntity, text: err.Error()}
	case errors.Is(err, vaultaudit.ErrNotRunning):
		return &refusal{status: http.StatusServiceUnavailable, after: time.Second, text: err.Error() + "; try again"}
	case errors.Is(err, ErrNoAuditLog):
		return badRequest("%v", err)
	}
	return a.publicationRefusal(err)
}

// contentEncoding returns how a body is compressed, "" when it is not.
func contentEncoding(r *http.Request) (string, error) {
	switch encoding := strings.ToLower(strings.Join(r.Header.Values("Content-Encoding"), ", ")); encoding {
	case "", "identity":
		return "", nil
	case "gzip", "x-gzip":
		return encodingGzip, nil
	case "zstd":
		return encodingZstd, nil
	default:
		return "", &refusal{status: http.StatusUnsupportedMediaType, text: fmt.Sprintf("the Content-Encoding is %q; send gzip, zstd, or none", clip(encoding, 100))}
	}
}
