"""Counts what ctest, GoogleTest, pytest and tests/fuzz/run.py reported in a folder; last line `N passed, N failed`.

A skipped test counts as failed unless its reason begins with "this machine" (no AMX, say), so that
nothing stops running unnoticed. A test program that fails without naming a case counts as one.
"""
import pathlib
import sys
import xml.etree.ElementTree as xml


def cases(path):
    """(name, "passed" | "failed" | "skipped", reason) of each test case in a JUnit file."""
    for case in xml.parse(path).getroot().iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            yield name, "failed", ""
        elif skipped is not None:
            reason = (skipped.get("message") or "") + "\n" + (skipped.text or "")
            yield name, "skipped", reason.strip()
        elif case.get("result") in ("suppressed",) or case.get("status") == "notrun":
            continue  # disabled by name
        else:
            yield name, "passed", ""


def main(folder):
    passed, failures, accepted = 0, [], []
    for path in [*sorted((folder / "gtest").glob("*.xml")), folder / "pytest.xml", folder / "fuzz.xml"]:
        try:
            found = list(cases(path))
        except (OSError, xml.ParseError) as error:
            failures.append(f"{path.name}: {error}")
            continue
        for name, result, reason in found:
            # GoogleTest puts file:line before the reason.
            lines = [line for line in reason.splitlines() if ".cpp:" not in line]
            reason = lines[0].removeprefix("Skipped: ") if lines else ""
            if result == "passed":
                passed += 1
            elif result == "skipped" and reason.startswith("this machine"):
                accepted.append(f"{name}: {reason}")
            else:
                failures.append(f"{name}: skipped: {reason}" if result == "skipped" else name)
    named = bool(failures)
    try:
        programs = list(cases(folder / "ctest.xml"))
    except (OSError, xml.ParseError) as error:
        programs = []
        failures.append(f"ctest: {error}")
    broken = [name for name, result, _ in programs if result != "passed"]
    with_cases = any((folder / "gtest").glob("*.xml"))
    if broken and not named:  # crashed or ran out of time before naming a case
        failures += broken
    elif not with_cases:
        failures.append("no GoogleTest case ran")
    for line in accepted:
        print("skipped:", line)
    for line in failures:
        print("FAILED:", line)
    print(f"{passed} passed, {len(failures)} failed")
    return 1 if failures or passed == 0 else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
