#!/bin/sh
# Regenerates the Python code of every .proto file beside it.  Usage: protos/generate.sh [OUT_DIR]
set -eu
cd "$(dirname "$0")"
out=${1:-.}
mkdir -p "$out"
"${PYTHON:-../.venv/bin/python}" -m grpc_tools.protoc -I . --python_out="$out" --pyi_out="$out" --grpc_python_out="$out" \
  hansa/protos/v1/*.proto
