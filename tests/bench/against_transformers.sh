#!/usr/bin/env bash
# Trains the same 153M-parameter model from the same weights on the same tokens in Fucina and in transformers, alternating
# in one run, and prints tokens/s of both, the ratio to the best of transformers' {bf16, fp32} x {eager, grouped_mm}, the
# peak memory of each, and which share of the peak of its instruction Fucina reaches.
#   tests/bench/against_transformers.sh [ROUNDS]
# Environment: FUCINA (default build/fucina); FUCINA_ORACLE_PYTHON; VARIANTS ("exact;fast", default all of compare.py); PEERS ("bf16, grouped_mm;
# fp32, eager", default all four);
# LEVEL=avx2 keeps both programs to AVX2 on a CPU that has more.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
rounds=${1:-3}
fucina=${FUCINA:-$root/build/fucina}
python=${FUCINA_ORACLE_PYTHON:-$root/.venv-oracle/bin/python}
[ -x "$fucina" ] || { echo "no $fucina: build it first (cmake --preset release && cmake --build build)" >&2; exit 2; }
[ -x "$python" ] || { echo "no $python: bash launch/setup.sh --tests makes it" >&2; exit 2; }
if [ "${LEVEL:-}" = avx2 ]; then
    export FUCINA_ISA=avx2 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2
elif [ -n "${LEVEL:-}" ]; then
    echo "LEVEL is avx2, or not set" >&2
    exit 2
fi
work=$(mktemp -d "${TMPDIR:-/tmp}/fucina-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT
"$python" "$here/peer_transformers.py" init "$work/model" "$work/tokens.json" 2>/dev/null
"$python" "$here/compare.py" "$work" "$fucina" "$rounds"
