"""``--config run.toml``: the options of a command from a file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import typer

__all__ = ["read_config"]

_NOT_IN_A_FILE = ("config", "debug", "help")
_BY_NAME = {"spans": ":", "input_shape": ",", "input": ","}
"""Options of NAME=VALUE, which may be a table, and what joins a value of several parts."""


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Take a command's options from a TOML file; what the command line says goes first.

    Parameters
    ----------
    context : typer.Context
        Of the command.
    path : pathlib.Path or None
        The file.

    Raises
    ------
    typer.BadParameter
        If it cannot be read, or holds a key that is no option (the closest are named), or a value
        of the wrong kind. Numbers and words out of bounds are refused as on the command line.
    """
    if path is None or context.resilient_parsing:
        return path
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # no TOML, or no UTF-8
        raise typer.BadParameter(f"{path} is no TOML: {error}") from error
    known = {p.name: p for p in context.command.params if p.name not in _NOT_IN_A_FILE}
    context.default_map = {
        **(context.default_map or {}),
        **dict(_option(path, key, value, known) for key, value in content.items()),
    }
    return path


def _option(path: Path, key: str, value: Any, known: dict[Any, Any]) -> tuple[str, Any]:
    from onnx_ei.errors import closest

    name = key.replace("-", "_")
    if name not in known:
        options = (str(option).replace("_", "-") for option in known)
        raise typer.BadParameter(f"{path}: unknown option {key!r}; {closest(key, options)}")
    parameter = known[name]
    if isinstance(value, dict) and name in _BY_NAME:
        value = [f"{n}={_joined(of, _BY_NAME[name])}" for n, of in value.items()]
    flag = bool(getattr(parameter, "is_flag", False))
    many = bool(getattr(parameter, "multiple", False)) or parameter.nargs == -1
    if isinstance(value, bool) != flag or isinstance(value, dict):
        wanted = "true or false" if flag else "a list of words" if many else "a word or a number"
        raise typer.BadParameter(f"{path}: {key} must be {wanted}, got {value!r}")
    if many:
        return name, [str(item) for item in (value if isinstance(value, list) else [value])]
    return name, _joined(value, ",") if isinstance(value, list) else value


def _joined(value: Any, separator: str) -> str:
    """Return what the command line would say: measures = ["ei", "phi"], input-range = [0, 1]."""
    return separator.join(map(str, value)) if isinstance(value, list) else str(value)
