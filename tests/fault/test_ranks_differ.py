"""A rank that differs from the others is named: in its weights, its pace, its collective calls, or its death."""
import random
import re

import pytest

import runs

slow = pytest.mark.slow


def train(directory, ranks, fault, expect, **keys):
    runs.write_tokens(directory / "ids.json")
    return runs.train(directory, ranks=ranks, expect=expect, env={"FUCINA_FAULT": fault}, data__valid=None,
                      **{"checkpoint__every": 0, **keys})


def only_error(done):
    line, = done.stderr.splitlines()
    assert line.startswith("error: "), done.stderr
    return line


@pytest.mark.parametrize("ranks, odd", [(4, 2), pytest.param(2, 1, marks=slow)])
def test_a_flipped_bit(tmp_path, ranks, odd):
    """Of one replica's weights after step 5, found at the next check, and in no checkpoint."""
    done = train(tmp_path, ranks, f"step.flip,rank={odd},nth=5", 14, train__check_replicas=3, checkpoint__every=4)
    line = only_error(done)
    hashed = r"\(hash [0-9a-f]{16}\)"
    who = (rf"rank {odd} on \S+ {hashed} against {ranks - 1} ranks {hashed}" if ranks > 2 else
           rf"rank 0 on \S+ {hashed}, rank 1 on \S+ {hashed}")
    assert re.match(rf"error: replicas differ after step 6: (\S+) differs: {who}; .* `fucina resume {tmp_path}/run` "
                    "goes on from the last checkpoint$", line), line
    assert runs.checkpoints(tmp_path) == ["step-00000004"]
    runs.resume(tmp_path, ranks=ranks)
    assert runs.metrics(tmp_path)[-1]["step"] == 12


def test_a_flipped_bit_before_a_save(tmp_path):
    """No checkpoint holds it, also where no check is due."""
    line = only_error(train(tmp_path, 2, "step.flip,rank=0,nth=5", 14, checkpoint__every=4))
    assert "replicas differ after step 8" in line
    assert runs.checkpoints(tmp_path) == ["step-00000004"]


def test_a_slow_rank(tmp_path):
    """It is named once, with its host, and again when it was as fast as the others for a while."""
    done = train(tmp_path, 2, "step.backward,rank=1,nth=3,sleep=60,times=16", 0, train__steps=24)
    lines = [line for line in done.stdout.splitlines() if "is slow" in line]
    assert len(lines) == 1, done.stdout
    assert re.match(r"WARNING: step [67]: rank 1 on \S+ is slow: [\d.e-]+ s a grain for 5 steps, the median rank "
                    r"[\d.e-]+ s \([\d.]+ times\); the others wait for it$", lines[0]), lines


def test_ranks_of_one_pace(tmp_path):
    assert "is slow" not in train(tmp_path, 2, "", 0, train__steps=24).stdout


def test_another_collective(tmp_path):
    """One rank alone calls a barrier: it is named, instead of a job that hangs."""
    line = only_error(train(tmp_path, 4, "step.extra_barrier,rank=2,nth=4", 1))
    assert re.match(r"error: ranks meet in different collectives: rank 2 is at barrier #(\d+), "
                    r"rank 0 at all_reduce_max #\1 of 24 bytes$", line), line


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=slow), pytest.param(2, marks=slow), 3])
def test_kill_at_any_step(tmp_path, victim):
    """kill -9 of each of four ranks at a random step, and what is left goes on from its checkpoint."""
    nth = random.Random(victim).randrange(5, 12)
    done = train(tmp_path, 4, f"step.update,rank={victim},nth={nth}", 128 + 9, checkpoint__every=4)
    assert "a rank was killed by signal 9 (SIGKILL)" in only_error(done)
    runs.resume(tmp_path, ranks=2)
    assert runs.metrics(tmp_path)[-1]["step"] == 12
