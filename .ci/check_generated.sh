#!/usr/bin/env bash
# The committed generated code must be what the .proto files give.
set -euo pipefail
cd "$(dirname "$0")/.."
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT

.ci/generate.sh "$fresh"
status=0
while IFS= read -r -d '' folder; do
    # Only generated files are compared: __init__.py is written by hand.
    diff --brief --recursive --exclude=__init__.py --exclude=__pycache__ \
        "$fresh/$folder" "$folder" || status=1
done < <(cd "$fresh" && find . -name '*_pb2.py' -printf '%h\0' | sort -zu)
[ $status = 0 ] || echo "The generated code is out of date: run 'make proto' and commit the result." >&2
exit $status
