#!/usr/bin/env bash
# Renews constraints.txt: the newest versions that pyproject.toml allows, resolved in a fresh environment.
# Names and versions only, never the address of an index.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

.venv/bin/python -m venv "$work/venv"
pip=("$work/venv/bin/python" -m pip --disable-pip-version-check --no-input)
"${pip[@]}" install --quiet --progress-bar off --editable '.[all,dev]'
{
    echo "# Exact versions of everything imsd runs, builds and is tested with. \`make lock\` renews it."
    "${pip[@]}" freeze --exclude-editable | LC_ALL=C sort --ignore-case
} >"$work/constraints.txt"
if grep -n '@\|://' "$work/constraints.txt"; then
    echo "constraints.txt would name an address: nothing was written" >&2
    exit 1
fi
mv "$work/constraints.txt" constraints.txt
chmod 644 constraints.txt
