"""The results file of a batch: one writer, whole lines, each on the disk before the next begins."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from onnx_ei.errors import OutputError
from onnx_ei.resultfile import begun, done, line_of, read_results, refuse_others, row_line
from onnx_ei.rows import Row

__all__ = ["ResultsWriter"]


class ResultsWriter:
    """Appends rows to a results file, which it holds against every other writer.

    Parameters
    ----------
    path : path
        The file.
    header : mapping
        From :func:`onnx_ei.resultfile.header_line`.
    resume : bool
        Whether to go on with a file that is there.

    Attributes
    ----------
    rows : list of Row
        What need not be measured again: the rows of the file that did not fail.

    Raises
    ------
    ValueError
        If the file cannot be written, is there and ``resume`` is False, is another kind of file,
        of another run or another version, or is being written by another process.
    """

    def __init__(
        self, path: str | os.PathLike[str], header: Mapping[str, Any], resume: bool = False
    ) -> None:
        self.path, self.header = Path(path), header
        self._lock = _locked(self.path)
        try:
            there, length = begun(self.path)
            if not resume and self.path.exists() and self.path.stat().st_size:
                raise ValueError(
                    f"{self.path} is there already; resume it (--resume) or choose another file"
                )
            self.rows: list[Row] = []
            if there is not None:
                refuse_others(self.path, there, header)
                self.rows = done(read_results(self.path)[1])
                self.header = there
            self._open(length)
        except BaseException:
            self._lock.release()
            raise

    def append(self, row: Row) -> None:
        """Write a row, and return once it is on the disk.

        Parameters
        ----------
        row : Row
            The layer.

        Raises
        ------
        OutputError
            If the disk is full, or fails; the file ends with the row before, and resumes.
        """
        if not self._length:  # a run that is refused for what its models hold leaves no file
            self._write(line_of(self.header))
        self._write(line_of(row_line(row, self.header)))

    def close(self) -> None:
        """Close the file, and let others write."""
        os.close(self._file)
        if not self._length:
            with suppress(OSError):
                self.path.unlink()
        self._lock.release()

    def __enter__(self) -> ResultsWriter:
        """Return the writer itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file."""
        self.close()

    def _open(self, length: int) -> None:
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0))
            os.ftruncate(self._file, length)  # what follows, a crash cut off
            os.lseek(self._file, length, os.SEEK_SET)
        except OSError as error:
            raise ValueError(f"{self.path} cannot be written: {error.strerror}") from error
        self._length = length

    def _write(self, line: bytes) -> None:
        try:
            left = memoryview(line)
            while left:
                left = left[os.write(self._file, left) :]
            os.fsync(self._file)
        except BaseException as error:
            # whatever ended it: no half line, where that can be helped
            with suppress(OSError):
                os.ftruncate(self._file, self._length)
                os.lseek(self._file, self._length, os.SEEK_SET)
            if isinstance(error, OSError):
                raise OutputError(
                    f"{self.path}: {error.strerror}; every row before this one is safe: make room, "
                    "and resume (--resume)"
                ) from error
            raise
        self._length += len(line)


def _locked(path: Path) -> Any:
    """Take the lock beside a results file, or say who has it."""
    from filelock import FileLock, Timeout

    if not path.parent.is_dir():
        raise ValueError(f"{path} cannot be written: there is no folder {path.parent}")
    if path.is_dir():
        raise ValueError(f"{path} cannot be written: it is a folder")
    lock = FileLock(f"{path}.lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not Path(lock.lock_file).exists():  # no file can be made there, whoever asks
            raise ValueError(f"{path} cannot be written: nor can {lock.lock_file}") from None
        raise ValueError(
            f"{path} is being written by another process; wait for it, or choose another file"
        ) from None
    except (OSError, NotImplementedError) as error:
        raise ValueError(f"{path} cannot be locked ({lock.lock_file}): {error}") from error
    return lock
