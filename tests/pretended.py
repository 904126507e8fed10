"""A GPU that is a CPU: everything but CUDA itself, for tests where there is none."""

from __future__ import annotations

from typing import Any

from onnx_ei import topology_of
from onnx_ei.devices import PROVIDERS, parse_device
from onnx_ei.sessions import Session

_REAL = Session.__init__


def pretend(self: Session, model: Any, device: object = "cpu") -> None:
    """Make a session on the CPU that says it is on the device that was asked for.

    As CUDA would, where it had no kernel for any node: all of them are on the CPU.
    """
    _REAL(self, model, "cpu")
    self.device = parse_device(device)
    self.provider = PROVIDERS[self.device.kind]


def opened(path: str) -> Any:
    """Open a model in a process that pretends."""
    Session.__init__ = pretend  # type: ignore[method-assign]
    return topology_of(path)
