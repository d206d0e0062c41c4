package token

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/tocsin-events/tocsin/internal/policy"
)

const (
	// storedVersion is what this program writes and can read. What older programs
	// must not drop or overlook takes a new version.
	storedVersion = 1
	// maxStoredBytes bounds a value of the bucket, written or read.
	maxStoredBytes = 64 << 10
)

// stored is a value of the bucket: the entry of a token or, with End, a tombstone.
// Members that it does not know are ignored.
type stored struct {
	Version int    `json:"v"`
	By      string `json:"by"` // the node that wrote it, see Change.Local

	// Of a tombstone.
	End     string     `json:"end,omitempty"`
	Ended   *time.Time `json:"ended,omitempty"`
	Orphans bool       `json:"orphans,omitempty"` // its children live on, without a parent
	Root    bool       `json:"root,omitempty"`    // of a root token; it stays for ever

	Accessor string `json:"accessor,omitempty"`

	// Of an entry.
	Namespace   string            `json:"namespace,omitempty"`
	Policies    []string          `json:"policies,omitempty"`
	DisplayName string            `json:"display_name,omitempty"`
	Meta        map[string]string `json:"meta,omitempty"`
	Path        string            `json:"path,omitempty"`
	Created     *time.Time        `json:"created,omitempty"`
	Expires     *time.Time        `json:"expires,omitempty"`
	LastRenewal *time.Time        `json:"last_renewal,omitempty"`
	TTL         time.Duration     `json:"ttl_ns,omitempty"`
	Period      time.Duration     `json:"period_ns,omitempty"`
	MaxTTL      time.Duration     `json:"explicit_max_ttl_ns,omitempty"`
	NumUses     int               `json:"num_uses,omitempty"`
	Renewable   bool              `json:"renewable,omitempty"`
	Subject     *policy.Subject   `json:"subject,omitempty"`

	Parent         string `json:"parent,omitempty"`
	ParentAccessor string `json:"parent_accessor,omitempty"`
	ParentRoot     bool   `json:"parent_root,omitempty"`
}

// content is a decoded value of the bucket: an entry, or else a tombstone.
type content struct {
	by string

	entry   *Entry
	lineage lineage // if it has a parent

	end      End
	accessor string // of the token that ended
	orphans  bool
	root     bool
}

// lineage says which life of its parent a token descends from: a value, and with it
// an ID, may be used again after a token has ended.
type lineage struct {
	accessor string // of the parent
	root     bool   // the parent is a root token, which the bucket does not have
}

// ends are the ends that tombstones have.
var ends = map[string]End{"revoked": Revoked, "used-up": UsedUp}

func (v *content) encode(now time.Time) ([]byte, error) {
	x := stored{Version: storedVersion, By: v.by}
	if v.entry == nil {
		for name, end := range ends {
			if end == v.end {
				x.End = name
			}
		}
		x.Ended, x.Accessor, x.Orphans, x.Root = instant(now), v.accessor, v.orphans, v.root
	} else {
		e := v.entry
		x.Accessor, x.Namespace, x.Policies, x.DisplayName = e.Accessor, e.Namespace, e.Policies, e.DisplayName
		x.Meta, x.Path, x.NumUses, x.Renewable = e.Meta, e.Path, e.NumUses, e.Renewable
		x.Created, x.Expires, x.LastRenewal = instant(e.Created), instant(e.Expires), instant(e.LastRenewal)
		x.TTL, x.Period, x.MaxTTL = e.TTL, e.Period, e.ExplicitMaxTTL
		if !e.Orphan() {
			x.Parent, x.ParentAccessor, x.ParentRoot = e.Parent.String(), v.lineage.accessor, v.lineage.root
		}
		if !reflect.ValueOf(e.Subject).IsZero() {
			x.Subject = &e.Subject
		}
	}
	b, err := json.Marshal(&x)
	if err == nil && len(b) > maxStoredBytes {
		err = fmt.Errorf("%w: the token has %d bytes when stored, at most %d are possible", ErrInvalid, len(b), maxStoredBytes)
	}
	return b, err
}

// decode reads what the bucket has at a key.
func decode(key string, b []byte) (ID, content, error) {
	id, err := parseID(key)
	if err != nil {
		return ID{}, content{}, fmt.Errorf("key: %w", err)
	}
	if len(b) > maxStoredBytes {
		return id, content{}, fmt.Errorf("%d bytes are too many", len(b))
	}
	var x stored
	if err := json.Unmarshal(b, &x); err != nil {
		return id, content{}, err
	}
	if x.Version != storedVersion {
		return id, content{}, fmt.Errorf("version %d is not known", x.Version)
	}
	v := content{by: x.By}
	if x.End != "" {
		v.end, v.accessor, v.orphans, v.root = ends[x.End], x.Accessor, x.Orphans, x.Root
		if v.end == 0 {
			return id, content{}, fmt.Errorf("end %q is not known", x.End)
		}
		return id, v, nil
	}
	e := &Entry{
		ID: id, Accessor: x.Accessor, Namespace: x.Namespace, Policies: x.Policies, DisplayName: x.DisplayName,
		Meta: x.Meta, Path: x.Path, Created: at(x.Created), Expires: at(x.Expires), LastRenewal: at(x.LastRenewal),
		TTL: x.TTL, Period: x.Period, ExplicitMaxTTL: x.MaxTTL, NumUses: x.NumUses, Renewable: x.Renewable,
	}
	if x.Subject != nil {
		e.Subject = *x.Subject
	}
	if x.Parent != "" {
		if e.Parent, err = parseID(x.Parent); err != nil {
			return id, content{}, fmt.Errorf("parent: %w", err)
		}
		v.lineage = lineage{x.ParentAccessor, x.ParentRoot}
	}
	switch {
	case e.Accessor == "":
		return id, content{}, errors.New("no accessor")
	case e.Created.IsZero():
		return id, content{}, errors.New("no time of creation")
	case !e.Orphan() && x.ParentAccessor == "":
		return id, content{}, errors.New("no accessor of the parent")
	case e.Parent == id:
		return id, content{}, errors.New("its own parent")
	case e.TTL < 0 || e.Period < 0 || e.ExplicitMaxTTL < 0 || e.NumUses < 0:
		return id, content{}, errors.New("a negative limit")
	case e.TTL > 0 && e.Expires.IsZero():
		return id, content{}, errors.New("a TTL but no end")
	}
	v.entry = e
	return id, v, nil
}

// parseID reads what ID.String writes; the zero ID is none.
func parseID(s string) (ID, error) {
	var id ID
	if len(s) != 2*len(id) {
		return ID{}, fmt.Errorf("%d characters are no id", len(s))
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return ID{}, err
	}
	if id == (ID{}) || id.String() != s {
		return ID{}, errors.New("not the form of an id")
	}
	return id, nil
}

func instant(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func at(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}
