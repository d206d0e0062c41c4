// Package falcoplugin loads a native Falco plugin, a shared library that has the functions of
// Falco's plugin API, and makes a [sourceplugin.Plugin] of it. No cgo is needed.
//
// A library is code in this process. It can crash it, hang in a call, or overwrite what it
// likes, and it cannot be unloaded. So this package is for a process of its own that may end at
// any time: "tocsin plugin-host", which serves the plugin to the hub.
package falcoplugin

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// APIVersion is the version of the plugin API that is spoken. A plugin may ask for any older one
// with the same first number.
const APIVersion = "3.12.0"

// ErrUnavailable is returned by Load where this build cannot load libraries.
var ErrUnavailable = errors.New("this build of Tocsin cannot load native plugins: they need the build for Linux or macOS (amd64, arm64) that is not static; see docs/decisions/0010-native-plugins.md")

// What plugin functions return.
const (
	rcSuccess      int32 = 0
	rcFailure      int32 = 1
	rcTimeout      int32 = -1
	rcEOF          int32 = 2
	rcNotSupported int32 = 3
)

// Kinds of config schemas.
const (
	schemaNone = 0
	schemaJSON = 1
)

// checkAPI refuses a plugin that was made for another or a newer API.
func checkAPI(required string) error {
	want, _, err := parseVersion(required, false)
	if err != nil {
		return fmt.Errorf("the plugin API version that it requires, %q, is no version: three numbers like 3.1.0 are expected", required)
	}
	have, _, _ := parseVersion(APIVersion, false)
	for i, part := range []string{"major", "minor", "patch"} {
		switch {
		case want[i] == have[i]:
			continue
		case i > 0 && want[i] < have[i]:
			return nil
		case i == 0:
			return fmt.Errorf("it requires version %s of the plugin API, and this is %s: the major versions differ", required, APIVersion)
		}
		return fmt.Errorf("it requires version %s of the plugin API, and this is %s: the %s version is too new; get a newer Tocsin, or an older version of the plugin", required, APIVersion, part)
	}
	return nil
}

func checkPluginVersion(version string) error {
	if _, _, err := parseVersion(version, true); err != nil {
		return fmt.Errorf("the version of the plugin, %q, is not three numbers like 1.2.3, which may have a suffix like -rc1", version)
	}
	return nil
}

// parseVersion parses three numbers and, if allowed, a suffix that begins with - or +.
func parseVersion(s string, suffixAllowed bool) (v [3]uint32, suffix string, err error) {
	if at := strings.IndexAny(s, "-+"); at >= 0 && suffixAllowed {
		s, suffix = s[:at], s[at:]
	}
	parts := strings.Split(s, ".")
	if len(parts) != len(v) {
		return v, "", errors.New("not three numbers")
	}
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 32)
		if err != nil {
			return v, "", err
		}
		v[i] = uint32(n)
	}
	return v, suffix, nil
}
