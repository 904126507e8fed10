"""A process that works, watched: ended alone when it takes too long or too much memory."""

from __future__ import annotations

import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx_ei._batch.worker import receive, send

__all__ = ["Failure", "Limits", "Supervisor", "memory_of"]

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
    """

    seconds: float | None = None
    memory: int | None = None
    threads: int | None = None


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

    def ask(self, function: Callable[..., Any], *arguments: Any) -> tuple[str, Any]:
        """Have a function called in the process.

        Parameters
        ----------
        function : callable
            Of a module that the process can import.
        *arguments
            Picklable.

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
        outcome, answer = self._wait(process)
        if outcome != "done":
            answer = Failure(answer)
            answer.seconds = time.monotonic() - started
            answer.peak_memory = memory_of(process.pid, most=True) or self._peak
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
        environment = dict(os.environ)
        if self.limits.threads is not None:
            environment |= dict.fromkeys(_THREADS, str(self.limits.threads))
        # what this process imports from, that one must: the caller's functions are among it
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self._process = subprocess.Popen(
            # -P: a file of the working folder is no module of anyone's
            [sys.executable, "-P", "-m", "onnx_ei._batch.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is for whoever decides what it ends
        )
        self._answers = queue.Queue()
        threading.Thread(
            target=_read, args=(self._process.stdout, self._answers), daemon=True
        ).start()

    def _wait(self, process: subprocess.Popen[bytes]) -> tuple[str, Any]:
        limit = self.limits.seconds
        end = None if limit is None else time.monotonic() + limit
        while True:
            left = _LOOK if end is None else min(_LOOK, max(0.0, end - time.monotonic()))
            try:
                answer = self._answers.get(timeout=left)
            except queue.Empty:
                pass
            else:
                return self._gone(process) if answer is None else answer
            self._peak = memory_of(process.pid, most=True) or self._peak
            if end is not None and time.monotonic() >= end:
                self.close()
                return "timeout", f"not done after {limit:g} s (--timeout), and ended"
            held = None if self.limits.memory is None else memory_of(process.pid)
            if held is not None and self.limits.memory is not None and held > self.limits.memory:
                self.close()
                most = self.limits.memory / 2**20
                return "memory", f"took {held / 2**20:.0f} MiB, over {most:.0f}, and was ended"

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
    return None
