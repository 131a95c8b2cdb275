#!/bin/bash
# Installs, builds and runs the tests; the last line is `N passed, N failed`.
#   tests/run.sh          everything, as continuous integration does
#   tests/run.sh fast     what takes two minutes after a build
#   tests/run.sh full     the long random sweeps too
# A test that is skipped counts as failed, unless its reason begins with "this machine": what must
# run, runs.
set -uo pipefail
cd "$(dirname "$0")/.."

level=${1:-default}
case $level in
    fast | default | full) ;;
    *)
        echo "error: tests/run.sh: unknown argument $level; known: fast, full" >&2
        exit 2
        ;;
esac
export FUCINA_TEST_LEVEL=$level
export FUCINA_ORACLE_PYTHON=${FUCINA_ORACLE_PYTHON:-$PWD/.venv-oracle/bin/python}
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
results=build-test/results

stop() {
    echo "tests/run.sh: $1"
    echo "0 passed, 1 failed"
    exit 1
}

if [ "$level" != fast ] || [ ! -x "$FUCINA_ORACLE_PYTHON" ] || [ ! -d .venv-cuda ]; then
    bash launch/setup.sh --tests || stop "set-up failed"
fi
# CUDA kernels run on the SIMT model, which needs CUDA's headers.
bash launch/cuda_wheels.sh --headers || stop "CUDA's headers could not be installed"
cmake --preset test -DFUCINA_REQUIRE_SIMT=ON >/dev/null || stop "configuring failed"
cmake --build build-test -j "$(nproc)" || stop "the build failed"
cmake --preset fuzz >/dev/null || stop "configuring the fuzz targets failed"
cmake --build build-fuzz -j "$(nproc)" || stop "the build of the fuzz targets failed"
rm -rf $results
mkdir -p $results/gtest

labels=()
marks=()
if [ "$level" = fast ]; then
    labels=(-L fast)
    marks=(-m "not slow")
fi
# A folder for the value of GTEST_OUTPUT makes every test program write a file of its own.
GTEST_OUTPUT=xml:$PWD/$results/gtest/ ctest --test-dir build-test "${labels[@]}" \
    --output-on-failure --no-tests=error --timeout 1200 --output-junit "$PWD/$results/ctest.xml"
"$FUCINA_ORACLE_PYTHON" -m pytest -q -rs "${marks[@]}" \
    --junitxml=$results/pytest.xml tests
code=$?
[ $code -le 1 ] || echo "pytest ended with code $code"
"$FUCINA_ORACLE_PYTHON" tests/fuzz/run.py $level $results/fuzz.xml
exec "$FUCINA_ORACLE_PYTHON" tests/summary.py $results
