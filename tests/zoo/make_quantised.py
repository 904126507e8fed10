"""Quantise torch's networks of this folder with onnxruntime's own tools: one file for each way.

Run it where onnxruntime is installed; the files are in quantised/.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

HERE = Path(__file__).parent
OUT = HERE / "quantised"
SHAPES = {"mlp": (4,), "cnn": (3, 6, 6), "encoder": (5, 6)}


class Noise(CalibrationDataReader):
    """Uniform noise on the range that a measure's default gives a model's input, or a narrower."""

    def __init__(self, name: str, shape: tuple[int, ...], half: float) -> None:
        rng = np.random.default_rng(5)
        samples = rng.uniform(-half, half, (64, 1, *shape)).astype(np.float32)
        self._feeds = iter([{name: sample} for sample in samples])

    def get_next(self):
        return next(self._feeds, None)


def static(net: str, to: str, form: QuantFormat, *, per_channel: bool = False, **kinds) -> None:
    source = HERE / f"{net}_torch.onnx"
    feed = onnx.load(source).graph.input[0].name
    quantize_static(
        source, OUT / f"{net}_{to}.onnx", Noise(feed, SHAPES[net], 4.0), quant_format=form,
        per_channel=per_channel, extra_options={"ForceQuantizeNoInputCheck": True}, **kinds,
    )  # fmt: skip


def n_bits(net: str) -> None:
    quantiser = MatMulNBitsQuantizer(
        onnx.load(HERE / f"{net}_torch.onnx"), bits=4, block_size=16, is_symmetric=False
    )
    quantiser.process()
    onnx.save(quantiser.model.model, OUT / f"{net}_nbits.onnx")


def tidy(path: Path) -> None:
    """Leave out what tools note of the place where they ran; the modules' names stay."""
    model = onnx.load(path)
    del model.metadata_props[:]
    del model.graph.value_info[:]
    for node in model.graph.node:
        kept = [p for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
        node.doc_string = ""
    onnx.save(model, path)


def main() -> None:
    logging.getLogger().setLevel(logging.ERROR)
    OUT.mkdir(exist_ok=True)
    signed = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8}
    plain = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    for net in SHAPES:
        static(net, "qoperator", QuantFormat.QOperator, **plain)
        static(net, "qdq", QuantFormat.QDQ, **plain)
        quantize_dynamic(HERE / f"{net}_torch.onnx", OUT / f"{net}_dynamic.onnx")
    static("cnn", "qdq_channels", QuantFormat.QDQ, per_channel=True, **signed)
    static("cnn", "qoperator_channels", QuantFormat.QOperator, per_channel=True, **plain)
    n_bits("encoder")
    for path in OUT.glob("*.onnx"):
        tidy(path)


if __name__ == "__main__":
    main()
