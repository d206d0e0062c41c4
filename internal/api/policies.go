package api

import (
	"errors"
	"strings"

	"github.com/tocsin-events/tocsin/internal/access"
)

func (a *API) listPolicies(c *call) (*reply, error) {
	return keys(a.authority.PolicyNames(c.namespace))
}

func (a *API) listPoliciesOld(c *call) (*reply, error) {
	r, err := a.listPolicies(c)
	if err != nil {
		return nil, err
	}
	r.data["policies"] = r.data["keys"]
	r.flat = true
	return r, nil
}

func (a *API) readPolicy(c *call) (*reply, error) {
	text, err := a.authority.Policy(c.namespace, c.name)
	if err != nil {
		return nil, err
	}
	return &reply{data: map[string]any{"name": policyName(c), "policy": text}}, nil
}

func (a *API) readPolicyOld(c *call) (*reply, error) {
	text, err := a.authority.Policy(c.namespace, c.name)
	if err != nil {
		return nil, err
	}
	return &reply{data: map[string]any{"name": policyName(c), "rules": text}, flat: true}, nil
}

// policyName is the name of a policy that was found, as it is stored.
func policyName(c *call) string { return strings.ToLower(strings.TrimSpace(c.name)) }

func (a *API) writePolicy(c *call) (*reply, error) {
	in := c.reader()
	text := in.text("policy")
	if err := in.failed(); err != nil {
		return nil, err
	}
	return a.putPolicy(c, text)
}

func (a *API) writePolicyOld(c *call) (*reply, error) {
	in := c.reader()
	text, rules := in.text("policy"), in.text("rules")
	if err := in.failed(); err != nil {
		return nil, err
	}
	if text != "" {
		return a.putPolicy(c, text)
	}
	r, err := a.putPolicy(c, rules)
	if err != nil {
		return nil, err
	}
	r.warnings = append(r.warnings, "\"rules\" is the older name of this field, use \"policy\"")
	return r, nil
}

func (a *API) putPolicy(c *call, text string) (*reply, error) {
	if text == "" {
		return nil, badRequest("the field \"policy\" is missing or empty")
	}
	warnings, err := a.authority.PutPolicy(c.ctx, c.namespace, c.name, text)
	if err != nil {
		return nil, a.uncertain(c, "policy-write", nil, err)
	}
	record := c.change("policy-write")
	record.Fields.Set("policy", policyName(c))
	if err := a.commit(c.ctx, record, "the policy was written"+notRecorded); err != nil {
		return nil, err
	}
	return &reply{warnings: warnings}, nil
}

// deletePolicy serves both spellings. That there is no such policy is a success, as in
// Vault, and not recorded.
func (a *API) deletePolicy(c *call) (*reply, error) {
	_, missing := a.authority.Policy(c.namespace, c.name)
	if err := a.authority.DeletePolicy(c.ctx, c.namespace, c.name); err != nil {
		return nil, a.uncertain(c, "policy-delete", nil, err)
	}
	if errors.Is(missing, access.ErrNoPolicy) {
		return &reply{}, nil
	}
	record := c.change("policy-delete")
	record.Fields.Set("policy", policyName(c))
	if err := a.commit(c.ctx, record, "the policy was deleted"+notRecorded); err != nil {
		return nil, err
	}
	return &reply{}, nil
}
