#!/usr/bin/env bash
# Trains the same 153M-parameter model from the same weights on the same tokens in Fucina and in transformers, alternating
# in one run, and prints tokens/s of both, the ratio and the peak memory of each.
#   tests/bench/against_transformers.sh [ROUNDS]
# Environment: FUCINA (default build/fucina), FUCINA_ORACLE_PYTHON, VARIANTS ("exact;fast", default all).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
rounds=${1:-3}
fucina=${FUCINA:-$root/build/fucina}
python=${FUCINA_ORACLE_PYTHON:-$root/.venv-oracle/bin/python}
[ -x "$fucina" ] || { echo "no $fucina: build it first (cmake --preset release && cmake --build build)" >&2; exit 2; }
[ -x "$python" ] || { echo "no $python: bash launch/setup.sh --tests makes it" >&2; exit 2; }
work=$(mktemp -d "${TMPDIR:-/tmp}/fucina-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT
"$python" "$here/peer_transformers.py" init "$work/model" "$work/tokens.json" 2>/dev/null
"$python" "$here/compare.py" "$work" "$fucina" "$rounds"
