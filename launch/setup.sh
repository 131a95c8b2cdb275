#!/bin/bash
# Installs what building Fucina needs on Debian 12; does nothing where it is all there.
#   launch/setup.sh            the program
#   launch/setup.sh --tests    the tests too: GoogleTest, clang for fuzzing, CUDA's headers, and
#                              .venv-oracle with PyTorch and transformers
#   launch/setup.sh --cuda     the CUDA libraries and headers too
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(g++ make cmake ninja-build ccache pkg-config openmpi-bin libopenmpi-dev libhdf5-dev
    libprotobuf-dev protobuf-compiler libcli11-dev libtomlplusplus-dev nlohmann-json3-dev
    libsimdjson-dev libfmt-dev libxxhash-dev libutf8proc-dev libpcre2-dev)
with_tests=no
with_cuda=no
for option in "$@"; do
    case $option in
        --tests) with_tests=yes ;;
        --cuda) with_cuda=yes ;;
        *)
            echo "error: setup.sh: unknown option $option; known: --tests, --cuda" >&2
            exit 2
            ;;
    esac
done
[ $with_tests = yes ] && packages+=(libgtest-dev libgmock-dev python3 python3-venv iproute2
    clang-14 libclang-rt-14-dev)
[ $with_cuda = yes ] && packages+=(python3 python3-venv)

missing=()
for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] ||
        missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
    echo "setup: all ${#packages[@]} Debian packages are installed"
else
    as_root=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || {
            echo "error: setup.sh: not root and no sudo; as root: apt-get install ${missing[*]}" >&2
            exit 2
        }
        as_root=(sudo)
    fi
    echo "setup: installing ${#missing[@]} of ${#packages[@]} Debian packages: ${missing[*]}"
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    apt_get() {
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -y -o DPkg::Lock::Timeout=300 "$@" \
            >"$log" 2>&1 || { tail -n 20 "$log" >&2; return 1; }
    }
    apt_get update
    apt_get install --no-install-recommends "${missing[@]}"
fi

# The oracle is used by tests alone. torch comes first and alone: asked for by another package, pip
# would take its newest release.
if [ $with_tests = yes ]; then
    want=tests/oracle/requirements.txt
    done_mark=.venv-oracle/installed-requirements.txt
    if cmp -s $want $done_mark; then
        echo "setup: .venv-oracle is there"
    else
        echo "setup: installing PyTorch and transformers into .venv-oracle, for the tests alone"
        [ -x .venv-oracle/bin/python ] || python3 -m venv .venv-oracle
        .venv-oracle/bin/python -m pip install --quiet --disable-pip-version-check \
            "$(grep '^torch==' $want)"
        .venv-oracle/bin/python -m pip install --quiet --disable-pip-version-check -r $want
        # Of these, the files that they carry are wanted, not what they would install.
        .venv-oracle/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
            $(sed -n 's/^# without dependencies: //p' $want)
        cp $want $done_mark
    fi
    bash launch/cuda_wheels.sh --headers
fi
[ $with_cuda = no ] || bash launch/cuda_wheels.sh
echo "setup: done"
