package compat

import (
	"slices"
	"testing"
	"time"

	bao "github.com/openbao/openbao/api/v2"
)

// OpenBao's client speaks the same API in its own way, where the two have parted.
func TestOpenBaoClient(t *testing.T) {
	h := startSecureHub(t)
	client := func(token string) *bao.Client {
		config := bao.DefaultConfig()
		config.Address = h.address
		config.MaxRetries = 0
		if err := config.ConfigureTLS(&bao.TLSConfig{CACert: h.ca}); err != nil {
			t.Fatal(err)
		}
		c, err := bao.NewClient(config)
		if err != nil {
			t.Fatal(err)
		}
		c.SetToken(token)
		return c
	}
	root := client(rootToken)

	const text = "path \"secret/*\" {\n  capabilities = [\"subscribe\"]\n  subscribe_event_types = [\"*\"]\n}\n"
	if err := root.Sys().PutPolicy("team", text); err != nil {
		t.Fatal(err)
	}
	if got, err := root.Sys().GetPolicy("team"); err != nil || got != text {
		t.Errorf("policy %q, %v", got, err)
	}
	if names, err := root.Sys().ListPolicies(); err != nil || !slices.Equal(names, []string{"default", "root", "team"}) {
		t.Errorf("policies %q, %v", names, err)
	}

	made, err := root.Auth().Token().Create(&bao.TokenCreateRequest{Policies: []string{"team"}, TTL: "1h", DisplayName: "bao"})
	if err != nil {
		t.Fatal(err)
	}
	team := client(made.Auth.ClientToken)
	secret, err := team.Auth().Token().LookupSelf()
	if err != nil {
		t.Fatal(err)
	}
	if policies, err := secret.TokenPolicies(); err != nil || !slices.Equal(policies, []string{"default", "team"}) {
		t.Errorf("policies of the token %q, %v", policies, err)
	}
	if ttl, err := secret.TokenTTL(); err != nil || ttl < 50*time.Minute || ttl > time.Hour {
		t.Errorf("ttl %v, %v", ttl, err)
	}
	if renewed, err := team.Auth().Token().RenewSelf(1800); err != nil || renewed.Auth.LeaseDuration != 1800 {
		t.Errorf("renewed %+v, %v", renewed, err)
	}
	if got, err := team.Sys().CapabilitiesSelf("secret/data/x"); err != nil || !slices.Equal(got, []string{"subscribe"}) {
		t.Errorf("capabilities %q, %v", got, err)
	}
	if err := root.Auth().Token().RevokeAccessor(made.Auth.Accessor); err != nil {
		t.Error(err)
	}
	if _, err := team.Auth().Token().LookupSelf(); err == nil {
		t.Error("the token is still valid")
	}
	if err := root.Sys().DeletePolicy("team"); err != nil {
		t.Error(err)
	}

	seal, err := client("").Sys().SealStatus()
	if err != nil || !seal.Initialized || seal.Sealed {
		t.Errorf("seal status %+v, %v", seal, err)
	}
	if leader, err := client("").Sys().Leader(); err != nil || leader == nil {
		t.Errorf("leader %+v, %v", leader, err)
	}
	if health, err := client("").Sys().Health(); err != nil || !health.Initialized || health.Sealed || health.Standby {
		t.Errorf("health %+v, %v", health, err)
	}
}
