"""Where a number comes from: parameters in plain types, the model's content, versions, memory."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import onnx_ei
from onnx_ei._sampling.parameters import Parameters
from onnx_ei._sampling.quantities import quantities
from onnx_ei.calibration import CALIBRATED
from onnx_ei.devices import PROVIDERS, device_name, parse_device, parse_devices
from onnx_ei.errors import ModelError, closest
from onnx_ei.measuring import measure_many
from onnx_ei.providers import installed_wheels

if TYPE_CHECKING:
    import networkx as nx
    import onnx

__all__ = [
    "DEFAULTS",
    "DEFINITIONS",
    "calibrated_names",
    "check_options",
    "content_hash",
    "file_digest",
    "key_of",
    "model_facts",
    "origin",
    "peak_memory",
    "plain",
    "versions",
]

DEFINITIONS = 1
"""Version of the definitions: raised when the same parameters and seed give another value."""

DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(measure_many).parameters.items()
    if name not in ("names", "layer", "topology")
}
"""The arguments of a measure, with their defaults."""
_NO_RESULT_DEPENDS_ON = ("batch_size", "memory_limit", "progress", "tf32")
_PACKAGES = ("onnx", "numpy", "numba")


def check_options(
    caller: str, measures: Iterable[str], options: Mapping[str, Any], *, several: bool = False
) -> dict[str, Any]:
    """Check measures and their options before any work; return all parameters in plain types.

    Parameters
    ----------
    caller : str
        Who is named where an option is unknown.
    measures : iterable of str
        Names, as for :func:`onnx_ei.measure`.
    options : mapping
        Keyword arguments of :func:`onnx_ei.measure`.
    several : bool
        Whether there may be several devices.

    Returns
    -------
    dict
        Every argument that a result depends on, in JSON's types, defaults included. Of the device
        it is the kind: no value depends on which one it is. ``tf32`` is there where it is True.

    Raises
    ------
    TypeError, ValueError
        If an option or a measure makes no sense.

    Examples
    --------
    >>> check_options("analyze", ["ei"], {"in_bins": 8})["in_bins"]
    8
    """
    for name in options:
        if name not in DEFAULTS:
            raise TypeError(f"{caller} has no option {name!r}; {closest(name, DEFAULTS)}")
    sampling = {field.name for field in fields(Parameters)}.difference(calibrated_names(options))
    parameters = Parameters(**{n: value for n, value in options.items() if n in sampling})
    given = {n: options[n] for n in ("groups", "against") if n in options}
    quantities(tuple(measures), parameters, **given)
    where = [options.get(n, DEFAULTS[n]) for n in ("device", "tf32")]
    device = parse_devices(*where)[0] if several else parse_device(*where)
    kept = (n for n in DEFAULTS if n not in _NO_RESULT_DEPENDS_ON)
    found = {n: plain(options.get(n, DEFAULTS[n])) for n in kept} | {"device": device.kind}
    # left out where it is off: what was measured before it could be on is the same
    return found | {"tf32": True} if device.tf32 else found


def calibrated_names(options: Mapping[str, Any]) -> list[str]:
    """Return which ranges are to be those of the calibration."""
    given = {name: options.get(name) for name in ("in_range", "out_range")}
    return [name for name, value in given.items() if isinstance(value, str) and value == CALIBRATED]


def plain(value: Any) -> Any:
    """Return a parameter in JSON's types: arrays by their hash, functions by their name.

    Examples
    --------
    >>> plain((np.float64(0.5), {"a": (1, None)}))
    [0.5, {'a': [1, None]}]
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return f"{value.dtype} {value.shape} sha256 {digest}"
    return getattr(value, "__qualname__", None) or str(value)


def key_of(
    model_sha256: str | None, layer: str, measures: Iterable[str], parameters: Mapping[str, Any]
) -> str:
    """Return the name of a result: a hash of all that decides it.

    Parameters
    ----------
    model_sha256 : str or None
        The model's content.
    layer : str
        The layer.
    measures : iterable of str
        What is measured of it; the order does not matter.
    parameters : mapping
        From :func:`check_options`, the seed among them.

    Examples
    --------
    >>> seed = {"seed": 0}
    >>> key_of("00", "fc", ["ei", "phi"], seed) == key_of("00", "fc", ["phi", "ei"], seed)
    True
    >>> key_of("00", "fc", ["ei"], seed) == key_of("00", "fc", ["ei"], {"seed": 1})
    False
    """
    decides = [DEFINITIONS, model_sha256, layer, sorted(set(measures)), dict(parameters)]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def content_hash(model: str | os.PathLike[str] | bytes | onnx.ModelProto) -> str:
    """Return the SHA-256 of a model: its file, and the files beside it that hold its weights.

    Parameters
    ----------
    model : path, bytes or onnx.ModelProto
        The model.

    Raises
    ------
    ModelError
        If a file cannot be read.

    Examples
    --------
    >>> content_hash(b"x")[:8]
    '2d711642'
    """
    if isinstance(model, bytes):
        return hashlib.sha256(model).hexdigest()
    if not isinstance(model, str | os.PathLike):
        return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    path = Path(model)
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        beside = _external(path)
        for location in beside:
            digest.update(f"{location}\0{file_digest(path.parent / location)}\n".encode())
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    return digest.hexdigest()


def file_digest(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _external(path: Path) -> list[str]:
    """Return the names of the files that hold a model's weights, sorted."""
    import onnx
    from onnx.external_data_helper import _get_all_tensors, uses_external_data

    try:
        proto = onnx.load(path, load_external_data=False)
    except OSError:
        raise
    except Exception:  # protobuf's DecodeError differs between its implementations
        return []  # no model: loading it will say so
    tensors = (tensor for tensor in _get_all_tensors(proto) if uses_external_data(tensor))
    return sorted({e.value for t in tensors for e in t.external_data if e.key == "location"})


def model_facts(topology: nx.DiGraph[Any], model_sha256: str | None) -> dict[str, Any]:
    """Return what is known of a model: its content's hash, opset, and what wrote it.

    Parameters
    ----------
    topology : networkx.DiGraph
        From :func:`onnx_ei.topology_of`.
    model_sha256 : str or None
        From :func:`content_hash`.
    """
    from onnx_ei.topology import model_of

    found = model_of(topology).ir
    producer = " ".join(part for part in (found.producer_name, found.producer_version) if part)
    return {
        "model_sha256": model_sha256,
        "opset": found.opset_imports.get(""),
        "producer": producer or None,
    }


def origin(
    facts: Mapping[str, Any], options: Mapping[str, Any], parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """Return where a row's values come from, but for what only its end tells.

    Parameters
    ----------
    facts : mapping
        From :func:`model_facts`.
    options : mapping
        Keyword arguments of :func:`onnx_ei.measure`.
    parameters : mapping
        From :func:`check_options`.
    """
    device = parse_device(options.get("device", "cpu"), options.get("tf32", False))
    return {
        **facts,
        # a session that got another one is an error, so that no row has other values
        "provider": PROVIDERS[device.kind],
        "device": device_name(device),
        "device_id": str(device),
        "tf32": device.tf32,
        "cpu_nodes": {} if device.kind == "cpu" else None,
        "seed": options.get("seed", 0),
        "parameters": dict(parameters),
        "definitions": DEFINITIONS,
        "versions": versions(),
        "peak_memory": None,
    }


def versions() -> dict[str, str]:
    """Return the versions of what computes: onnx_ei, Python, onnx, onnxruntime, NumPy, numba."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    return {
        "onnx_ei": onnx_ei.__version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        **installed_wheels(),
    }


def peak_memory() -> int | None:
    """Return the most bytes that this process has held at once, or None where nothing tells."""
    try:
        # not getrusage: ru_maxrss of a child begins at the size of the process that started it
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return 1024 * int(found[1]) if found else None
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
