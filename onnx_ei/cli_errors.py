"""What every command does with an error: one line on standard error, and an exit code by kind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

__all__ = ["DEVICE", "FAILED", "INTERRUPTED", "MODEL", "USAGE", "errors", "say"]

FAILED, USAGE, MODEL, DEVICE, INTERRUPTED = 1, 2, 3, 4, 130


def say(text: str) -> None:
    """Write a line to standard error."""
    typer.echo(text, err=True)


@contextmanager
def errors(debug: bool) -> Iterator[None]:
    """Turn errors into one line and an exit code."""
    from onnx_ei.errors import (
        BackendError,
        MissingDependencyError,
        ModelError,
        OutputError,
        UnsupportedModelError,
    )

    if debug:
        yield
        return
    try:
        yield
    except (ModelError, UnsupportedModelError) as error:
        _fail(error, MODEL)
    except (BackendError, MissingDependencyError) as error:
        _fail(error, DEVICE)
    except OutputError as error:
        _fail(error, FAILED)
    except (ValueError, TypeError, KeyError) as error:
        _fail(error, USAGE)
    except KeyboardInterrupt:
        say("interrupted")
        raise typer.Exit(INTERRUPTED) from None


def _fail(error: Exception, code: int) -> NoReturn:
    say(f"error: {error}")
    raise typer.Exit(code) from None
