"""Tests share the modules and files of tests/support."""
import pathlib
import subprocess
import sys

import pytest

SUPPORT = pathlib.Path(__file__).parent / "support"
sys.path.insert(0, str(SUPPORT))


@pytest.fixture(scope="session")
def failing_calls(tmp_path_factory):
    """The library made of failing_calls.c."""
    library = tmp_path_factory.mktemp("preload") / "failing_calls.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, SUPPORT / "failing_calls.c", "-ldl"], check=True)
    return library
