"""The process in which a model is measured: it may hang or die, and nothing else with it.

Requests come on standard input and answers go to what standard output was, each a pickle with its
length before it; whatever the libraries print goes to standard error.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from typing import Any

from onnx_ei._batch.elsewhere import TaskFailed, connect, receive, send
from onnx_ei.importing import load_libraries

__all__ = ["main"]


def main() -> None:
    """Answer requests until there are no more, or whoever sent them is gone."""
    # SLURM sends it to every process of a job: what it ends is for the first one to decide
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests: queue.Queue[Any] = queue.Queue()
    connect(answers, requests)
    load_libraries()  # before anything unpickles, and so imports, on the other thread
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    while True:
        function, arguments = requests.get()
        send(answers, _answer(function, arguments))


def _listen(requests: queue.Queue[Any]) -> None:
    """Pass requests on; end the process, whatever it is at, when the other end is closed."""
    try:
        while True:
            requests.put(receive(sys.stdin.buffer))
    except EOFError:
        os._exit(0)


def _answer(function: Any, arguments: Any) -> tuple[str, Any]:
    try:
        return "done", function(*arguments)
    except MemoryError as error:
        return "memory", f"no memory left: {error}"
    except TaskFailed as error:
        return error.outcome, str(error)
    except Exception as error:  # a row says so, and the others are measured
        from onnx_ei.errors import OnnxEiError

        known = isinstance(error, OnnxEiError | ValueError | KeyError)
        return "failed", str(error) if known else f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main()
