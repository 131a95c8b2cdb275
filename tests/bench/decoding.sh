#!/usr/bin/env bash
# Times cached decoding of one sequence in Fucina and in transformers on the same random weights, alternating in one run: a
# model of the quickstart's shape (10M parameters) and the one of the training benchmark (153M), after 64 and 1,024 tokens.
# Prints a table: ms a token, the bytes that a token must read, and which share of the bandwidth of reading memory that is.
#   tests/bench/decoding.sh [ROUNDS]
# Environment: BENCH_DECODE (default build-test/tests/bench_decode); FUCINA_ORACLE_PYTHON; LEVEL=avx2 as in
# against_transformers.sh.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
bench=${BENCH_DECODE:-$root/build-test/tests/bench_decode}
python=${FUCINA_ORACLE_PYTHON:-$root/.venv-oracle/bin/python}
[ -x "$bench" ] || { echo "no $bench: tests/run.sh builds it" >&2; exit 2; }
[ -x "$python" ] || { echo "no $python: bash launch/setup.sh --tests makes it" >&2; exit 2; }
if [ "${LEVEL:-}" = avx2 ]; then
    export FUCINA_ISA=avx2 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2
fi
work=$(mktemp -d "${TMPDIR:-/tmp}/fucina-decode.XXXXXX")
trap 'rm -rf "$work"' EXIT
for shape in quickstart medium; do
    "$python" "$here/decode_peer.py" init $shape "$work/$shape" 2>/dev/null
done
"$python" "$here/decode_compare.py" "$work" "$bench" "${1:-3}"
