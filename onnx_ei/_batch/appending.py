"""The results file of a batch: one writer, whole lines, each on the disk before the next begins."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from onnx_ei.jsonlines import Appender
from onnx_ei.resultfile import (
    RESULTS,
    done,
    lines_that_count,
    read_results,
    refuse_others,
    row_line,
)
from onnx_ei.rows import Row
from onnx_ei.tabular import replaced

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
            there, length = RESULTS.begun(self.path)
            if not resume and self.path.exists() and self.path.stat().st_size:
                raise ValueError(
                    f"{self.path} is there already; resume it (--resume) or choose another file"
                )
            self.rows: list[Row] = []
            if there is not None:
                refuse_others(self.path, there, header)
                self.rows = done(read_results(self.path)[1])
                self.header = there
            self._file, self._appended = self._opened(length), False
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
        if not self._file.length:  # a run that is refused for what its models hold leaves no file
            self._file.write(self.header)
        self._file.write(row_line(row, self.header))
        self._appended = True

    def close(self) -> None:
        """Close the file, and let others write."""
        self._file.close()
        if not self._file.length:
            with suppress(OSError):
                self.path.unlink()
        self._lock.release()

    def __enter__(self) -> ResultsWriter:
        """Return the writer itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Close the file; where nothing went wrong, without the lines that later ones replace."""
        try:
            if kind is None and self._appended:
                self._compact()
        finally:
            self.close()

    def _compact(self) -> None:
        """Leave out rows that were measured again: whoever counts lines counts rows."""
        kept = lines_that_count(self.path)
        if sum(map(len, kept)) == self._file.length:
            return
        self._file.close()
        # the old file says the same: nothing is lost where there is no room for the new one
        with suppress(OSError), replaced(self.path) as file:
            file.writelines(kept)

    def _opened(self, length: int) -> Appender:
        try:
            return Appender(self.path, length, "resume (--resume)")
        except OSError as error:
            raise ValueError(f"{self.path} cannot be written: {error.strerror}") from error


def _locked(path: Path) -> Any:
    """Take the lock beside a results file, or say who has it."""
    from filelock import FileLock, Timeout

    if not path.parent.is_dir():
        raise ValueError(f"{path} cannot be written: there is no folder {path.parent}")
    if path.exists() and not path.is_file():  # a device or a pipe cannot be read back
        what = "a folder" if path.is_dir() else "no ordinary file"
        raise ValueError(f"{path} cannot be written: it is {what}")
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
