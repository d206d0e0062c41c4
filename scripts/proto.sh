#!/usr/bin/env bash
# Checks the protos below proto/ and makes their Go code anew. Needs Go only: the tools
# are built from proto/tools/go.mod, and protoc-gen-go from the module of the runtime that
# the hub links, so that both fit together.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT

(cd proto/tools && go build -o "$bin/" github.com/bufbuild/buf/cmd/buf google.golang.org/grpc/cmd/protoc-gen-go-grpc)
go build -o "$bin/" google.golang.org/protobuf/cmd/protoc-gen-go

cd proto
export PATH="$bin:$PATH"
buf lint
find . -name '*.pb.go' -delete # of protos that are no more
buf generate
