"""Tables to files: whole or not at all."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from onnx_ei.errors import MissingDependencyError
from onnx_ei.frames import column_type

if TYPE_CHECKING:
    from onnx_ei.frames import Scalar

__all__ = ["replaced", "write_csv", "write_parquet", "write_table"]


@contextmanager
def replaced(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a file beside ``path`` that takes its place once it is whole and on the disk.

    Parameters
    ----------
    path : path
        The file to be.

    Raises
    ------
    OSError
        If it cannot be written; what was there before stays.
    """
    target = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with open(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp's files are their owner's alone
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def write_table(path: str | os.PathLike[str], records: Sequence[Mapping[str, Scalar]]) -> None:
    """Write records as what the name of the file says: ``.csv`` or ``.parquet``.

    Parameters
    ----------
    path : path
        The file.
    records : sequence of dict
        All with the same keys.

    Raises
    ------
    ValueError
        If it has another ending.
    OSError
        If it cannot be written; what was there before stays.
    """
    writers = {".csv": write_csv, ".parquet": write_parquet}
    ending = Path(path).suffix
    if ending not in writers:
        raise ValueError(f"{path} must end in {' or '.join(writers)}")
    writers[ending](path, records)


def write_csv(path: str | os.PathLike[str], records: Sequence[Mapping[str, Scalar]]) -> None:
    """Write records as comma-separated values; None becomes nothing, numbers round-trip.

    Parameters
    ----------
    path : path
        The file.
    records : sequence of dict
        All with the same keys.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]) if records else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    with replaced(path) as file:
        file.write(text.getvalue().encode())


def write_parquet(path: str | os.PathLike[str], records: Sequence[Mapping[str, Scalar]]) -> None:
    """Write records as a Parquet file, columns typed as those of the data frame.

    Parameters
    ----------
    path : path
        The file.
    records : sequence of dict
        All with the same keys.

    Raises
    ------
    MissingDependencyError
        If pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError(
            'pyarrow is not installed: pip install "onnx-ei[parquet]", or use to_csv()'
        ) from error
    types: dict[str, Any] = {
        "bool": pyarrow.bool_(),
        "boolean": pyarrow.bool_(),
        "int64": pyarrow.int64(),
        "Int64": pyarrow.int64(),
        "float64": pyarrow.float64(),
        "object": pyarrow.string(),
    }
    columns = {name: [record[name] for record in records] for name in (records or [{}])[0]}
    arrays = {
        name: pyarrow.array(values, types[column_type(name, values)])
        for name, values in columns.items()
    }
    with replaced(path) as file:
        pyarrow.parquet.write_table(pyarrow.table(arrays), file)
