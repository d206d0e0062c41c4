// Command gate is an auth plugin that lets everybody in who knows the password, with the
// policies that they ask for, and sends an event about it.
package main

import (
	"context"
	"log"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/plugin"
)

func main() {
	if err := plugin.ServeMultiplex(&plugin.ServeOpts{BackendFactoryFunc: factory}); err != nil {
		log.Fatal(err)
	}
}

func factory(ctx context.Context, c *logical.BackendConfig) (logical.Backend, error) {
	b := &framework.Backend{BackendType: logical.TypeCredential, PathsSpecial: &logical.Paths{Unauthenticated: []string{"login/*"}}}
	b.Paths = []*framework.Path{{
		Pattern: "login/" + framework.GenericNameRegex("user"),
		Fields: map[string]*framework.FieldSchema{
			"user":     {Type: framework.TypeString},
			"password": {Type: framework.TypeString},
			"policies": {Type: framework.TypeCommaStringSlice},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: &framework.PathOperation{Callback: func(ctx context.Context, r *logical.Request, d *framework.FieldData) (*logical.Response, error) {
				user := d.Get("user").(string)
				if d.Get("password") != "open sesame" {
					_ = logical.SendEvent(ctx, b, "gate/login-fail", logical.EventMetadataPath, r.Path, "user", user)
					return logical.ErrorResponse("invalid password"), logical.ErrInvalidCredentials
				}
				_ = logical.SendEvent(ctx, b, "gate/login", logical.EventMetadataPath, r.Path, "user", user, "address", r.Connection.RemoteAddr)
				return &logical.Response{Auth: &logical.Auth{
					DisplayName: "gate-" + user, Policies: d.Get("policies").([]string), Metadata: map[string]string{"user": user},
					LeaseOptions: logical.LeaseOptions{TTL: 10 * time.Minute},
				}}, nil
			}},
		},
	}}
	return b, b.Setup(ctx, c)
}
