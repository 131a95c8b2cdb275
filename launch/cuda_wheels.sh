#!/bin/bash
# Installs CUDA's headers and libraries as Python wheels into .venv-cuda, where the build looks for
# them (kernels/cuda/FindFucinaCuda.cmake); does nothing where they are. No compiler: nvcc comes from
# a CUDA toolkit.
#   launch/cuda_wheels.sh --headers   what the tests need: headers, and NCCL, which has no other
#                                     wheel, 0.4 GB on disk
#   launch/cuda_wheels.sh             and cuBLAS, which building kernels/cuda needs, 1 GB
set -euo pipefail
cd "$(dirname "$0")/.."

# The headers are of nvcc's own version.
wheels=(nvidia-cuda-runtime==13.0.96 nvidia-cuda-crt==13.0.88 nvidia-cuda-cccl==13.0.85
    nvidia-nccl-cu13==2.32.3)
case ${1:-} in
    --headers) what="the headers and NCCL" ;;
    "")
        what="the headers, NCCL and cuBLAS"
        wheels+=(nvidia-cublas==13.10.0.20)
        ;;
    *)
        echo "error: cuda_wheels.sh: unknown argument $1; known: --headers" >&2
        exit 2
        ;;
esac

mark=.venv-cuda/installed-wheels.txt
missing=()
for wheel in "${wheels[@]}"; do
    grep -qxF "$wheel" "$mark" 2>/dev/null || missing+=("$wheel")
done
if [ ${#missing[@]} -eq 0 ]; then
    echo "cuda_wheels: .venv-cuda has $what"
    exit 0
fi
echo "cuda_wheels: installing ${missing[*]} into .venv-cuda"
if [ ! -x .venv-cuda/bin/python ]; then
    python3 -m venv .venv-cuda || {
        echo "error: cuda_wheels.sh: python3 -m venv failed; install python3-venv" >&2
        exit 2
    }
fi
# Without dependencies: what Fucina uses is named here, the rest would be gigabytes.
.venv-cuda/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "${missing[@]}"
printf '%s\n' "${missing[@]}" >>"$mark"
