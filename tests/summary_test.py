"""tests/summary.py: what was skipped, crashed or never ran is never counted as passed."""
import pathlib
import subprocess
import sys

SUMMARY = pathlib.Path(__file__).resolve().parent / "summary.py"


def last_line(tmp_path, gtest, ctest, pytest_xml, fuzz=""):
    (tmp_path / "gtest").mkdir()
    if gtest:
        (tmp_path / "gtest" / "a.xml").write_text(f"<testsuites><testsuite>{gtest}</testsuite></testsuites>")
    (tmp_path / "ctest.xml").write_text(f"<testsuite>{ctest}</testsuite>")
    (tmp_path / "pytest.xml").write_text(f"<testsuites><testsuite>{pytest_xml}</testsuite></testsuites>")
    if fuzz is not None:
        (tmp_path / "fuzz.xml").write_text(f"<testsuite>{fuzz}</testsuite>")
    done = subprocess.run([sys.executable, str(SUMMARY), str(tmp_path)], capture_output=True, text=True)
    return done.stdout.splitlines()[-1], done.returncode


OK = '<testcase classname="A" name="ok" status="run"/>'
CTEST_OK = '<testcase classname="x" name="x" status="run"/>'
CTEST_BAD = '<testcase classname="x" name="x" status="fail"><failure message=""/></testcase>'


def skipped(reason):
    return f'<testcase classname="A" name="s" status="run"><skipped message="{reason}"/></testcase>'


def test_all_passed(tmp_path):
    assert last_line(tmp_path, OK, CTEST_OK, OK) == ("2 passed, 0 failed", 0)


def test_a_skip_fails_unless_the_machine_is_the_reason(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert last_line(tmp_path / "a", OK, CTEST_OK, skipped("no oracle")) == ("1 passed, 1 failed", 1)
    assert last_line(tmp_path / "b", OK + skipped("this machine has no AMX"), CTEST_OK, OK) == (
        "2 passed, 0 failed", 0)


def test_a_crash_counts(tmp_path):
    assert last_line(tmp_path, OK, CTEST_BAD, OK) == ("2 passed, 1 failed", 1)


def test_nothing_ran(tmp_path):
    assert last_line(tmp_path, "", CTEST_OK, OK) == ("1 passed, 1 failed", 1)


def test_fuzz_targets_count(tmp_path):
    for name, fuzz, line in [("a", OK, "3 passed, 0 failed"), ("b", None, "2 passed, 1 failed"),
                             ("c", CTEST_BAD, "2 passed, 1 failed")]:
        (tmp_path / name).mkdir()
        assert last_line(tmp_path / name, OK, CTEST_OK, OK, fuzz)[0] == line
