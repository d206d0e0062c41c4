package vaultplugin

import (
	"context"
	"time"

	"github.com/tocsin-events/tocsin/event"
)

// Setup is what a mount is made with, and what is served to it. Its functions and
// interfaces are called concurrently, with contexts that end with the call of the plugin
// and with the mount. Storage is required.
type Setup struct {
	// Config are the options of the mount ("version": "2" for kv v2) and, as Vault adds
	// them, plugin_name, plugin_type and plugin_version.
	Config map[string]string
	// BackendUUID identifies the storage of the mount; some plugins refuse to work
	// without.
	BackendUUID string
	Storage     Storage
	System      System
	// SendEvent takes an event; data is never nil, but may have any content, an empty ID
	// among it. Its error becomes that of the plugin's call. Nil accepts events and drops
	// them, as a server without event system does.
	SendEvent func(ctx context.Context, eventType string, data *EventData) error
	// RecordObservation takes an observation; nil drops them.
	RecordObservation func(ctx context.Context, observationType string, data event.Fields) error
}

// Storage is the storage of one mount. Keys are any texts but the empty one, with "/"
// between elements of which none is ".."; prefixes may be empty too. The text of an error is shown to the plugin.
type Storage interface {
	// List returns the names directly below a prefix, which is empty or ends in "/" as a
	// rule: the keys that begin with it, without it, cut off after the first slash of
	// what remains, each once.
	List(ctx context.Context, prefix string) ([]string, error)
	// Get returns nil when there is no such key.
	Get(ctx context.Context, key string) (*StorageEntry, error)
	Put(ctx context.Context, entry *StorageEntry) error
	// Delete of a missing key is no error.
	Delete(ctx context.Context, key string) error
}

// StorageEntry is a value in the storage of a mount.
type StorageEntry struct {
	Key   string
	Value []byte
	// SealWrap is the wish of the plugin for extra encryption.
	SealWrap bool
}

// System is what a plugin may ask about the system it runs in. Functions that are nil
// answer that there is no such thing here.
type System struct {
	// DefaultLeaseTTL and MaxLeaseTTL are 32 days (768 hours) when zero.
	DefaultLeaseTTL, MaxLeaseTTL time.Duration
	// Tainted is true while the mount is being removed; nil is never.
	Tainted         func() bool
	CachingDisabled bool
	LocalMount      bool
	MlockEnabled    bool
	// ReplicationState has the bits of the protocol; zero is a server without replication.
	ReplicationState uint32
	ClusterID        string
	ClusterName      string
	// VaultVersion is Options.VaultVersion when empty.
	VaultVersion string
	// EntityInfo returns nil when there is no such entity.
	EntityInfo      func(ctx context.Context, entityID string) (*Entity, error)
	GroupsForEntity func(ctx context.Context, entityID string) ([]*Group, error)
	// GeneratePassword makes a password by a policy, which Vault keeps under
	// sys/policies/password.
	GeneratePassword func(ctx context.Context, policy string) (string, error)
}

// Entity is a person or machine that has logged in, by whatever way.
type Entity struct {
	ID          string
	Name        string
	Aliases     []*Alias
	Metadata    map[string]string
	Disabled    bool
	NamespaceID string
}

// Group is a group of entities.
type Group struct {
	ID          string
	Name        string
	Metadata    map[string]string
	NamespaceID string
}

// EventData is an event as a plugin sends it, before the host adds the mount.
type EventData struct {
	// ID may be empty, which the host has to refuse or fill in.
	ID string
	// Metadata is nil when the plugin sent none, and not nil but empty for {}.
	Metadata  event.Fields
	EntityIDs []string
	Note      string
}
