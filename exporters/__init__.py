"""From a framework's model to an ONNX file that keeps its names: one module a framework.

Installed as ``onnx_ei.exporters``. Importing it imports no framework.
"""

from __future__ import annotations

from onnx_ei.exporters.from_torch import export_torch

__all__ = ["export_torch"]
