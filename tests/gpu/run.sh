#!/bin/bash
# What takes a GPU, on a machine that has one: builds the program and tests/gpu by nvcc, runs the
# cases of all kernels, layouts on the device, ranks over NCCL and a bench, and compute-sanitizer and
# Nsight Compute where they are installed. Writes docs/results/gpu.md. Fails if anything failed; what
# could not be run is said on the page.
#   tests/gpu/run.sh           everything, in about half an hour
#   tests/gpu/run.sh --build   builds it all, for which no GPU is needed
set -uo pipefail
cd "$(dirname "$0")/../.."
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

case ${1:-} in
    "" | --build) ;;
    *)
        echo "error: run.sh: unknown argument $1; known: --build" >&2
        exit 2
        ;;
esac
build=build-cuda-test
logs=$build/gpu-logs
page=docs/results/gpu.md

bash launch/cuda_wheels.sh && cmake --preset cuda-test &&
    cmake --build $build -j "$(nproc)" \
        --target fucina test_gpu bench_gpu test_nccl test_layouts || exit 1
[ "${1:-}" != --build ] || exit 0

if ! device=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null); then
    echo "error: run.sh: nvidia-smi finds no GPU; --build builds without one" >&2
    exit 2
fi
gpus=$(wc -l <<<"$device")
device=$(head -n 1 <<<"$device")
rm -rf $logs
mkdir -p $logs
failed=0
rows=()

# What is told, and a command whose output goes to a log.
step() {
    local what=$1 log=$logs/$2 begin=$SECONDS
    shift 2
    echo "== $what"
    if "$@" >"$log" 2>&1; then
        rows+=("| $what | passed | $((SECONDS - begin)) s |")
    else
        failed=$((failed + 1))
        rows+=("| $what | **FAILED**: $log | $((SECONDS - begin)) s |")
        tail -n 30 "$log"
    fi
}
left_out() {
    echo "== $1: left out, $2"
    rows+=("| $1 | left out: $2 | |")
}

# A small run's losses, step by step, on so many ranks.
losses() {
    local ranks=$1 run=$logs/run-$1
    shift
    rm -rf "$run"
    mpirun -np "$ranks" --oversubscribe "${FUCINA:-$build/fucina}" train tests/gpu/small.toml \
        --set run.dir="$run" "$@" \
        --set data.train="[{ path = \"$logs/ids.json\", format = \"tokens\" }]" \
        >"$run.log" 2>&1 || {
        tail -n 5 "$run.log"
        return 1
    }
    grep -o '"loss":[^,}]*' "$run/metrics.jsonl"
}
# One rank, and ranks with a GPU each, which NCCL connects, train the same bits.
ranks_agree() {
    local one many
    awk 'BEGIN {
        printf "["
        for (i = 0; i < 40; ++i) {
            printf "%s[", (i > 0 ? "," : "")
            for (j = 0; j < 100; ++j) printf "%s%d", (j > 0 ? "," : ""), (i * 911 + j * j * 37) % 4096
            printf "]"
        }
        print "]"
    }' >$logs/ids.json
    one=$(losses 1 "${@:2}") || { echo "one rank: $one"; return 1; }
    many=$(losses "$@") || { echo "$1 ranks: $many"; return 1; }
    echo "$one"
    [ "$one" = "$many" ] || { echo "but on $1 ranks: $many"; return 1; }
}

step "every kernel case, twice, beside the reference and the CPU" test_gpu.log $build/tests/gpu/test_gpu
# Ranks of this test are threads, whose tensors share one arena: one GPU.
step "layouts on one GPU train what one rank does" layouts.log env CUDA_VISIBLE_DEVICES=0 \
    $build/tests/test_layouts --gtest_filter='*Device*'
if [ "$gpus" -gt 1 ]; then
    step "collectives over NCCL on $gpus GPUs" nccl.log $build/tests/nccl/test_nccl
    step "2 ranks over NCCL train what one does" ranks.log ranks_agree 2
else
    left_out "ranks over NCCL" "this machine has one GPU"
fi
step "2 ranks that share a GPU train what one does" shared.log env CUDA_VISIBLE_DEVICES=0 \
    bash -c "$(declare -f losses ranks_agree); build=$build logs=$logs; ranks_agree 2"
if command -v compute-sanitizer >/dev/null; then
    step "compute-sanitizer memcheck" memcheck.log compute-sanitizer --error-exitcode 1 \
        $build/tests/gpu/test_gpu
    step "compute-sanitizer racecheck, small cases" racecheck.log compute-sanitizer \
        --tool racecheck --error-exitcode 1 $build/tests/gpu/test_gpu \
        --gtest_filter='*rmsnorm*:*router*:*combine*:*attention*:CudaKernelCases.Quantize:GpuFastProducts.*-*latent*'
else
    left_out "compute-sanitizer" "not installed"
fi
step "bench" bench.md $build/tests/gpu/bench_gpu
if command -v ncu >/dev/null; then
    step "Nsight Compute of products" ncu.csv ncu --csv --set basic $build/tests/gpu/bench_gpu "up ["
else
    left_out "Nsight Compute" "not installed"
fi

{
    cat <<END
# On a GPU

Made by \`bash tests/gpu/run.sh\` on $device, $gpus of them, at $(git rev-parse --short HEAD).

| what | result | time |
|---|---|---|
END
    printf '%s\n' "${rows[@]}"
    printf '\n## Bench\n\n'
    cat $logs/bench.md
} >$page
echo "run.sh: $failed failed; $page"
[ $failed -eq 0 ]
