"""Information-theoretic measures of what each layer of a neural network does, through ONNX.

The names below are loaded when they are first used, so that importing the package stays cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from onnx_ei.importing import collector_paused

if TYPE_CHECKING:
    from onnx_ei.analysis import analyze as analyze
    from onnx_ei.analyzed import Analysis as Analysis
    from onnx_ei.batching import batch as batch
    from onnx_ei.calibrating import calibrate as calibrate
    from onnx_ei.calibration import Calibration as Calibration
    from onnx_ei.comparing import Comparison as Comparison
    from onnx_ei.errors import BackendError as BackendError
    from onnx_ei.errors import ConstantLayerWarning as ConstantLayerWarning
    from onnx_ei.errors import CpuNodesWarning as CpuNodesWarning
    from onnx_ei.errors import MissingDependencyError as MissingDependencyError
    from onnx_ei.errors import ModelError as ModelError
    from onnx_ei.errors import NotConvergedWarning as NotConvergedWarning
    from onnx_ei.errors import OnnxEiError as OnnxEiError
    from onnx_ei.errors import OnnxEiWarning as OnnxEiWarning
    from onnx_ei.errors import OutOfRangeWarning as OutOfRangeWarning
    from onnx_ei.errors import OutputError as OutputError
    from onnx_ei.errors import UnboundedSpanError as UnboundedSpanError
    from onnx_ei.errors import UndersampledWarning as UndersampledWarning
    from onnx_ei.errors import UnknownLayerError as UnknownLayerError
    from onnx_ei.errors import UnsupportedModelError as UnsupportedModelError
    from onnx_ei.measures import degeneracy as degeneracy
    from onnx_ei.measures import ei as ei
    from onnx_ei.measures import ei_parts as ei_parts
    from onnx_ei.measures import ei_parts_matrix as ei_parts_matrix
    from onnx_ei.measures import eis_between_groups as eis_between_groups
    from onnx_ei.measures import measure as measure
    from onnx_ei.measures import mutual_information as mutual_information
    from onnx_ei.measures import phi as phi
    from onnx_ei.measures import sensitivity as sensitivity
    from onnx_ei.measures import sensitivity_matrix as sensitivity_matrix
    from onnx_ei.measures import vector_and_pairwise_ei as vector_and_pairwise_ei
    from onnx_ei.recording import Recorder as Recorder
    from onnx_ei.records import Recording as Recording
    from onnx_ei.records import read_records as read_records
    from onnx_ei.results import Measurement as Measurement
    from onnx_ei.rows import Row as Row
    from onnx_ei.topology import topology_of as topology_of

_HOMES = {
    "analysis": ("analyze",),
    "analyzed": ("Analysis",),
    "batching": ("batch",),
    "calibrating": ("calibrate",),
    "calibration": ("Calibration",),
    "comparing": ("Comparison",),
    "errors": (
        "BackendError", "ConstantLayerWarning", "CpuNodesWarning", "MissingDependencyError",
        "ModelError", "NotConvergedWarning", "OnnxEiError", "OnnxEiWarning",
        "OutOfRangeWarning", "OutputError", "UnboundedSpanError", "UndersampledWarning",
        "UnknownLayerError", "UnsupportedModelError",
    ),
    "measures": (
        "degeneracy", "ei", "ei_parts", "ei_parts_matrix", "eis_between_groups", "measure",
        "mutual_information", "phi", "sensitivity", "sensitivity_matrix",
        "vector_and_pairwise_ei",
    ),
    "recording": ("Recorder",),
    "records": ("Recording", "read_records"),
    "results": ("Measurement",),
    "rows": ("Row",),
    "topology": ("topology_of",),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__version__ = "0.1.0"
__all__ = ["__version__", *sorted(_HOME_OF)]


def __getattr__(name: str) -> object:
    """Load a public name from its room."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'onnx_ei' has no attribute {name!r}")
    with collector_paused():
        module = import_module(f".{home}", __name__)
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
