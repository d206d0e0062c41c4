#!/usr/bin/env bash
# Prints the path of sysdig, for tests: that of the machine, else Debian's package, which it
# installs where it may. Exit code 3: it cannot be had here.
set -euo pipefail
if ! command -v sysdig >/dev/null; then
	[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || { echo "sysdig.sh: there is no sysdig; install the package \"sysdig\"" >&2; exit 3; }
	export DEBIAN_FRONTEND=noninteractive
	get() { timeout 300 apt-get -q -y -o DPkg::Lock::Timeout=120 "$@" >&2; }
	install() { get --no-install-recommends install sysdig; }
	# A machine that has just been made knows no packages yet.
	install || { get update && install; } || { echo "sysdig.sh: the package \"sysdig\" cannot be installed" >&2; exit 3; }
fi
command -v sysdig || { echo "sysdig.sh: the package has no sysdig" >&2; exit 3; }
