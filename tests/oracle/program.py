"""Runs the program under test: build-test/fucina, or what FUCINA_BINARY names."""
import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BINARY = os.environ.get("FUCINA_BINARY", str(ROOT / "build-test" / "fucina"))


def fucina(*arguments, check=True, **options):
    return subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True, check=check,
                          timeout=300, **options)


def values(output):
    """The first number of each `name  number ...` line of eval."""
    found = {}
    for line in output.splitlines():
        name, _, rest = line.partition("  ")
        if rest.strip():
            found[name.strip()] = float(rest.split()[0])
    return found
