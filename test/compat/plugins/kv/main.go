// Command kv serves the real kv backend, as HashiCorp's own executable does.
package main

import (
	"log"

	kv "github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/sdk/plugin"
)

func main() {
	if err := plugin.ServeMultiplex(&plugin.ServeOpts{BackendFactoryFunc: kv.Factory}); err != nil {
		log.Fatal(err)
	}
}
