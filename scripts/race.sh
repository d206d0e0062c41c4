#!/usr/bin/env bash
# Runs the tests of the module with the race detector.
#
# Many tests have real clocks, sockets and processes, and hundreds run at the same time on a
# machine that may have two cores. A package that fails is run once more, beside no other;
# if it passes then, what failed first is printed as FLAKY, to be mended. A data race, a
# panic, a test that did not end and what does not compile are never tried again.
set -euo pipefail
cd "$(dirname "$0")/.."

export TOCSIN_TESTS=all # also those that "go test ./..." leaves out because they take minutes
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if go test -race ./... 2>&1 | tee "$log"; then
	exit 0
fi
packages=$(sed -n 's/^FAIL\t\([^ \t]*\).*/\1/p' "$log")
if [ -z "$packages" ] || grep -qE '^WARNING: DATA RACE|^(panic|fatal error): |^FAIL.*\[(build|setup) failed\]' "$log"; then
	exit 1
fi
printf '\nonce more, one package at a time: %s\n' "$(echo $packages)"
go test -race -count=1 -p 1 $packages
grep -E '^ *--- FAIL' "$log" | sed 's/^ *--- FAIL/FLAKY/'
