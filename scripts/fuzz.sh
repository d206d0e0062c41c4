#!/usr/bin/env bash
# Runs every fuzz target of the module for the given time each (default 5s).
set -euo pipefail
cd "$(dirname "$0")/.."

# go test -fuzz sometimes fails with "context deadline exceeded" when its time
# is up while an input is running; that is no finding, and without one is tried again.
run() {
	local log
	log=$(mktemp)
	if go test "$1" -run '^$' -fuzz "^$2\$" -fuzztime "$3" 2>&1 | tee "$log"; then
		return 0
	fi
	grep -q 'context deadline exceeded' "$log" && ! grep -q 'Failing input written' "$log" || return 1
	go test "$1" -run '^$' -fuzz "^$2\$" -fuzztime "$3"
}

for file in $(git ls-files '*_test.go' | xargs grep -l '^func Fuzz'); do
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' "$file"); do
		echo "fuzz $(dirname "$file") $target"
		run "./$(dirname "$file")" "$target" "${1:-5s}"
	done
done
