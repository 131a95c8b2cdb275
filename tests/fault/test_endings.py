"""However a process ends, it says why and nothing is lost: signals, closed terminals, readers that go away,
ranks that are killed."""
import os
import pty
import signal
import threading

import pytest

import runs

slow = pytest.mark.slow


def with_signals(ignored=()):
    """In the child: only these are ignored, whatever the shell that started the tests ignores."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)


def check_saved(directory):
    """The last step is in a checkpoint and the run goes on from it."""
    last = runs.metrics(directory)[-1]["step"]
    assert runs.checkpoints(directory) == [f"step-{last:08d}"]
    runs.resume(directory, "--set", f"train.steps={last + 2}")
    assert runs.metrics(directory)[-1]["step"] == last + 2


@slow
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("ask", [signal.SIGUSR2, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, "STOP"])
def test_stop_on_request(tmp_path, ask, ranks):
    process = runs.start_long(tmp_path, ranks, preexec_fn=with_signals)
    if ask == "STOP":
        (tmp_path / "run" / "STOP").touch()
    else:
        process.send_signal(ask)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 15, (process.returncode, out[-1000:], err)
    assert "stopped on request after a save" in err
    assert not (tmp_path / "run" / "STOP").exists()
    check_saved(tmp_path)


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=slow)])
def test_what_was_ignored_stays_ignored(tmp_path, ranks):
    """As under nohup, and as in a script's background."""
    process = runs.start_long(tmp_path, ranks,
                              preexec_fn=lambda: with_signals((signal.SIGHUP, signal.SIGINT)))
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGINT)
    runs.wait_for_step(tmp_path, runs.metrics(tmp_path)[-1]["step"] + 3)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 15, (process.returncode, out[-1000:], err)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_reader_that_goes_away(tmp_path, ranks):
    """fucina train | head: the run is saved and ends."""
    process = runs.start_long(tmp_path, ranks, preexec_fn=with_signals)
    process.stdout.close()
    process.stdout = None
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 15, (process.returncode, err)
    assert err.splitlines() == [f"error: stopped on request after a save; `fucina resume {tmp_path / 'run'}` goes on"]
    check_saved(tmp_path)


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=slow), 2])
def test_a_closed_terminal(tmp_path, ranks):
    """The window is closed: the kernel sends SIGHUP, and nothing can be written any more."""
    command = runs.long_run(tmp_path, ranks)
    process, terminal = pty.fork()
    if process == 0:
        with_signals()
        os.environ["FUCINA_THREADS"] = "1"
        os.execv(command[0], command)

    def read():
        try:
            while os.read(terminal, 4096):
                pass
        except OSError:
            pass
    threading.Thread(target=read, daemon=True).start()
    runs.wait_for_step(tmp_path, 2)
    os.close(terminal)
    status = os.waitpid(process, 0)[1]
    assert os.waitstatus_to_exitcode(status) == 15
    check_saved(tmp_path)


@pytest.mark.parametrize("number, words", [
    (signal.SIGKILL, "signal 9 (SIGKILL): the system ran out of memory"),
    pytest.param(signal.SIGSEGV, "signal 11 (SIGSEGV): a defect of the program", marks=slow),
    pytest.param(signal.SIGBUS, "signal 7 (SIGBUS): a full disk", marks=slow)])
@pytest.mark.parametrize("nth", [2, 7])
def test_a_killed_rank(tmp_path, number, words, nth):
    """The one that is left cannot say it: mpirun.sh does, in one line, with the way on."""
    runs.write_tokens(tmp_path / "ids.json")
    done = runs.train(tmp_path, ranks=2, expect=128 + number, checkpoint__snapshot=0,
                      env={"FUCINA_FAULT": f"step.update,rank=1,nth={nth},signal={number.value}"})
    line, = (text for text in done.stderr.splitlines() if text.startswith("error:"))
    assert line.startswith("error: mpirun.sh: a rank was killed by " + words), done.stderr
    assert number != signal.SIGKILL or done.stderr.count("\n") == 1, done.stderr
    if nth == 7:
        assert line.endswith(f"; {runs.FUCINA} resume {tmp_path / 'run'} goes on from step-00000004")
        runs.resume(tmp_path, ranks=2)
        assert runs.metrics(tmp_path)[-1]["step"] == 12
    else:
        assert f"{tmp_path / 'run'} holds no checkpoint yet" in line and "--fresh" in line


def test_a_second_request_ends_the_job(tmp_path):
    """Not waiting for a save, and with no guess at a cause."""
    process = runs.start_long(tmp_path, 2, preexec_fn=with_signals)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=60)[1]
    assert process.returncode in (15, 128 + signal.SIGTERM, 128 + signal.SIGKILL, 1), (process.returncode, err)
    assert "was killed" not in err, err
