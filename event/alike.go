package event

// Alike reports whether e and o certainly differ in nothing but ID, Time and Data. It is quick:
// fields, entity ids and plugin info count as equal only if they are the same memory, as they are
// in the events of one producer that shares them.
func (e *Event) Alike(o *Event) bool {
	return e.Type == o.Type && e.Namespace == o.Namespace && e.Source == o.Source && e.Path == o.Path &&
		same(e.Metadata, o.Metadata) && same(e.Extensions, o.Extensions) && same(e.EntityIDs, o.EntityIDs) &&
		e.Plugin == o.Plugin && e.Note == o.Note && e.DataContentType == o.DataContentType &&
		e.DataSchema == o.DataSchema && e.DataRef == o.DataRef && e.Recorded == o.Recorded
}

// same reports whether a and b are the same memory.
func same[S ~[]T, T any](a, b S) bool {
	if len(a) != len(b) || (a == nil) != (b == nil) {
		return false
	}
	return len(a) == 0 || &a[0] == &b[0]
}

// CheckLike does what [Limits.Check] does, quickly: o is an event that it has accepted, and e is
// Alike to it.
func (l Limits) CheckLike(e, o *Event) error {
	if size := o.Size() - len(o.ID) - len(o.Data) + len(e.ID) + len(e.Data); size > l.MaxEventBytes {
		return &LimitError{"event", size, l.MaxEventBytes}
	}
	switch {
	case e.Time.IsZero():
		return invalid(attrTime, "is missing")
	case e.ID == "":
		return invalid(attrID, "is empty")
	}
	// Not returned as they are: a nil of their type is no nil error.
	if err := firstOf(checkText(attrID, e.ID), checkTime(attrTime, e.Time)); err != nil {
		return err
	}
	return nil
}
