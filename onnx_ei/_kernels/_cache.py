"""Compiled kernels on disk, so that a second process starts at once: never stale, never torn.

numba's own cache keeps an index file for each function, stamped with the function's own source
file, and beside it numbered files of code. Three things go wrong with it:

- a kernel that calls a kernel of another file keeps that one's old code when the other changes;
- index and code are two writes, so a process that starts between them, or two that add different
  signatures at once, take the code of another signature or version: it crashes, or counts wrongly;
- a file cut short, by a full disk or a kill, is an error in every later process.

Here a signature is one file, written in one step, whose checksum covers its code, its signature and
the sources of all kernels: what does not match is compiled again, and replaced.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import uuid
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache
from numba.core.runtime.nrt import rtsys
from numba.core.serialize import dumps

from onnx_ei.importing import collector_paused

__all__ = ["KernelCache"]


@cache
def _sources() -> bytes:
    """Return a digest of every kernel's source: what may have been inlined into a kernel."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(f.name.encode() + f.read_bytes() for f in files)).digest()


class KernelCache(FunctionCache):
    """The compiled signatures of one kernel, in the folder that numba would take.

    Parameters
    ----------
    py_func : function
        The kernel, as Python.

    Raises
    ------
    RuntimeError
        If there is no folder to write in.
    """

    def __init__(self, py_func: Any) -> None:
        super().__init__(py_func)
        self._enabled = True
        self._stamp = (numba.__version__, self._impl.locator.get_source_stamp(), _sources())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled signature, or None where it must be compiled."""
        with collector_paused():
            return self._load(sig, target_context)

    def _load(self, sig: Any, target_context: Any) -> Any:
        # Not target_context.refresh(), as in numba: that imports all that compiling may take, for
        # half a second. Compiled code needs the runtime that allocates its arrays.
        rtsys.initialize(target_context)
        path, identity = self._place(sig, target_context.codegen())
        try:
            found = path.read_bytes()
        except OSError:
            return None
        size = hashlib.sha256().digest_size
        code = found[size:]
        if not self._enabled or found[:size] != hashlib.sha256(identity + code).digest():
            return None
        return self._impl.rebuild(target_context, pickle.loads(code))

    def save_overload(self, sig: Any, data: Any) -> None:
        """Write a compiled signature; where the folder went away or is full, do without."""
        if not self._enabled or not self._impl.check_cachable(data):
            return
        path, identity = self._place(sig, data.codegen)
        code = dumps(self._impl.reduce(data))
        draft = path.with_name(f"{path.name}.{uuid.uuid4().hex[:16]}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(hashlib.sha256(identity + code).digest() + code)
            os.replace(draft, path)
        except OSError:
            _remove(draft)

    def flush(self) -> None:
        """Remove every compiled signature."""
        for path in Path(self._cache_path).glob(f"{self._impl.filename_base}-*.nbc"):
            _remove(path)

    def _place(self, sig: Any, codegen: Any) -> tuple[Path, bytes]:
        """Return the file of a signature, and what its code must belong to.

        The sources are not in the name: code of an older version is replaced, not kept for ever.
        """
        key = repr(self._index_key(sig, codegen))
        name = hashlib.sha256(key.encode()).hexdigest()[:16]
        path = Path(self._cache_path) / f"{self._impl.filename_base}-{name}.nbc"
        return path, repr((self._stamp, key)).encode()


def _remove(path: Path) -> None:
    """Remove a file if that is possible."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return
