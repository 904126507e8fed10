"""A process that works, watched: whatever becomes of it, there is an answer and another process."""

from __future__ import annotations

import os
import sys
import time

import bad_work
import pytest

from onnx_ei._batch.backends import Workers, threads_each
from onnx_ei._batch.spreading import Pool
from onnx_ei._batch.supervising import Limits, Supervisor, memory_of


@pytest.fixture
def supervisor():
    made = Supervisor(Limits(seconds=20))
    yield made
    made.close()


def test_answers_come_back_whatever_is_printed(supervisor):
    outcome, first = supervisor.ask(bad_work.say_much)
    assert outcome == "done"
    assert first != os.getpid()
    assert supervisor.ask(bad_work.say_much) == ("done", first)


@pytest.mark.parametrize(
    ("function", "outcome", "words"),
    [
        (bad_work.die, "crashed", "ended by signal 11"),
        (bad_work.be_killed, "crashed", r"killed (signal 9): for lack of memory"),
        (bad_work.leave, "crashed", "ended with exit code 7"),
        (bad_work.stumble, "failed", "ZeroDivisionError: 1 / 0"),
        (bad_work.run_out, "memory", "no memory left: 64 GiB"),
    ],
)
def test_what_goes_wrong_is_said_and_the_next_is_answered(supervisor, function, outcome, words):
    found, text = supervisor.ask(function)
    assert found == outcome
    assert words in text
    assert supervisor.ask(bad_work.say_much)[0] == "done"


def test_what_takes_too_long_is_ended():
    hanging = Supervisor(Limits(seconds=0.5))
    started = time.monotonic()
    outcome, text = hanging.ask(bad_work.hang)
    assert (outcome, time.monotonic() - started < 10) == ("timeout", True)
    assert text == "not done after 0.5 s (--timeout), and ended"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_what_holds_too_much_is_ended():
    hungry = Supervisor(Limits(seconds=60, memory=600 << 20))
    outcome, text = hungry.ask(bad_work.eat)
    assert outcome == "memory"
    assert "over 600, and was ended" in text
    assert memory_of(2**22 + 1) is None


def test_threads_are_set_in_the_process():
    counting = Supervisor(Limits(seconds=60, threads=1))
    assert counting.ask(bad_work.threads) == ("done", ("1", 1))
    counting.close()
    assert threads_each(1) == os.cpu_count()
    assert threads_each(10_000) == 1


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_task_has_its_outcome(jobs):
    tasks = [(bad_work.say_much, ()), (bad_work.leave, ()), (bad_work.stumble, ())] * 2
    with Pool(Limits(seconds=30), Workers(jobs=jobs)) as pool:
        found = dict(pool.outcomes(tasks))
        assert dict(pool.outcomes(tasks[:1])).keys() == {0}
    assert [found[index][0] for index in range(6)] == ["done", "crashed", "failed"] * 2
