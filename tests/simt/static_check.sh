#!/bin/bash
# Compiles kernels/cuda with nvcc: for sm_90a, where what ptxas says of every kernel is looked at, and
# for sm_100, where only the kernels of Hopper's tensor cores may do nothing. Fails on warnings,
# register spills, local memory, any C75xx remark (ptxas had to serialize or repair something), and
# when docs/results/cuda-static.md, made by the same nvcc, says otherwise.
#   tests/simt/static_check.sh           checks
#   tests/simt/static_check.sh --write   checks, and writes docs/results/cuda-static.md
# Without nvcc it says so and succeeds, but fails if FUCINA_REQUIRE_CUDA_COMPILE=1.
set -euo pipefail
cd "$(dirname "$0")/../.."
export LC_ALL=C

page=docs/results/cuda-static.md
write=no
case ${1:-} in
    "") ;;
    --write) write=yes ;;
    *)
        echo "error: static_check.sh: unknown argument $1; known: --write" >&2
        exit 2
        ;;
esac

nvcc=$(PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin command -v nvcc) || {
    echo "static_check: this machine has no nvcc"
    [ "${FUCINA_REQUIRE_CUDA_COMPILE:-0}" != 1 ] || exit 1
    exit 0
}
version=$("$nvcc" --version | sed -n 's/^Cuda compilation tools, release .*, V\(.*\)$/\1/p')

# cublasLt.h, from a toolkit that has it or the project's wheels.
includes=(-I.)
if ! echo '#include <cublasLt.h>' | "$nvcc" -x cu -E - >/dev/null 2>&1; then
    bash launch/cuda_wheels.sh
    wheels=(.venv-cuda/lib/python3*/site-packages/nvidia/cu13/include)
    includes+=("-I${wheels[0]}")
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/90a" "$work/100"
export nvcc work
export include_flags="${includes[*]}"
compile() {
    local architecture=$1 source=$2
    local log=$work/$architecture/$(basename "$source").log
    # Two are the tests' own, with every instruction of kernels/cuda/device: not in the table.
    [[ $source != tests/* ]] || log=$work/$architecture/tests.$(basename "$source")
    # shellcheck disable=SC2086
    "$nvcc" --options-file kernels/cuda/nvcc.flags $include_flags \
        "-gencode=arch=compute_$architecture,code=sm_$architecture" \
        -c "$source" -o "$log.o" >"$log" 2>&1 || echo "does not compile: error" >>"$log"
    rm -f "$log.o"
}
export -f compile
tests=(tests/simt/{hopper_kernels,cluster_kernel}.cu)
{
    printf '90a %s\n' kernels/cuda/*.cu kernels/cuda/*.cpp "${tests[@]}"
    printf '100 %s\n' kernels/cuda/*.cu
} | xargs -P "${JOBS:-$(nproc)}" -L 1 bash -c 'compile "$@"' compile

failed=no
if grep -nE 'C75[0-9][0-9]|warning|error|fatal' -r "$work"; then
    echo "static_check: see the lines above"
    failed=yes
fi
python3 tests/simt/static_table.py "$version" "$work"/90a/*.cu.log >"$work/page" || failed=yes
cat "$work/page"
if [ $write = yes ] && [ $failed = no ]; then
    mkdir -p "$(dirname $page)"
    cp "$work/page" $page
elif [ $write = no ] && grep -qF "nvcc $version " $page && ! diff -u $page "$work/page"; then
    echo "static_check: $page is out of date: run tests/simt/static_check.sh --write"
    failed=yes
fi
[ $failed = no ] || exit 1
echo "static_check: sm_90a and sm_100 compile, no spills, no local memory, nvcc $version"
