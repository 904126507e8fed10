"""onnxruntime as it is installed: which wheel, what a device is called there, and why it fails."""

from __future__ import annotations

import importlib.metadata
import io
import re
from contextlib import redirect_stdout
from functools import cache
from types import ModuleType
from typing import Any

from onnx_ei.devices import PROVIDERS, Device, driver_version, gpu_names
from onnx_ei.errors import BackendError, MissingDependencyError

__all__ = [
    "first_line",
    "installed_wheels",
    "onnxruntime_module",
    "providers_for",
    "refusal",
    "why_not",
]

WHEELS = ("onnxruntime", "onnxruntime-gpu")


def installed_wheels() -> dict[str, str]:
    """Return the onnxruntime wheels that are installed, with their versions.

    Returns
    -------
    dict
        Distribution name to version; both names at once is a broken installation, since the two
        wheels overwrite each other's files.
    """
    found = {}
    for name in WHEELS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def onnxruntime_module() -> ModuleType:
    """Import onnxruntime, or say in one line what is wrong with the installation.

    Raises
    ------
    MissingDependencyError
        If neither wheel is installed, or both are.
    """
    wheels = installed_wheels()
    if len(wheels) > 1:
        both = " and ".join(f"{name} {version}" for name, version in wheels.items())
        raise MissingDependencyError(
            f"{both} are both installed and overwrite each other; keep one: "
            "pip uninstall -y onnxruntime onnxruntime-gpu, then "
            'pip install "onnx-ei[cpu]" or "onnx-ei[gpu]"'
        )
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            f"onnxruntime cannot be imported ({error}); "
            'install it with: pip install "onnx-ei[cpu]" (or "onnx-ei[gpu]" for CUDA)'
        ) from error
    module: ModuleType = onnxruntime
    return module


def providers_for(ort: ModuleType, device: Device) -> list[Any]:
    """Return what a session on a device is asked to run on, in onnxruntime's own form.

    Raises
    ------
    BackendError
        If onnxruntime has no CUDA, and that is asked for.
    """
    if device.kind == "cpu":
        return [PROVIDERS["cpu"]]
    wanted = PROVIDERS[device.kind]
    if wanted not in ort.get_available_providers():
        wheels = ", ".join(f"{n} {v}" for n, v in installed_wheels().items())
        raise BackendError(
            f"CUDA was asked for, but {wheels or 'onnxruntime'} as installed has no CUDA provider; "
            'install "onnx-ei[gpu]" in place of "onnx-ei[cpu]", or use device=\'cpu\''
        )
    _preloaded(ort)
    settings = {
        "device_id": str(device.number),
        # on by default since Ampere; 10 bits of mantissa move values across bins
        "use_tf32": "1" if device.tf32 else "0",
        "cudnn_conv_algo_search": "HEURISTIC",  # an exhaustive search makes two runs differ
    }
    return [(wanted, settings), PROVIDERS["cpu"]]


@cache
def _preloaded(ort: ModuleType) -> str:
    """Load NVIDIA's libraries from their wheels, once; name those that could not be loaded."""
    # From 1.31 on each CUDA session warns that no plugin was registered for it, by the default
    # logger, which no option of a session reaches.
    ort.set_default_logger_severity(3)
    said = io.StringIO()
    if hasattr(ort, "preload_dlls"):
        with redirect_stdout(said):  # it prints what fails, in the midst of a command's output
            ort.preload_dlls()
    return ", ".join(re.findall(r"^Failed to load ([^:]+):", said.getvalue(), re.MULTILINE))


def why_not(ort: ModuleType, device: Device) -> str:
    """Say what CUDA lacks here, and what to do about it."""
    built, driver, gpus = getattr(ort, "cuda_version", ""), driver_version(), gpu_names()
    if driver is None:
        why = "there is no NVIDIA driver, or it sees no GPU (in a container: docker run --gpus all)"
    elif device.number >= len(gpus):
        why = f"CUDA sees {len(gpus)} GPUs, from cuda:0 on: {', '.join(gpus)}"
    elif built and _major(driver) < _major(built):
        why = f"the driver runs CUDA {driver}, and this onnxruntime is built for CUDA {built}"
    else:
        why = f"this onnxruntime needs the libraries of CUDA {built or '(unknown)'} and cuDNN 9"
    failed = _preloaded(ort)
    missing = f" (cannot load {failed})" if failed else ""
    return f"{why}{missing}; see docs/servers.md and onnx-ei doctor, or use device='cpu'"


def _major(version: str) -> int:
    return int(version.split(".")[0])


def first_line(error: Exception) -> str:
    """Return the first line of a message; of CUDA's, what failed, without the C++ around it."""
    failed = re.search(r"\bCU[A-Z]+ (failure|error) \d+: [^;\n]+", str(error))
    if failed:
        return (
            f"{failed[0].strip()}; a GPU whose memory others have filled is one cause (nvidia-smi "
            "shows it), and fewer jobs take less"
        )
    return str(error).strip().split("\n", maxsplit=1)[0][:500]


def refusal(ort: ModuleType, device: Device, error: Exception) -> str:
    """Say why there is no session: the device is not there, or the model is not liked."""
    if device.kind == "cuda" and device.number >= len(gpu_names()):
        return f"device {str(device)!r} was asked for; {why_not(ort, device)}"
    where = "" if device.kind == "cpu" else f" on {str(device)!r}"
    return f"onnxruntime refuses the model{where}: {first_line(error)}"
