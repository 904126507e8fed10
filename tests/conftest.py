"""What every test shares: peers that must be there in CI, and the CUDA tests' reason to skip."""

from __future__ import annotations

import importlib
import os
from functools import cache
from types import ModuleType

import pytest

# Scripts that need their frameworks: run by hand, not imported in search of doctests.
collect_ignore_glob = ["zoo/make_*.py"]

REQUIRE_PEERS = "ONNX_EI_REQUIRE_PEERS"
"""Set by tox where everything is installed: a test that would skip for a missing peer fails."""


def require_peer(name: str) -> ModuleType:
    """Import a package that a test compares with, or skip the test; in CI, fail it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        message = f"{name} is not installed: {error}"
    if os.environ.get(REQUIRE_PEERS) == "1":
        pytest.fail(f"{message} ({REQUIRE_PEERS}=1)")
    pytest.skip(message, allow_module_level=True)


@cache
def no_cuda() -> str | None:
    """Say why onnxruntime cannot run on a CUDA device here, or None if it can."""
    try:
        import onnxruntime as ort
    except ImportError:
        return "onnxruntime is not installed"
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return "this onnxruntime has no CUDA provider"
    if os.path.exists("/dev/nvidiactl") or os.path.exists("/proc/driver/nvidia/version"):
        return None
    return "no NVIDIA driver is loaded, so there is no CUDA device"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("cuda") is not None and (reason := no_cuda()) is not None:
            item.add_marker(pytest.mark.skip(reason=reason))
