"""From a framework's model to an ONNX file that keeps its names: one module a framework.

Installed as ``onnx_ei.exporters``. Importing it imports no framework.
"""

from __future__ import annotations

from onnx_ei.exporters.from_jax import export_jax
from onnx_ei.exporters.from_keras import export_keras
from onnx_ei.exporters.from_sklearn import export_sklearn
from onnx_ei.exporters.from_torch import export_torch

__all__ = ["export_jax", "export_keras", "export_sklearn", "export_torch"]
