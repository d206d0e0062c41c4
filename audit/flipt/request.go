package flipt

// Request says what was asked for: which [Action] on which [Subject] of which [Resource], and
// what became of it. The types are texts: a program has its own beside Flipt's.
type Request struct {
	Namespace string
	Resource  Resource
	// Subject is the thing itself when the resource only leads to it: a variant is a subject of
	// the resource flag. Empty: the resource is the subject.
	Subject Subject
	Action  Action
	// Status is what became of it.
	Status Status
}

// Resource is what rights are given for.
type Resource string

// Flipt's resources.
const (
	ResourceNamespace      Resource = "namespace"
	ResourceFlag           Resource = "flag"
	ResourceSegment        Resource = "segment"
	ResourceAuthentication Resource = "authentication"
)

// Subject is what something is done to.
type Subject string

// Flipt's subjects.
const (
	SubjectConstraint   Subject = "constraint"
	SubjectDistribution Subject = "distribution"
	SubjectFlag         Subject = "flag"
	SubjectNamespace    Subject = "namespace"
	SubjectRollout      Subject = "rollout"
	SubjectRule         Subject = "rule"
	SubjectSegment      Subject = "segment"
	SubjectToken        Subject = "token"
	SubjectVariant      Subject = "variant"
)

// Action is what is asked for.
type Action string

// The actions.
const (
	ActionCreate Action = "create"
	ActionUpdate Action = "update"
	ActionDelete Action = "delete"
	ActionRead   Action = "read"
)

// Verb returns the action of an event: "created", "updated", "deleted", and "read" for everything
// else.
func (a Action) Verb() string {
	switch a {
	case ActionCreate:
		return "created"
	case ActionUpdate:
		return "updated"
	case ActionDelete:
		return "deleted"
	}
	return "read"
}

// Status is what became of a request.
type Status string

// The statuses.
const (
	StatusSuccess Status = "success"
	StatusDenied  Status = "denied"
)
