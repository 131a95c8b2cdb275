#!/bin/bash
# Compiles kernels/cuda for sm_90a with nvcc and prints what ptxas says of every kernel. Fails on
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
    bash launch/cuda_wheels.sh --compile
    wheels=(.venv-cuda/lib/python3*/site-packages/nvidia/cu13/include)
    includes+=("-I${wheels[0]}")
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=no
# Two are the tests' own, with every instruction of kernels/cuda/device: not in the table.
for source in kernels/cuda/*.cu kernels/cuda/*.cpp tests/simt/{hopper_kernels,cluster_kernel}.cu; do
    log=$work/$(basename "$source").log
    [[ $source != tests/* ]] || log=$work/tests.log
    if ! "$nvcc" --options-file kernels/cuda/nvcc.flags "${includes[@]}" -c "$source" \
        -o "$work/object.o" >"$log" 2>&1; then
        cat "$log"
        echo "static_check: $source does not compile"
        failed=yes
    elif grep -nE 'C75[0-9][0-9]|warning' "$log"; then
        echo "static_check: $source: see the lines above"
        failed=yes
    fi
done

# One line a kernel: file, name, registers, shared bytes, barriers, stack, spill stores, spill loads.
for log in "$work"/*.cu.log; do
    c++filt <"$log" | awk -v file="$(basename "$log" .log)" '
        function number_before(word,   i) {
            for (i = 2; i <= NF; ++i)
                if ($i ~ "^" word) return $(i - 1) == "bytes" ? $(i - 2) : $(i - 1)
            return 0
        }
        /Compiling entry function/ {
            name = $0
            sub(/^[^\047]*\047/, "", name)
            sub(/\047 for .*$/, "", name)
            sub(/^void /, "", name)
            gsub(/fucina::(cuda::)?|\(anonymous namespace\)::/, "", name)
            gsub(/\(ScaleFormat\)0/, "fp32", name)
            gsub(/\(ScaleFormat\)1/, "power_of_two", name)
            gsub(/\(Of\)0/, "queries", name)
            gsub(/\(Of\)1/, "keys", name)
            gsub(/\(Of\)2/, "values", name)
            gsub(/\(bool\)0/, "false", name)
            gsub(/\(bool\)1/, "true", name)
            sub(/\(.*$/, "", name)
        }
        / bytes stack frame/ { stack = $1; stores = $5; loads = $9 }
        /: Used [0-9]+ registers/ {
            print file "|" name "|" number_before("registers") "|" number_before("smem") "|" \
                number_before("barriers") "|" stack "|" stores "|" loads
        }'
done | sort >"$work/kernels"

table() {
    echo "| file | kernel | registers | shared memory | barriers | local memory | spills |"
    echo "|---|---|---:|---:|---:|---:|---:|"
    awk -F'|' '{ printf "| %s | `%s` | %d | %d | %d | %d | %d |\n", $1, $2, $3, $4, $5, $6, $7 + $8 }' \
        "$work/kernels"
}
document() {
    cat <<END
# What ptxas says of the CUDA kernels

Made by \`bash tests/simt/static_check.sh --write\` with nvcc $version for sm_90a (flags:
\`kernels/cuda/nvcc.flags\`). Registers are a thread's, shared memory is a block's static bytes, local
memory and spills are bytes a thread. The check fails on any local memory, spill or \`C75xx\` remark,
and when this page no longer agrees with the same compiler.

END
    table
}

table
[ -s "$work/kernels" ] || { echo "static_check: no kernel was compiled"; failed=yes; }
if awk -F'|' '$6 + $7 + $8 > 0 { print $1 ": " $2; bad = 1 } END { exit !bad }' "$work/kernels"; then
    echo "static_check: the kernels above use local memory or spill registers"
    failed=yes
fi
document >"$work/page"
if [ $write = yes ]; then
    mkdir -p "$(dirname $page)"
    cp "$work/page" $page
elif grep -qF "nvcc $version " $page && ! diff -u $page "$work/page"; then
    echo "static_check: $page is out of date: run tests/simt/static_check.sh --write"
    failed=yes
fi
[ $failed = no ] || exit 1
echo "static_check: $(wc -l <"$work/kernels") kernels for sm_90a, no spills, nvcc $version"
