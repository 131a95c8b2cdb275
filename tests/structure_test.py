"""The shape of the source tree: who includes whom, how long files are, and what must not stand in them."""
import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent

# A folder includes only what its arrow names (docs/design.md); launch includes all, tests everything.
ARROWS = {
    "configs": set(),
    "kernels": set(),
    "parallel": {"kernels"},
    "data": set(),  # but DATA_MAY_USE
    "model": {"parallel", "kernels", "configs"},
    "trainer": {"model", "data", "parallel", "kernels", "configs"},
}
DATA_MAY_USE = ("kernels/error.h", "kernels/dtype.h", "kernels/philox.h")
LIBRARIES = ("<mpi.h>", "<fmt/", "<nlohmann/", "<google/protobuf/", "<hdf5")
LONGEST_FILE = 400  # lines
SOURCES = {".h", ".cpp", ".cu", ".cuh"}


def tracked():
    """Files of the tree that git knows or would add."""
    listing = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True,
                             capture_output=True, text=True)
    return [ROOT / name for name in listing.stdout.splitlines() if (ROOT / name).is_file()]


def text_of(path):
    return path.read_text(encoding="utf-8", errors="replace")


def includes(path):
    return re.findall(r'^\s*#\s*include\s+(["<][^">]+[">])', text_of(path), re.MULTILINE)


def sources(folder=None):
    files = [path for path in tracked() if path.suffix in SOURCES]
    return [path for path in files if folder is None or path.relative_to(ROOT).parts[0] == folder]


def test_folders_include_along_the_arrows():
    wrong = []
    for folder, allowed in ARROWS.items():
        for path in sources(folder):
            for include in includes(path):
                target = include.strip('"<>')
                first = target.split("/")[0]
                if first not in [*ARROWS, "launch", "tests"] or first == folder:
                    continue
                if first in allowed:
                    continue
                if folder == "data" and target in DATA_MAY_USE:
                    continue
                wrong.append(f"{path.relative_to(ROOT)} includes {include}")
            if folder == "data" and "<mpi.h>" in includes(path):
                wrong.append(f"{path.relative_to(ROOT)} includes <mpi.h>")
    assert not wrong, "\n".join(wrong)


def test_elements_are_kernels_business():
    """Elsewhere a tensor is a whole: ops compute with it, HostValues and memory() say where the host looks into one."""
    wrong = [f"{path.relative_to(ROOT)}: {access}"
             for folder in ("parallel", "model", "trainer", "launch") for path in sources(folder)
             for access in re.findall(r"[\w)\]]+(?:\.|->)(?:(?:data|row|data_or_null)<\w+>|raw)\([^)]*\)", text_of(path))]
    assert not wrong, "\n".join(wrong)


def test_kernel_headers_stay_free_of_libraries():
    wrong = [f"{path.relative_to(ROOT)} includes {include}"
             for path in sources("kernels") if path.suffix in (".h", ".cuh")
             for include in includes(path) if include.startswith(LIBRARIES)]
    assert not wrong, "\n".join(wrong)


def test_headers_say_pragma_once():
    wrong = [str(path.relative_to(ROOT)) for path in sources()
             if path.suffix in (".h", ".cuh") and "#pragma once" not in text_of(path)]
    assert not wrong, "\n".join(wrong)


def test_files_are_short():
    wrong = []
    for path in [*sources(), *[p for p in tracked() if p.suffix in (".py", ".sh", ".proto")]]:
        lines = text_of(path).count("\n")
        if lines > LONGEST_FILE:
            wrong.append(f"{path.relative_to(ROOT)}: {lines} lines; at most {LONGEST_FILE}")
    assert not wrong, "\n".join(wrong)


def test_program_files_say_what_they_are():
    wrong = [str(path.relative_to(ROOT)) for path in sources()
             if path.suffix in (".h", ".cuh") and not text_of(path).startswith(("//", "/*"))]
    assert not wrong, "\n".join(wrong)


def test_nothing_stray():
    """No reminders to oneself, no path of one machine, no address of a package registry."""
    stray = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" + "XX"]) + r")\b|"
                       r"(?<![\w.])/(work|root|home)/\w|"
                       r"https?://(pypi|files\.pythonhosted|deb\.debian|registry)\.")
    wrong = []
    for path in tracked():
        if path.suffix in (".png", ".bin", ".npy", ".h5", ".safetensors") or path.name == "LICENSE":
            continue
        for number, line in enumerate(text_of(path).splitlines(), 1):
            if path != pathlib.Path(__file__).resolve() and stray.search(line):
                wrong.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not wrong, "\n".join(wrong)


def test_no_large_file_is_committed():
    wrong = [f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes" for path in tracked()
             if path.stat().st_size > 1_000_000]
    assert not wrong, "\n".join(wrong)
