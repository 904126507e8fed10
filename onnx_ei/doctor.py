"""What this installation has, and what is wrong with it."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
from typing import Any

from onnx_ei.devices import PROVIDERS, driver_version, gpu_names, processors
from onnx_ei.errors import OnnxEiError
from onnx_ei.providers import installed_wheels, onnxruntime_module
from onnx_ei.sessions import check_device

__all__ = ["examine", "problems"]

_PACKAGES = (
    "onnx-ei", "onnx", "onnx-ir", "onnxscript", "numpy", "scipy", "numba", "networkx", "torch",
)  # fmt: skip


def examine() -> dict[str, Any]:
    """Collect versions, onnxruntime's wheels and providers, GPUs, threads, numba's threading layer.

    Returns
    -------
    dict
        JSON-safe; a missing package's version is None.
    """
    facts: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform()}
    for name in _PACKAGES:
        facts[name] = _version(name)
    wheels = installed_wheels()
    facts["onnxruntime wheels"] = [f"{n} {v}" for n, v in wheels.items()]
    try:
        facts["providers"] = list(onnxruntime_module().get_available_providers())
    except OnnxEiError as error:
        facts["providers"] = []
        facts["onnxruntime error"] = str(error)
    facts["GPUs"] = gpu_names()
    facts["CUDA of the driver"] = driver_version()
    facts["CUDA of onnxruntime"] = _built_for()
    if facts["GPUs"] and PROVIDERS["cuda"] in facts["providers"]:
        try:
            check_device("cuda")
        except OnnxEiError as error:
            facts["CUDA error"] = str(error)
    facts["processors"] = processors()
    facts["threads"], facts["numba layer"] = _threads()
    return facts


def problems(facts: dict[str, Any]) -> list[str]:
    """Say what would keep a measurement from running.

    Parameters
    ----------
    facts : dict
        From :func:`examine`.

    Returns
    -------
    list of str
        Empty where all is well.
    """
    found = []
    if "onnxruntime error" in facts:
        found.append(str(facts["onnxruntime error"]))
    has_wheel = any(w.startswith("onnxruntime-gpu") for w in facts["onnxruntime wheels"])
    if has_wheel and "CUDAExecutionProvider" not in facts["providers"]:
        found.append("onnxruntime-gpu is installed and offers no CUDA provider")
    if "CUDA error" in facts:
        found.append(str(facts["CUDA error"]))
    return found


def _built_for() -> str | None:
    try:
        return str(getattr(onnxruntime_module(), "cuda_version", "")) or None
    except OnnxEiError:
        return None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _threads() -> tuple[int, str]:
    import numpy as np

    from onnx_ei._kernels.vector import _count_many_states

    numba: Any = importlib.import_module("numba")
    # the layer is chosen at the first parallel call; histogram makes none for few samples
    nothing = np.empty(1, np.int32), np.empty(1, np.int64), np.empty(1, np.int64)
    _count_many_states(np.zeros((1, 1), np.uint64), np.array([0, 1], np.int64), *nothing)
    layer = "none (JIT disabled)" if numba.config.DISABLE_JIT else numba.threading_layer()
    return int(numba.get_num_threads()), str(layer)
