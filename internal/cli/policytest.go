package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/client"
	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/policy"
)

const policyTestLong = `Say whether policies allow something, by which rule, and why not by another.

What is asked is one of
  --path PATH --event-type TYPE     may an event of the type on the path be seen?
  --subscribe TYPE                  may somebody subscribe to the type (a glob)?
  --path PATH --capability NAME     may the operation be done on the path of the API?
A subscriber needs the second once and the first for every event.

The policies are those of files (--policy), of a hub (--policy-name), of the token of the
request (--self) or of a token of the hub (--accessor); all that are given count together.
They are tested here, so nothing in the hub changes, and files need no hub.

For policies with templates, flags say who asks; --self and --accessor know some of it.

Exit codes: 0 allowed, 4 not allowed, 1 a policy is not valid or cannot be read, 2 wrong
usage.`

const policyTestExample = `  # Before it is stored: may who has it see writes to a secret?
  tocsin policy test --policy team-a.hcl --path secret/data/team-a/db --event-type kv-v2/data-write

  # And subscribe to all of kv-v2?
  tocsin policy test --policy team-a.hcl --subscribe 'kv-v2/*'

  # Templates: as somebody whose token has the metadata team=a.
  tocsin policy test --policy own-team.hcl --meta team=a --path secret/data/a/db --event-type kv-v2/delete

  # Why does this token not see it?
  tocsin policy test --accessor 8W3PvyEYn1bVgbA0kE6eVnNA --path secret/data/b/db --event-type kv-v2/delete`

type policyTestFlags struct {
	connectFlags
	format answerFlag

	files, names []string
	self         bool
	accessor     string

	path, eventType, capability, subscribe string
	eventNamespace                         string

	meta, claims, entityMeta, aliases, groups keyValues
	displayName, entityID, entityName         string
}

func newPolicyTest(s *Streams) *cobra.Command {
	var f policyTestFlags
	cmd := &cobra.Command{
		Use:     "test",
		Short:   "Say whether policies allow something, and why",
		Long:    policyTestLong,
		Example: policyTestExample,
		Args:    tokenArgs(0, "", false),
		RunE: func(cmd *cobra.Command, _ []string) error {
			query, err := f.query(cmd)
			if err != nil {
				return err
			}
			if len(f.files)+len(f.names) == 0 && !f.self && f.accessor == "" {
				return usagef(cmd, "say whose policies: --policy FILE, --policy-name NAME, --self or --accessor")
			}
			return f.run(cmd.Context(), s, query)
		},
	}
	flags := cmd.Flags()
	f.register(cmd)
	f.format.register(cmd)
	flags.StringArrayVar(&f.files, "policy", nil, "`file` with a policy, - for standard input; repeatable")
	flags.StringArrayVar(&f.names, "policy-name", nil, "`name` of a policy that the hub stores; repeatable")
	flags.BoolVar(&f.self, "self", false, "the policies of the token of the request")
	flags.StringVar(&f.accessor, "accessor", "", "the policies of the token with this `accessor`")
	flags.StringVar(&f.path, "path", "", "`path` of the event or of the API, in the namespace")
	flags.StringVar(&f.eventType, "event-type", "", "`type` of the event")
	flags.StringVar(&f.subscribe, "subscribe", "", "`glob` of event types to subscribe to")
	flags.StringVar(&f.capability, "capability", "", "`capability` that the operation needs: create, read, update, patch, delete, list, recover, or one with sudo: sudo,update")
	flags.StringVar(&f.eventNamespace, "event-namespace", "", "`namespace` of the path, if it is not --namespace, in which the policies are")
	flags.Var(&f.meta, "meta", "`key=value` in the metadata of the token, {{token.metadata.KEY}}; repeatable")
	flags.Var(&f.claims, "claim", "`key=value` in a JWT, {{jwt.claims.KEY}}; repeatable")
	flags.StringVar(&f.displayName, "display-name", "", "`name` of the token, {{token.display_name}}")
	flags.StringVar(&f.entityID, "entity-id", "", "`id` of the entity, {{identity.entity.id}}")
	flags.StringVar(&f.entityName, "entity-name", "", "`name` of the entity, {{identity.entity.name}}")
	flags.Var(&f.entityMeta, "entity-meta", "`key=value` of the entity, {{identity.entity.metadata.KEY}}; repeatable")
	flags.Var(&f.aliases, "alias", "`accessor=name` of an alias of the entity, {{identity.entity.aliases.ACCESSOR.name}}; repeatable")
	flags.Var(&f.groups, "group", "`name=id` of a group, {{identity.groups.names.NAME.id}}; repeatable")
	return cmd
}

// query returns what is asked.
func (f *policyTestFlags) query(cmd *cobra.Command) (q policy.Query, err error) {
	asked := 0
	for _, v := range []string{f.eventType, f.capability, f.subscribe} {
		if v != "" {
			asked++
		}
	}
	switch {
	case asked != 1:
		return q, usagef(cmd, "say what is asked: one of --event-type, --subscribe and --capability")
	case f.path == "" && f.subscribe == "":
		return q, usagef(cmd, "--path PATH is missing")
	case f.path != "" && f.subscribe != "":
		return q, usagef(cmd, "--subscribe has no --path: it is a question about sys/events/subscribe/")
	}
	q.Path = strings.TrimLeft(f.path, "/")
	switch {
	case f.eventType != "":
		q.Operation, q.EventType = policy.Subscribe, f.eventType
	case f.subscribe != "":
		q.Operation, q.Path = policy.Read, "sys/events/subscribe/"+f.subscribe
	default:
		for name := range strings.SplitSeq(f.capability, ",") {
			c, ok := policy.CapabilityByName(strings.TrimSpace(name))
			if !ok {
				return q, usagef(cmd, "--capability %s: there is no capability %q", f.capability, name)
			}
			q.Operation |= c
		}
		if q.Operation.Has(policy.Subscribe) || q.Operation.Has(policy.Deny) || q.Operation == policy.Sudo {
			return q, usagef(cmd, "--capability %s: must be an operation: create, read, update, patch, delete, list or recover; for events there is --event-type", f.capability)
		}
	}
	return q, nil
}

func (f *policyTestFlags) run(ctx context.Context, s *Streams, q policy.Query) error {
	c, err := f.withoutToken()
	if err != nil {
		return err
	}
	namespace := event.CanonicalNamespace(c.namespace)
	q.Namespace = namespace
	if f.eventNamespace != "" {
		q.Namespace = event.CanonicalNamespace(f.eventNamespace)
	}
	who := f.subject()
	var policies []policy.Bound
	for _, file := range f.files {
		p, err := parseFile(s, file)
		if err != nil {
			return err
		}
		policies = append(policies, policy.Bound{Policy: p, Namespace: namespace})
	}
	if len(f.names) > 0 || f.self || f.accessor != "" {
		if err := c.findToken(f.tokenFile); err != nil {
			return err
		}
		more, err := f.stored(ctx, s, c, who)
		if err != nil {
			return err
		}
		policies = append(policies, more...)
	}
	x := policy.Compile(policies, who).Explain(q)
	if f.format == answerJSON {
		err = printJSON(s.Out, explanationJSON(q, x))
	} else {
		err = printExplanation(s.Out, q, x)
	}
	if err == nil && !x.Allowed {
		err = errNotAllowed
	}
	return err
}

// errNotAllowed is the outcome of a test that was printed.
var errNotAllowed = errors.New("not allowed")

// subject is who the flags say asks.
func (f *policyTestFlags) subject() *policy.Subject {
	who := &policy.Subject{
		EntityID: f.entityID, EntityName: f.entityName, EntityMetadata: f.entityMeta,
		TokenMetadata: f.meta, DisplayName: f.displayName, Claims: f.claims,
		Aliases: make(map[string]policy.Alias),
	}
	for accessor, name := range f.aliases {
		who.Aliases[accessor] = policy.Alias{Name: name}
	}
	for name, id := range f.groups {
		who.Groups = append(who.Groups, policy.Group{ID: id, Name: name})
	}
	return who
}

// parseFile reads the policy of a file, which is called like the file.
func parseFile(s *Streams, file string) (*policy.Policy, error) {
	text, err := readPolicy(s.In, file)
	if err != nil {
		return nil, err
	}
	p, warnings, err := policy.Parse(shownFile(file), text)
	if err != nil {
		return nil, policyError(shownFile(file), err)
	}
	for _, w := range warnings {
		fmt.Fprintf(s.Err, "Warning: %s\n", problemLine(shownFile(file), w))
	}
	return p, nil
}

// stored returns the policies of the hub that the flags name, or that the tokens they
// name have, and completes who asks by those tokens.
func (f *policyTestFlags) stored(ctx context.Context, s *Streams, c *connection, who *policy.Subject) (policies []policy.Bound, err error) {
	add := func(namespace string, names []string) error {
		at := *c
		at.namespace = namespace
		for _, name := range names {
			p, err := at.storedPolicy(ctx, s, name)
			if err != nil {
				return err
			}
			policies = append(policies, policy.Bound{Policy: p, Namespace: event.CanonicalNamespace(namespace)})
		}
		return nil
	}
	if err := add(c.namespace, f.names); err != nil {
		return nil, err
	}
	var targets []tokenTarget
	if f.self {
		targets = append(targets, tokenTarget{})
	}
	if f.accessor != "" {
		targets = append(targets, tokenTarget{accessor: f.accessor})
	}
	for _, target := range targets {
		a, err := target.lookup(ctx, c)
		if err != nil {
			return nil, err
		}
		t, err := readTokenData(c, a)
		if err != nil {
			return nil, err
		}
		fillSubject(who, t)
		names := slices.Concat(t.Policies, t.IdentityPolicies)
		slices.Sort(names)
		if err := add(t.Namespace, slices.Compact(names)); err != nil {
			return nil, err
		}
	}
	return policies, nil
}

// fillSubject adds what a token tells about its owner, where flags say nothing.
func fillSubject(who *policy.Subject, t *tokenData) {
	if who.EntityID == "" {
		who.EntityID = t.EntityID
	}
	if who.DisplayName == "" {
		who.DisplayName = t.DisplayName
	}
	if who.TokenMetadata == nil {
		who.TokenMetadata = t.Meta
	}
}

// storedPolicy returns a policy of the hub. One that does not exist, which tokens may
// have, is empty.
func (c *connection) storedPolicy(ctx context.Context, s *Streams, name string) (*policy.Policy, error) {
	if name == policy.RootPolicy.Name && event.CanonicalNamespace(c.namespace) == "" {
		return policy.RootPolicy, nil
	}
	text, err := c.policyText(ctx, name)
	if _, none := errors.AsType[*noPolicyError](err); none {
		fmt.Fprintf(s.Err, "Warning: %v: it allows nothing\n", err)
		return &policy.Policy{Name: name}, nil
	}
	if refused, ok := errors.AsType[*client.StatusError](err); ok && errors.Is(err, client.ErrPermission) && c.token != "" {
		return nil, &adviceError{fmt.Errorf("policy %s: %w", visible(name), refused),
			fmt.Sprintf("The token from %s is not valid at %s, or may not read policies, which needs \"read\" on %s/NAME. "+
				"\"tocsin token capabilities\" says what it may do itself.", c.source, c.address, policiesPath)}
	}
	if err != nil {
		return nil, fmt.Errorf("policy %s: %w", visible(name), err)
	}
	p, _, err := policy.Parse(visible(name), text)
	if err != nil {
		return nil, policyError("policy "+visible(name), err)
	}
	return p, nil
}

// question is what was asked, in words.
func question(q policy.Query, path string) string {
	if q.Operation == policy.Subscribe {
		return fmt.Sprintf("see %s on %s", visible(q.EventType), visible(path))
	}
	if glob, ok := strings.CutPrefix(q.Path, "sys/events/subscribe/"); ok && q.Operation == policy.Read {
		in := ""
		if q.Namespace != "" {
			in = " in " + visible(q.Namespace)
		}
		return fmt.Sprintf("subscribe to %s%s", visible(glob), in)
	}
	return fmt.Sprintf("%s on %s", q.Operation, visible(path))
}

// printExplanation prints a decision for people.
func printExplanation(w io.Writer, q policy.Query, x policy.Explanation) error {
	var b strings.Builder
	outcome := "Allowed"
	if !x.Allowed {
		outcome = "Not allowed"
	}
	fmt.Fprintf(&b, "%s: %s\n%s.\n", outcome, question(q, x.Path), sentence(x.Reason))
	if x.Winner != nil {
		b.WriteString("\nThe rule that decides:\n")
		table(&b, matchRows(*x.Winner))
	}
	if len(x.Lost) > 0 {
		b.WriteString("\nRules that match as well, and do not count:\n")
		table(&b, matchRows(x.Lost...))
	}
	if len(x.Skipped) > 0 {
		b.WriteString("\nRules that were skipped because of their templates:\n")
		var rows [][]string
		for _, s := range x.Skipped {
			rows = append(rows, []string{placeOf(s.Source), visible(s.Rule.Pattern), visible(s.Reason)})
		}
		table(&b, rows)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// matchRows has one line for each pattern: where it is, what it grants, why it lost;
// below it the other places that have the same pattern.
func matchRows(matches ...policy.Match) (rows [][]string) {
	for _, m := range matches {
		grants := m.Capabilities.String()
		if len(m.EventTypes) > 0 {
			grants += "; events " + listed(m.EventTypes)
		}
		for i, s := range m.Sources {
			if i == 0 {
				rows = append(rows, []string{placeOf(s), visible(m.Pattern), grants, visible(m.Reason)})
			} else {
				rows = append(rows, []string{placeOf(s), "", "(the same pattern: both count together)", ""})
			}
		}
	}
	return rows
}

// table prints rows of equal length as columns, indented.
func table(b *strings.Builder, rows [][]string) {
	var aligned strings.Builder
	t := tabwriter.NewWriter(&aligned, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	t.Flush()
	for line := range strings.Lines(aligned.String()) {
		fmt.Fprintf(b, "  %s\n", strings.TrimRight(line, " \n"))
	}
}

// placeOf is where a rule is, as editors understand it.
func placeOf(s policy.Source) string {
	return fmt.Sprintf("%s:%d:%d", visible(s.Policy), s.Rule.Position.Line, s.Rule.Position.Column)
}

func sentence(s string) string {
	s = visible(s)
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// The JSON form of a decision.
type (
	decisionJSON struct {
		Allowed   bool          `json:"allowed"`
		Reason    string        `json:"reason"`
		Path      string        `json:"path"` // with the namespace
		Operation []string      `json:"operation"`
		EventType string        `json:"event_type,omitempty"`
		Rule      *matchJSON    `json:"rule"`
		Lost      []matchJSON   `json:"lost"`
		Skipped   []skippedJSON `json:"skipped"`
	}
	matchJSON struct {
		Pattern      string      `json:"pattern"`
		Capabilities []string    `json:"capabilities"`
		EventTypes   []string    `json:"event_types"`
		Places       []placeJSON `json:"places"`
		Reason       string      `json:"reason,omitempty"`
	}
	placeJSON struct {
		Policy    string `json:"policy"`
		Namespace string `json:"namespace"`
		Line      int    `json:"line"`
		Column    int    `json:"column"`
		Pattern   string `json:"pattern"` // as written
	}
	skippedJSON struct {
		placeJSON
		Reason string `json:"reason"`
	}
)

func explanationJSON(q policy.Query, x policy.Explanation) decisionJSON {
	d := decisionJSON{
		Allowed: x.Allowed, Reason: x.Reason, Path: x.Path, Operation: q.Operation.Names(), EventType: q.EventType,
		Lost: []matchJSON{}, Skipped: []skippedJSON{},
	}
	if x.Winner != nil {
		m := newMatchJSON(*x.Winner)
		d.Rule = &m
	}
	for _, m := range x.Lost {
		d.Lost = append(d.Lost, newMatchJSON(m))
	}
	for _, s := range x.Skipped {
		d.Skipped = append(d.Skipped, skippedJSON{newPlaceJSON(s.Source), s.Reason})
	}
	return d
}

func newMatchJSON(m policy.Match) matchJSON {
	j := matchJSON{Pattern: m.Pattern, Capabilities: m.Capabilities.Names(), EventTypes: m.EventTypes, Reason: m.Reason}
	if j.EventTypes == nil {
		j.EventTypes = []string{}
	}
	for _, s := range m.Sources {
		j.Places = append(j.Places, newPlaceJSON(s))
	}
	return j
}

func newPlaceJSON(s policy.Source) placeJSON {
	return placeJSON{Policy: s.Policy, Namespace: s.Namespace, Line: s.Rule.Position.Line, Column: s.Rule.Position.Column, Pattern: s.Rule.Pattern}
}
