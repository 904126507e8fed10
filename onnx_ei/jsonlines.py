"""Files of JSON lines that survive a crash: the first line says what all the others are.

A last line without an end is what a crash left of one. What is read here may be being written; what
is written here is on the disk, line by line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from onnx_ei.errors import OutputError

__all__ = ["Appender", "Entry", "JsonLines", "line_of"]

T = TypeVar("T")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A line after the first.

    Attributes
    ----------
    content : object
        What it stands for.
    line : bytes
        The line itself, its end included.
    """

    content: T
    line: bytes


@dataclass(frozen=True, kw_only=True)
class JsonLines:
    """A kind of file.

    Attributes
    ----------
    noun, done : str
        What such a file is called, and what has been done to what is in it.
    version : int
        Of the format.
    """

    noun: str
    done: str
    version: int

    @property
    def format(self) -> str:
        """What the first line of such a file says that it is."""
        return f"{self._kind}{self.version}"

    def read(
        self,
        path: str | os.PathLike[str],
        parse: Callable[[Mapping[str, Any], Any], T],
        key: Callable[[T], Hashable],
    ) -> tuple[dict[str, Any], list[Entry[T]], bool]:
        """Read a file.

        Parameters
        ----------
        path : path
            The file.
        parse : callable
            Makes of the first line and another one what that stands for.
        key : callable
            What tells lines apart: a later one replaces an earlier one of the same key.

        Returns
        -------
        header : dict
            The first line.
        entries : list of Entry
            The others, in order.
        incomplete : bool
            Whether a last line had been cut off in writing, and was left out.

        Raises
        ------
        FileNotFoundError
            If there is none.
        ValueError
            If it is another kind of file, or a line other than an unfinished last one is damaged.
        """
        header, lines, rest = self._split(Path(path))
        if header is None:
            raise ValueError(f"{path} holds no whole line: nothing was {self.done} yet")
        entries: dict[Hashable, Entry[T]] = {}
        for number, line in enumerate(lines[1:], 2):
            try:
                content = parse(header, json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{path}, line {number} is damaged ({error}); remove it"
                ) from error
            entries.pop(key(content), None)
            entries[key(content)] = Entry(content, line + b"\n")
        return header, list(entries.values()), bool(rest)

    def begun(self, path: Path) -> tuple[dict[str, Any] | None, int]:
        """Look at a file that may be one to continue.

        Parameters
        ----------
        path : Path
            The file; it need not exist.

        Returns
        -------
        header : dict or None
            Its first line; None where there is none yet.
        length : int
            Bytes of whole lines; what follows, a crash cut off.

        Raises
        ------
        ValueError
            If it is another kind of file.
        """
        if not path.exists():
            return None, 0
        header, lines, _ = self._split(path)
        return header, sum(len(line) + 1 for line in lines)

    @property
    def _kind(self) -> str:
        return f"onnx_ei {self.noun.split()[0]} "

    def _split(self, path: Path) -> tuple[dict[str, Any] | None, list[bytes], bytes]:
        """Return the first line, the whole lines, and what follows the last of them."""
        *lines, rest = path.read_bytes().split(b"\n")
        if lines:
            return self._header(path, lines[0]), lines, rest
        beginning = line_of({"format": self.format})[:-2]
        if rest[: len(beginning)] != beginning[: len(rest)]:
            raise self._another(path)
        return None, [], rest

    def _header(self, path: Path, line: bytes) -> dict[str, Any]:
        try:
            header: dict[str, Any] = json.loads(line)
            found = header["format"]
        except (ValueError, KeyError, TypeError):
            raise self._another(path) from None
        if found == self.format:
            return header
        if str(found).startswith(self._kind):
            raise ValueError(
                f"{path} is of the format {found!r}, this onnx_ei reads {self.format!r}; read it "
                "with the onnx_ei that wrote it, or choose another file"
            )
        raise self._another(path)

    def _another(self, path: Path) -> ValueError:
        return ValueError(f"{path} is no {self.noun} ({self.format!r}); choose another file")


def line_of(content: Mapping[str, Any]) -> bytes:
    """Return one line of JSON, its end included."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode() + b"\n"


class Appender:
    """Writes whole lines, each on the disk before the next begins.

    Parameters
    ----------
    path : Path
        The file.
    length : int
        Bytes of whole lines that it holds; what follows, a crash cut off.
    remedy : str
        What to do where a line cannot be written.

    Attributes
    ----------
    length : int
        Bytes of whole lines.

    Raises
    ------
    OSError
        If the file cannot be opened.
    """

    def __init__(self, path: Path, length: int, remedy: str) -> None:
        self.path, self.length, self._remedy = path, length, remedy
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        self._file: int | None = os.open(path, flags, 0o666)
        try:
            os.ftruncate(self._file, length)
        except BaseException:
            self.close()
            raise

    @property
    def closed(self) -> bool:
        """Whether nothing can be written any more."""
        return self._file is None

    def write(self, content: Mapping[str, Any]) -> None:
        """Write one line, and return once it is on the disk.

        Parameters
        ----------
        content : mapping
            The line.

        Raises
        ------
        OutputError
            If the disk is full, or fails; the file ends with the line before.
        """
        line = line_of(content)
        before = os.fstat(self._handle).st_size
        try:
            left = memoryview(line)
            while left:
                left = left[os.write(self._handle, left) :]
            os.fsync(self._handle)
        except BaseException as error:
            # whatever ended it: no half line, where that can be helped
            with suppress(OSError):
                os.ftruncate(self._handle, before)
            if isinstance(error, OSError):
                raise OutputError(
                    f"{self.path}: {error.strerror}; every row before this one is safe: make "
                    f"room, and {self._remedy}"
                ) from error
            raise
        self.length += len(line)

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    @property
    def _handle(self) -> int:
        if self._file is None:
            raise ValueError(f"{self.path} is closed")
        return self._file
