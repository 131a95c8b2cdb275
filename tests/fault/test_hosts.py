"""Training over several hosts that talk TCP: the same bits as one process, and what happens when a host is cut off or
its processes die."""
import shutil
import signal
import time

import pytest

import runs
from hosts import hosts  # noqa: F401  (a fixture)

slow = pytest.mark.slow
# Long enough that a host is lost on the way.
STEPS = 200
KEYS = {"train__steps": STEPS, "checkpoint__every": 10, "eval__every": 100}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run in one process that all others must equal."""
    directory = tmp_path_factory.mktemp("alone")
    runs.write_tokens(directory / "ids.json")
    runs.train(directory, **KEYS)
    return directory


def start(hosts, directory, alone, *options, **keys):
    shutil.copy(alone / "ids.json", directory / "ids.json")
    path = runs.write_recipe(directory / "recipe.toml", runs.recipe(directory, **{**KEYS, **keys}))
    return hosts.mpirun(*options, runs.FUCINA, "train", path)


def end(process):
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("where", ["h1,h2", "h1:2,h2:2", "h1,h2,h3,h4"])
def test_hosts_train_the_same_model(hosts, tmp_path, alone, where):
    ranks = 2 if where == "h1,h2" else 4
    keys = {"train__steps": 20, "checkpoint__every": 10}
    (tmp_path / "one").mkdir()
    shutil.copy(alone / "ids.json", tmp_path / "one" / "ids.json")
    runs.train(tmp_path / "one", **keys)
    code, out, err = end(start(hosts, tmp_path, alone, "--host", where, "-np", ranks, eval__every=4, **keys))
    assert (code, err) == (0, ""), (code, out[-1000:], err)
    assert runs.same_run(tmp_path / "one", tmp_path, 20) is None


def test_a_host_that_is_cut_off_ends_the_job(hosts, tmp_path, alone):
    process = start(hosts, tmp_path, alone, "--host", "h1,h2", "-np", 2, train__steps=100000)
    runs.wait_for_step(tmp_path, 15)
    try:
        hosts.link("h2", "down")
        cut = time.monotonic()
        code, out, err = end(process)
        assert time.monotonic() - cut < 8
        assert code == 12, (code, out[-1000:], err)
        line, = err.splitlines()
        assert line.startswith("error: mpirun.sh: lost host h2 (it is down, its network is,"), err
        assert f"resume {tmp_path / 'run'} goes on from step-0000" in line
        assert hosts.is_empty_within("h2", 5)
    finally:
        hosts.link("h2", "up")


@slow
@pytest.mark.parametrize("options, lost, left", [
    (["--host", "h1,h2,h3,h4", "-np", 4], "h3", "2 ranks"),
    (["--hostfile", "HOSTS", "-np", 2], "h2", "1 rank"),  # rank 0 is there, and holds the run's lock
])
def test_goes_on_without_a_host_that_is_cut_off(hosts, tmp_path, alone, options, lost, left):
    (tmp_path / "hosts").write_text("# name slots\nh2 slots=1\nh3 slots=1  # not here\n")
    options = [str(tmp_path / "hosts") if word == "HOSTS" else word for word in options]
    process = start(hosts, tmp_path, alone, "--max-restarts", 1, *options)
    runs.wait_for_step(tmp_path, 15)
    try:
        hosts.link(lost, "down")
        code, out, err = end(process)
    finally:
        hosts.link(lost, "up")
    assert code == 0, (code, out[-1000:], err)
    lines = [line for line in err.splitlines() if not line.startswith("mpirun.sh: waiting until")]
    assert lines == [
        f"mpirun.sh: lost host {lost} (it is down, its network is, or mpirun's daemon there was killed)",
        f"mpirun.sh: host {lost} does not answer and is left out",
        f"mpirun.sh: restart 1 of 1 on {left}: {runs.FUCINA} resume {tmp_path / 'run'}"]
    assert runs.same_run(alone, tmp_path, STEPS) is None


@slow
def test_goes_on_when_all_processes_of_a_host_are_killed(hosts, tmp_path, alone):
    process = start(hosts, tmp_path, alone, "--max-restarts", 1, "--host", "h1,h2", "-np", 2)
    runs.wait_for_step(tmp_path, 15)
    hosts.kill("h2")
    code, out, err = end(process)
    assert code == 0, (code, out[-1000:], err)
    assert len(err.splitlines()) == 2, err
    first, second = err.splitlines()
    assert first.startswith("mpirun.sh: lost "), err
    assert second == f"mpirun.sh: restart 1 of 1 on 2 ranks: {runs.FUCINA} resume {tmp_path / 'run'}"
    assert runs.same_run(alone, tmp_path, STEPS) is None


def test_a_rank_that_is_killed_on_another_host(hosts, tmp_path, alone):
    """The options of FUCINA_... reach the other hosts, and without restarts the way on is told."""
    shutil.copy(alone / "ids.json", tmp_path / "ids.json")
    path = runs.write_recipe(tmp_path / "recipe.toml", runs.recipe(tmp_path))
    code, out, err = end(hosts.mpirun("--host", "h1,h2", "-np", 2, runs.FUCINA, "train", path,
                                      env={"FUCINA_FAULT": "step.update,rank=1,nth=7"}))
    assert code == 137, (code, out[-1000:], err)
    assert err.startswith("error: mpirun.sh: a rank was killed by signal 9 (SIGKILL)"), err
    assert err.endswith(f"resume {tmp_path / 'run'} goes on from step-00000004\n"), err


@slow
def test_a_stop_reaches_all_hosts(hosts, tmp_path, alone):
    process = start(hosts, tmp_path, alone, "--max-restarts", 1, "--host", "h1,h2", "-np", 2, train__steps=100000,
                    checkpoint__every=0)
    runs.wait_for_step(tmp_path, 3)
    process.send_signal(signal.SIGTERM)
    code, out, err = end(process)
    assert code == 15, (code, out[-1000:], err)
    assert err.splitlines() == [
        "mpirun.sh: asking the ranks to save and stop; once more ends them at once",
        f"error: stopped on request after a save; `fucina resume {tmp_path / 'run'}` goes on"]


def test_an_error_of_the_program_stands_alone(hosts):
    code, out, err = end(hosts.mpirun("--host", "h1,h2", "-np", 2, runs.FUCINA, "train", "nowhere.toml"))
    assert code == 2, (code, out, err)
    assert err.startswith("error: nowhere.toml") and err.count("\n") == 1, err


@slow
def test_doctor_names_a_slow_host(hosts):
    hosts.slow_down("h3", "100mbit")
    try:
        code, out, err = end(hosts.mpirun("--host", "h1,h2,h3,h4", "-np", 4, runs.FUCINA, "doctor"))
    finally:
        hosts.slow_down("h3", None)
    assert (code, err) == (0, ""), (code, out, err)
    assert "4 on 4 hosts" in out and "other host, 6 links" in out
    advice = [line for line in out.splitlines() if "where faster links have" in line]
    assert {0, 1, 3} == {int(n) for line in advice for n in line.split("(")[0].split() if n.isdigit()} - {2}, out
    assert all("h3" in line for line in advice), out


@slow
def test_a_host_that_does_not_start_is_named(hosts):
    """Before the run began there is nothing to restart."""
    code, out, err = end(hosts.mpirun("--max-restarts", 3, "--host", "h1,nowhere,h2", "-np", 2, runs.FUCINA, "train", "r.toml"))
    assert code == 2, (code, out, err)
    assert err.splitlines()[-1] == ("error: mpirun.sh: nowhere did not start: "
                                    "ssh to a host without a password, or mpirun's daemon there, failed"), err


def test_what_mpirun_refuses_is_told(hosts):
    code, out, err = end(hosts.mpirun("--host", "h1,h2", "-np", 2, "--map-by", "nonsense", runs.FUCINA, "doctor"))
    assert code != 0 and "nonsense" in err, (code, out, err)
