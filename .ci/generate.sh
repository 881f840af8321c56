#!/usr/bin/env bash
# Generates Python code and type stubs from every .proto file.
# A proto path equals its Python import path, so the generated imports work as they are.
#
# usage: .ci/generate.sh FOLDER
set -euo pipefail
cd "$(dirname "$0")/.."
out=$1
PATH=$PWD/.venv/bin:$PATH # protoc looks there for protoc-gen-mypy
mapfile -t protos < <(find proto -name '*.proto' | LC_ALL=C sort)
.venv/bin/python -m grpc_tools.protoc -Iproto "--python_out=$out" "--grpc_python_out=$out" \
    "--mypy_out=quiet:$out" "--mypy_grpc_out=quiet:$out" "${protos[@]}"
