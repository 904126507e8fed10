"""Within a process that measures: parts of its work, done by others.

A process that measures has no pool of its own. It hands tasks to whoever asked it, who has one, and
is given the outcomes: one owner of the workers, whatever is spread over them.
"""

from __future__ import annotations

import pickle
import queue
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "TASKS",
    "Task",
    "TaskFailed",
    "called",
    "connect",
    "done_elsewhere",
    "packed",
    "receive",
    "send",
]

Task: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function that another process can import, and its arguments."""
TASKS = "tasks"
"""What an answer begins with that is none: it asks for tasks to be done."""

_LENGTH = struct.Struct("<Q")
_CHANNEL: list[tuple[IO[bytes], queue.Queue[Any]]] = []
"""Where to ask, and where outcomes come."""


class TaskFailed(Exception):
    """A task came to nothing elsewhere.

    Parameters
    ----------
    outcome : str
        ``"failed"``, ``"timeout"``, ``"memory"`` or ``"crashed"``.
    reason : str
        In words.
    """

    def __init__(self, outcome: str, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome


def packed(task: Task) -> tuple[Any, ...]:
    """Return a task as what any process can take: bytes, and the arrays of its arguments.

    A worker of Dask that cannot import what it is sent dies, and so does the next one. Arrays stay
    what they are, since they go another way than the rest.

    Parameters
    ----------
    task : Task
        What to do.
    """
    function, arguments = task
    arrays = [i for i, given in enumerate(arguments) if isinstance(given, np.ndarray)]
    kept = [None if i in arrays else given for i, given in enumerate(arguments)]
    return pickle.dumps((function, kept, arrays)), *(arguments[i] for i in arrays)


def called(data: bytes, *arrays: NDArray[Any]) -> Any:
    """Do a packed task.

    Parameters
    ----------
    data, *arrays
        From :func:`packed`.
    """
    function, arguments, places = pickle.loads(data)
    for place, array in zip(places, arrays, strict=True):
        arguments[place] = array
    return function(*arguments)


def connect(answers: IO[bytes], requests: queue.Queue[Any]) -> None:
    """Say how this process speaks with the one that asks it.

    Parameters
    ----------
    answers : binary file
        To there.
    requests : queue.Queue
        From there.
    """
    _CHANNEL[:] = [(answers, requests)]


def done_elsewhere(tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
    """Have tasks done, and yield the result of each as it comes.

    Parameters
    ----------
    tasks : sequence of Task
        What to do.

    Yields
    ------
    index : int
        Which task.
    result : object
        What its function returned.

    Raises
    ------
    TaskFailed
        If one came to nothing; the others are given up.
    """
    answers, requests = _CHANNEL[0]
    send(answers, (TASKS, list(tasks)))
    for _ in tasks:
        index, (outcome, result) = requests.get()
        if outcome != "done":
            raise TaskFailed(outcome, str(result))
        yield index, result


def send(stream: IO[bytes], content: object) -> None:
    """Write one message.

    Parameters
    ----------
    stream : binary file
        Where.
    content : object
        What; it is pickled.
    """
    data = pickle.dumps(content)
    stream.write(_LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """Read one message.

    Parameters
    ----------
    stream : binary file
        Where.

    Raises
    ------
    EOFError
        If the other end is gone.
    """
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(head)
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return pickle.loads(data)
