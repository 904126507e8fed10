"""A process that works, watched: ended alone when it takes too long or too much memory."""

from __future__ import annotations

import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from onnx_ei._batch.elsewhere import TASKS, Task, receive, send

__all__ = ["Failure", "Limits", "Outcomes", "Supervisor", "memory_of"]

Outcomes: TypeAlias = Generator[tuple[int, tuple[str, Any]], None, None]
"""Which task, and what became of it, as :meth:`Supervisor.ask` returns it."""

_LOOK = 0.2
"""Seconds between two looks at a process's memory."""
_THREADS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a working process may take.

    Attributes
    ----------
    seconds : float or None
        For one answer.
    memory : int or None
        Bytes resident at once.
    threads : int or None
        Threads that compute; as many as there are processors by default.
    folder : str or None
        Where it works, if that is there: what relative paths begin at.
    """

    seconds: float | None = None
    memory: int | None = None
    threads: int | None = None
    folder: str | None = None


class Failure(str):
    """What went wrong, in words, with what it took.

    Attributes
    ----------
    seconds : float or None
        Until it went wrong.
    peak_memory : int or None
        The most bytes that the process was seen to hold; None where nothing tells.
    """

    seconds: float | None = None
    peak_memory: int | None = None


class Supervisor:
    """Asks a process of its own, and starts another where that one did not survive.

    Parameters
    ----------
    limits : Limits
        What it may take.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: queue.Queue[Any] = queue.Queue()
        self._peak: int | None = None

    def ask(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        pool: Callable[[Sequence[Task]], Outcomes] | None = None,
        wanted: Callable[[], bool] | None = None,
    ) -> tuple[str, Any]:
        """Have a function called in the process.

        Parameters
        ----------
        function : callable
            Of a module that the process can import.
        *arguments
            Picklable.
        pool : callable, optional
            Does the tasks that the function has done elsewhere.
        wanted : callable, optional
            Asked from time to time; where it says no, the process is ended.

        Returns
        -------
        outcome : str
            ``"done"``, ``"failed"``, ``"timeout"``, ``"memory"`` or ``"crashed"``.
        answer : object
            What the function returned; else a Failure: what went wrong, in words.
        """
        if self._process is None:
            self._start()
        process = self._process
        if process is None or process.stdin is None:
            raise RuntimeError("the process was not started")
        started, self._peak = time.monotonic(), memory_of(process.pid, most=True)
        with suppress(BrokenPipeError):  # it is gone already: the wait below says how
            send(process.stdin, (function, arguments))
        outcome, answer = self._wait(process, pool, wanted)
        if outcome != "done":
            answer = Failure(answer)
            answer.seconds = time.monotonic() - started
            answer.peak_memory = memory_of(process.pid, most=True) or self._peak
            if pool is not None:
                self.close()  # outcomes that it did not wait for may still lie there
        return outcome, answer

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    def _start(self) -> None:
        environment, folder = dict(os.environ), self.limits.folder
        if self.limits.threads is not None:
            environment |= dict.fromkeys(_THREADS, str(self.limits.threads))
        # what this process imports from, that one must: the caller's functions are among it
        environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, sys.path))
        self._process = subprocess.Popen(
            # -P: a file of the working folder is no module of anyone's
            [sys.executable, "-P", "-m", "onnx_ei._batch.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=folder if folder is not None and os.path.isdir(folder) else None,
            start_new_session=True,  # Ctrl-C is for whoever decides what it ends
        )
        self._answers = queue.Queue()
        threading.Thread(
            target=_read, args=(self._process.stdout, self._answers), daemon=True
        ).start()

    def _wait(
        self,
        process: subprocess.Popen[bytes],
        pool: Callable[[Sequence[Task]], Outcomes] | None,
        wanted: Callable[[], bool] | None,
    ) -> tuple[str, Any]:
        limit = self.limits.seconds
        end = None if limit is None else time.monotonic() + limit
        while True:
            left = _LOOK if end is None else min(_LOOK, max(0.0, end - time.monotonic()))
            answer = self._heard(process, left)
            if answer is not None and answer[0] == TASKS and pool is not None:
                self._serve(process, pool, answer[1], end)
            elif answer is not None:
                return answer
            over = self._exceeded(process, end, wanted)
            if over is not None:
                self.close()
                return over

    def _heard(self, process: subprocess.Popen[bytes], seconds: float) -> tuple[str, Any] | None:
        """Wait for an answer, and say what became of a process that will give none."""
        try:
            answer: tuple[str, Any] | None = self._answers.get(timeout=seconds)
        except queue.Empty:
            return None
        return self._gone(process) if answer is None else answer

    def _serve(
        self,
        process: subprocess.Popen[bytes],
        pool: Callable[[Sequence[Task]], Outcomes],
        tasks: Sequence[Task],
        end: float | None,
    ) -> None:
        """Have the process's tasks done elsewhere, while it is well."""
        with closing(pool(tasks)) as outcomes:
            for outcome in outcomes:
                if process.stdin is not None:
                    with suppress(BrokenPipeError):
                        send(process.stdin, outcome)
                over = self._exceeded(process, end, None) is not None
                if outcome[1][0] != "done" or over or not self._answers.empty():
                    return

    def _exceeded(
        self,
        process: subprocess.Popen[bytes],
        end: float | None,
        wanted: Callable[[], bool] | None,
    ) -> tuple[str, str] | None:
        """Say what a process takes too much of, if it does."""
        self._peak = memory_of(process.pid, most=True) or self._peak
        if end is not None and time.monotonic() >= end:
            return "timeout", f"not done after {self.limits.seconds:g} s (--timeout), and ended"
        most = self.limits.memory
        held = None if most is None else memory_of(process.pid)
        if most is not None and held is not None and held > most:
            took, allowed = held / 2**20, most / 2**20
            return "memory", f"took {took:.0f} MiB, over {allowed:.0f}, and was ended"
        if wanted is not None and not wanted():
            return "crashed", "ended, since nobody waits for it any more"
        return None

    def _gone(self, process: subprocess.Popen[bytes]) -> tuple[str, Any]:
        code = process.wait()
        self.close()
        if code == -9:
            return "crashed", "its process was killed (signal 9): for lack of memory, most likely"
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        return "crashed", f"its process ended {how}"


def _read(stream: Any, answers: queue.Queue[Any]) -> None:
    try:
        while True:
            answers.put(receive(stream))
    except (EOFError, OSError, ValueError):  # closed there, or here
        answers.put(None)


def memory_of(pid: int, *, most: bool = False) -> int | None:
    """Return the bytes that a process holds in memory, or None where nothing tells.

    Parameters
    ----------
    pid : int
        The process.
    most : bool
        The most that it has held at once.
    """
    with suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
        found = re.search(rf"{'VmHWM' if most else 'VmRSS'}:\s+(\d+) kB", status)
        return 1024 * int(found[1]) if found else None
    with suppress(ImportError):
        import psutil

        with suppress(psutil.Error):
            held = psutil.Process(pid).memory_info()
            return getattr(held, "peak_wset", None) if most else int(held.rss)
    return None
