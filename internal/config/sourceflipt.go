package config

import (
	"reflect"
	"slices"
)

// Flipt is a source that receives the webhooks of a Flipt server, on the address of the hub.
const Flipt SourceType = "flipt"

// Unsigned says who may send to a source of the type flipt without a signature.
type Unsigned string

// Who may send without a signature.
const (
	UnsignedRefuse   Unsigned = "refuse"
	UnsignedLoopback Unsigned = "loopback"
	UnsignedToken    Unsigned = "token"
)

// fliptFields are the fields that a source of the type flipt has.
var fliptFields = []string{"name", "type", "signing_secrets", "unsigned"}

// fliptSource checks a source of the type flipt.
func (v *validator) fliptSource(key string, s *Source) {
	defaults, value := reflect.ValueOf(DefaultSource()), reflect.ValueOf(*s)
	for i, name := range fieldKeys(value.Type()) {
		if !slices.Contains(fliptFields, name) && !reflect.DeepEqual(value.Field(i).Interface(), defaults.Field(i).Interface()) {
			v.report(key+"."+name, "is not for sources of type flipt, which receive on listen.address; remove it")
		}
	}
	if len(s.SigningSecrets) == 0 && s.Unsigned == UnsignedRefuse {
		v.report(key, "has no signing_secrets, so nothing could be received; add the signing_secret of the Flipt server, or say with unsigned who may send without")
	}
	for i := range s.SigningSecrets {
		if !s.SigningSecrets[i].IsSet() {
			v.report(key+".signing_secrets", "element %d is empty", i)
		}
	}
}
