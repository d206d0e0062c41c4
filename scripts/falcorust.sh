#!/usr/bin/env bash
# Builds Falco plugins with the Rust SDK "falco_plugin" of the crate registry, for tests, and
# prints their paths: the one in test/compat/falcorust, and the example that comes with the SDK.
# What is built is kept in Cargo's own cache directory. Exit code 3: they cannot be had here,
# because there is no Cargo or the registry is not reached.
set -euo pipefail
cd "$(dirname "$0")/../test/compat/falcorust"
export CARGO_TARGET_DIR=${TOCSIN_CARGO_TARGET:-${XDG_CACHE_HOME:-$HOME/.cache}/tocsin-falcorust}

command -v cargo >/dev/null || { echo "falcorust.sh: there is no cargo" >&2; exit 3; }
cargo fetch --quiet --locked >&2 || exit 3
cargo build --quiet --release --locked --offline >&2
sdk=$(cargo metadata --format-version 1 --locked --offline |
	tr ',' '\n' | sed -n 's/^"manifest_path":"\(.*\/falco_plugin-[0-9.]*\/Cargo.toml\)".*/\1/p' | head -1)
[ -f "$sdk" ] || { echo "falcorust.sh: the SDK is not where Cargo says: $sdk" >&2; exit 1; }
# With the versions that are locked here, since what the SDK locks for itself is not fetched.
copy=$CARGO_TARGET_DIR/sdk
rm -rf "$copy"
cp -rp "$(dirname "$sdk")" "$copy"
cp Cargo.lock "$copy/Cargo.lock"
cargo build --quiet --release --offline --manifest-path "$copy/Cargo.toml" --example dummy_source >&2
echo "$CARGO_TARGET_DIR/release/libfalcorust.so"
echo "$CARGO_TARGET_DIR/release/examples/libdummy_source.so"
