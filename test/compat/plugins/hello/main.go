// Command hello is a Vault secrets plugin that keeps greetings and says so.
package main

import (
	"context"
	"log"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/plugin"
)

func main() {
	if err := plugin.ServeMultiplex(&plugin.ServeOpts{BackendFactoryFunc: factory}); err != nil {
		log.Fatal(err)
	}
}

type backend struct{ *framework.Backend }

func factory(ctx context.Context, c *logical.BackendConfig) (logical.Backend, error) {
	b := new(backend)
	b.Backend = &framework.Backend{
		BackendType:    logical.TypeLogical,
		RunningVersion: "v0.1.0",
		Help:           "Keeps greetings.",
		Paths: []*framework.Path{{
			Pattern: "greetings/" + framework.GenericNameRegex("name"),
			Fields: map[string]*framework.FieldSchema{
				"name": {Type: framework.TypeString, Description: "Whom to greet."},
				"text": {Type: framework.TypeString, Description: "What to say."},
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: &framework.PathOperation{Callback: b.write},
				logical.ReadOperation:   &framework.PathOperation{Callback: b.read},
			},
		}},
	}
	return b, b.Setup(ctx, c)
}

func (b *backend) write(ctx context.Context, r *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	entry, err := logical.StorageEntryJSON(r.Path, d.Get("text"))
	if err != nil {
		return nil, err
	}
	if err := r.Storage.Put(ctx, entry); err != nil {
		return nil, err
	}
	// What happened, where, and that something has changed; never the secret itself.
	err = logical.SendEvent(ctx, b, "hello/greeting-write",
		logical.EventMetadataOperation, "greeting-write",
		logical.EventMetadataModified, "true",
		logical.EventMetadataPath, r.Path,
		logical.EventMetadataDataPath, r.Path,
		"name", d.Get("name").(string))
	if err != nil {
		b.Logger().Warn("the event was not sent", "error", err)
	}
	return nil, nil
}

func (b *backend) read(ctx context.Context, r *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	entry, err := r.Storage.Get(ctx, r.Path)
	if entry == nil || err != nil {
		return nil, err
	}
	var text string
	if err := entry.DecodeJSON(&text); err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]interface{}{"text": text}}, nil
}
