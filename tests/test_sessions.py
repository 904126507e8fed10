"""Sessions: which wheel, which device, which provider; weights shared, values right."""

from __future__ import annotations

import importlib.metadata
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from graphs import make, mlp, node, noise
from onnx import TensorProto, helper

from onnx_ei import providers, sessions
from onnx_ei.devices import parse_device
from onnx_ei.errors import BackendError, MissingDependencyError, ModelError
from onnx_ei.providers import installed_wheels, onnxruntime_module
from onnx_ei.sessions import EMBED_LIMIT, Session, check_device
from onnx_ei.topology import topology_of


@pytest.mark.parametrize(
    ("device", "parsed"),
    [("cpu", ("cpu", 0)), ("cuda", ("cuda", 0)), ("cuda:1", ("cuda", 1)), ("cpu:0", ("cpu", 0))],
)
def test_parse_device(device: str, parsed: tuple[str, int]) -> None:
    assert parse_device(device) == (*parsed, False)
    # anything that prints like one, as a torch.device does
    assert parse_device(_Printed(device)) == (*parsed, False)


class _Printed:
    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


@pytest.mark.parametrize("device", ["gpu", "CPU", "cuda:", "cuda:-1", "cuda:1.5", "", None, 0])
def test_what_is_no_device_is_refused(device: object) -> None:
    with pytest.raises(ValueError, match=r"device must be 'cpu', 'cuda', 'cuda:N'.*got"):
        parse_device(device)
    with pytest.raises(ValueError, match="device must be"):
        check_device(device)
    with pytest.raises(ValueError, match="device must be"):
        Session(ir.from_proto(mlp()), device)


def test_cpu_runs_and_says_so() -> None:
    check_device("cpu")
    session = Session(ir.from_proto(mlp()))
    assert session.provider == "CPUExecutionProvider"
    assert session.run({"x": noise(7, 4)}, ["y"])[0].shape == (7, 3)


# --- CUDA ------------------------------------------------------------------------------------


class _Runtime:
    """An onnxruntime that knows CUDA by name and runs on the CPU all the same."""

    def __init__(self, known: list[str], used: list[str]) -> None:
        self._known, self._used = known, used
        self.preloaded = False
        self.error = ""
        self.options: list[Any] = []

    def get_available_providers(self) -> list[str]:
        return self._known

    def preload_dlls(self) -> None:
        self.preloaded = True

    def set_default_logger_severity(self, level: int) -> None:
        self.level = level

    def SessionOptions(self) -> Any:
        entries: dict[str, str] = {}
        options = SimpleNamespace(entries=entries, add_session_config_entry=entries.__setitem__)
        self.options.append(options)
        return options

    def InferenceSession(
        self, data: bytes, options: Any, providers: list[Any], enable_fallback: int
    ) -> Any:
        self.providers = providers
        if self.error:
            raise RuntimeError(self.error)
        assert enable_fallback == 0  # it goes on without CUDA, and prints a banner
        return SimpleNamespace(get_providers=lambda: self._used, get_outputs=list)


def test_cuda_that_the_wheel_lacks_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = _Runtime(["CPUExecutionProvider"], ["CPUExecutionProvider"])
    monkeypatch.setattr(sessions, "onnxruntime_module", lambda: runtime)
    for call in (check_device, lambda device: Session(ir.from_proto(mlp()), device)):
        with pytest.raises(BackendError, match=r"no CUDA provider; install \"onnx-ei\[gpu\]\""):
            call("cuda")


def test_cuda_that_falls_back_to_the_cpu_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = _Runtime(["CUDAExecutionProvider", "CPUExecutionProvider"], ["CPUExecutionProvider"])
    monkeypatch.setattr(sessions, "onnxruntime_module", lambda: runtime)
    with pytest.raises(BackendError, match=r"'cuda:1' was asked for.*runs on CPUExecutionProv"):
        Session(ir.from_proto(mlp()), "cuda:1")


@pytest.mark.parametrize(
    ("gpus", "error", "said"),
    [
        (["H100"], "Parse Failed to parse provider option",
         "device 'cuda:1' was asked for; CUDA sees 1 GPUs, from cuda:0 on: H100"),
        (["H100"] * 2, "FAIL : Exception during initialization: /src/cuda_call.cc:154 std::cond<T> "
         "CUDNN failure 1003: CUDNN_STATUS_ALLOC_FAILED ; GPU=1 ; hostname=h ; file=c.cc ; line=9",
         "refuses the model on 'cuda:1': CUDNN failure 1003: CUDNN_STATUS_ALLOC_FAILED; a GPU "
         "whose memory others have filled is one cause"),
        (["H100"] * 2, "no such operator\nat all",
         "refuses the model on 'cuda:1': no such operator$"),
    ],
)  # fmt: skip
def test_what_cuda_refuses_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, gpus: list[str], error: str, said: str
) -> None:
    """The errors are onnxruntime-gpu's own, as an H100 gave them."""
    runtime = _Runtime(["CUDAExecutionProvider"], [])
    runtime.error = error
    monkeypatch.setattr(sessions, "onnxruntime_module", lambda: runtime)
    monkeypatch.setattr(providers, "gpu_names", lambda: gpus)
    monkeypatch.setattr(providers, "driver_version", lambda: "13.0")
    with pytest.raises(BackendError, match=said) as caught:
        Session(ir.from_proto(mlp()), "cuda:1")
    assert "\n" not in str(caught.value)
    assert "hostname" not in str(caught.value)


def test_a_model_that_cannot_be_optimised_for_precise_sums_is_tried_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    class Refusing(_Runtime):
        def InferenceSession(self, data: bytes, options: Any, **more: Any) -> Any:
            asked.append(options.entries[sessions.PRECISE])
            if asked[-1] == "1":
                raise RuntimeError("no such kernel")
            return super().InferenceSession(data, options, **more)

    runtime = Refusing(["CPUExecutionProvider"], ["CPUExecutionProvider"])
    monkeypatch.setattr(sessions, "onnxruntime_module", lambda: runtime)
    assert Session(ir.from_proto(mlp())).provider == "CPUExecutionProvider"
    assert asked == ["1", "0"]


def test_cuda_is_asked_for_with_tf32_off(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = _Runtime(["CUDAExecutionProvider"], ["CUDAExecutionProvider"])
    monkeypatch.setattr(sessions, "onnxruntime_module", lambda: runtime)
    assert Session(ir.from_proto(mlp()), "cuda:1").provider == "CUDAExecutionProvider"
    name, settings = runtime.providers[0]
    assert name == "CUDAExecutionProvider"
    assert settings["device_id"] == "1"
    assert settings["use_tf32"] == "0"
    assert runtime.preloaded
    assert runtime.level == 3  # a warning of 1.31's, at each session, is not for users
    options = runtime.options[0]
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert options.entries["session.intra_op.allow_spinning"] == "0"


@pytest.mark.cuda
def test_cuda_gives_what_the_cpu_gives() -> None:
    x = noise(64, 4)
    values = [Session(ir.from_proto(mlp()), d).run({"x": x}, ["y"])[0] for d in ("cpu", "cuda")]
    np.testing.assert_allclose(*values, rtol=1e-5, atol=1e-5)


# --- the wheels ------------------------------------------------------------------------------


def _wheels(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def version(name: str) -> str:
        if name not in names:
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.2.3"

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_installed_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    _wheels(monkeypatch, "onnxruntime-gpu", "numpy")
    assert installed_wheels() == {"onnxruntime-gpu": "1.2.3"}


def test_both_wheels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _wheels(monkeypatch, "onnxruntime", "onnxruntime-gpu")
    match = r"onnxruntime 1\.2\.3 and onnxruntime-gpu 1\.2\.3 are both installed.*pip uninstall"
    for call in (onnxruntime_module, lambda: check_device("cpu")):
        with pytest.raises(MissingDependencyError, match=match):
            call()


def test_no_wheel_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    _wheels(monkeypatch)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    match = r"onnxruntime cannot be imported.*pip install \"onnx-ei\[cpu\]\""
    with pytest.raises(MissingDependencyError, match=match):
        Session(ir.from_proto(mlp()))
    with pytest.raises(ImportError, match=match):
        check_device("cpu")


# --- what goes wrong in a run ----------------------------------------------------------------


def test_a_graph_the_runtime_refuses_is_one_line() -> None:
    broken = make([node("NoSuchOperator", "x", "y")], {"x": ("N", 4)}, ["y"])
    with pytest.raises(BackendError, match=r"onnxruntime refuses the model: .*NoSuch") as caught:
        Session(ir.from_proto(broken))
    assert "\n" not in str(caught.value)


def test_a_failing_run_is_one_line() -> None:
    session = Session(ir.from_proto(mlp()))
    for feeds, outputs in (
        ({"x": noise(2, 5)}, ["y"]),  # another width
        ({"x": noise(2, 4).astype(np.float64)}, ["y"]),  # another element type
        ({"z": noise(2, 4)}, ["y"]),  # another name
        ({}, ["y"]),
        ({"x": noise(2, 4)}, ["nothing"]),
    ):
        with pytest.raises(BackendError, match="onnxruntime failed: ") as caught:
            session.run(feeds, outputs)
        assert "\n" not in str(caught.value)


def test_a_bound_run_sees_what_it_is_fed_where_binding_copies_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As it does where the input's buffer is on a GPU and its nodes on the CPU, or the reverse."""
    ort = sessions.onnxruntime_module()
    by_array, by_value = ort.IOBinding.bind_cpu_input, ort.IOBinding.bind_ortvalue_input

    def bind_array(self: Any, name: str, array: Any) -> None:
        by_array(self, name, array.copy())

    def bind_value(self: Any, name: str, value: Any) -> None:
        by_value(self, name, ort.OrtValue.ortvalue_from_numpy(value.numpy().copy()))

    monkeypatch.setattr(ort.IOBinding, "bind_cpu_input", bind_array)
    monkeypatch.setattr(ort.IOBinding, "bind_ortvalue_input", bind_value)
    session = Session(ir.from_proto(mlp()))
    run, _ = session.bound("x", noise(3, 4), "y")
    for seed in (1, 2):
        x = noise(3, 4, seed=seed)
        np.testing.assert_array_equal(run(x), session.run({"x": x}, ["y"])[0])


def test_inputs_need_not_be_contiguous() -> None:
    session, x = Session(ir.from_proto(mlp())), noise(4, 6)
    np.testing.assert_array_equal(
        session.run({"x": x.T}, ["y"])[0], session.run({"x": x.T.copy()}, ["y"])[0]
    )


def test_outputs_come_in_the_order_asked_for() -> None:
    model = make([node("Relu", "x", "a"), node("Neg", "x", "b")], {"x": ("N", 2)}, ["a", "b"])
    b, a = Session(ir.from_proto(model)).run({"x": noise(3, 2)}, ["b", "a"])
    np.testing.assert_array_equal(a, np.maximum(noise(3, 2), 0))
    np.testing.assert_array_equal(b, -noise(3, 2))


def test_strings_run() -> None:
    model = make([node("Identity", "x", "y")], {"x": (2,)}, {"y": (2,)}, dtype=TensorProto.STRING)
    result = Session(ir.from_proto(model)).run({"x": np.array(["a", "b"], object)}, ["y"])[0]
    assert result.tolist() == ["a", "b"]


# --- weights ---------------------------------------------------------------------------------


def _sum_model(weight: Any, dtype: ir.DataType) -> ir.Model:
    """y = x + float(w), for a weight of any element type."""
    n = len(weight)
    model = make(
        [node("Cast", "w", "c", to=TensorProto.FLOAT), node("Add", "x c", "y")],
        {"x": (1,)},
        {"y": (n,)},
        opset=21,
        ir_version=10,
    )
    loaded = ir.from_proto(model)
    value = ir.Value(name="w", shape=ir.Shape([n]), type=ir.TensorType(dtype))
    value.const_value = ir.tensor(weight, dtype=dtype, name="w")
    loaded.graph.initializers.add(value)
    loaded.graph[0].replace_input_with(0, value)
    return loaded


DTYPES = ["FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "INT64", "UINT8", "BOOL", "INT4", "UINT4"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("large", [False, True])
def test_weights_of_every_type(dtype: str, large: bool) -> None:
    kind = ir.DataType[dtype]
    n = EMBED_LIMIT + 1 if large else 10
    weight = (np.arange(n) % 7).astype(kind.numpy())
    model = _sum_model(weight, kind)
    result = Session(model).run({"x": np.ones(1, np.float32)}, ["y"])[0]
    np.testing.assert_array_equal(result, 1 + weight.astype(np.float32))
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), weight)


@pytest.mark.parametrize(("bytes_more", "shared"), [(-4, []), (0, []), (4, ["w"])])
def test_only_weights_above_the_limit_are_shared(bytes_more: int, shared: list[str]) -> None:
    weight = noise((EMBED_LIMIT + bytes_more) // 4)
    model = _sum_model(weight, ir.DataType.FLOAT)
    data, weights = sessions._serialise(onnxruntime_module(), model)
    assert list(weights) == shared
    assert (len(data) > EMBED_LIMIT // 2) == (not shared)
    result = Session(model).run({"x": np.zeros(1, np.float32)}, ["y"])[0]
    np.testing.assert_array_equal(result, weight)


def test_shared_weights_are_not_copied() -> None:
    weight = noise(EMBED_LIMIT)
    _, weights = sessions._serialise(onnxruntime_module(), _sum_model(weight, ir.DataType.FLOAT))
    assert weights["w"].data_ptr() == weight.ctypes.data


def test_a_model_is_as_before_when_serialising_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = noise(EMBED_LIMIT)
    model = _sum_model(weight, ir.DataType.FLOAT)
    before = model.graph.initializers["w"].const_value

    def fail(_: object) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr(ir, "to_proto", fail)
    with pytest.raises(RuntimeError, match="no room"):
        Session(model)
    assert model.graph.initializers["w"].const_value is before


def test_a_model_is_as_before_when_the_runtime_refuses_it() -> None:
    model = _sum_model(noise(EMBED_LIMIT), ir.DataType.FLOAT)
    before = model.graph.initializers["w"].const_value
    model.graph[1].op_type = "NoSuchOperator"
    with pytest.raises(BackendError, match="refuses"):
        Session(model)
    assert model.graph.initializers["w"].const_value is before


def test_an_initializer_without_data_is_named() -> None:
    model = _sum_model(noise(3), ir.DataType.FLOAT)
    model.graph.initializers["w"].const_value = None
    with pytest.raises(ModelError, match="initializer 'w' holds no data"):
        Session(model)


def test_weights_of_branches_are_kept() -> None:
    big = noise(1, EMBED_LIMIT)
    weight = helper.make_tensor("b", TensorProto.FLOAT, big.shape, big.ravel())
    branches = {
        name: helper.make_graph(
            [node(op, "b", f"{name}_out")],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, big.shape)],
            [weight],
        )
        for name, op in (("then_branch", "Identity"), ("else_branch", "Neg"))
    }
    model = make(
        [node("Cast", "x", "c", to=TensorProto.BOOL), node("If", "c", "y", **branches)],
        {"x": ()},
        ["y"],
    )
    session = Session(ir.from_proto(model))
    for x, expected in ((1, big), (0, -big)):
        np.testing.assert_array_equal(session.run({"x": np.float32(x)}, ["y"])[0], expected)


def test_large_weights_that_nothing_reads_do_no_harm() -> None:
    idle = noise(200, 200)
    assert idle.nbytes > EMBED_LIMIT
    weights = {"fc": noise(200, 200, seed=1), "idle": idle}
    model = ir.from_proto(make([node("MatMul", "x fc", "y")], {"x": ("N", 200)}, ["y"], weights))
    x = noise(2, 200, seed=2)
    (y,) = Session(model).run({"x": x}, ["y"])
    np.testing.assert_allclose(y, x @ weights["fc"], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(model.graph.initializers["idle"].const_value.numpy(), idle)


def test_text_that_comes_out_does_not_crash_the_process() -> None:
    nodes = [
        node("MatMul", "x fc", "h"),
        node("ArgMax", "h", "i", axis=1, keepdims=0),
        helper.make_node("ArrayFeatureExtractor", ["labels", "i"], ["y"], domain="ai.onnx.ml"),
    ]
    labels = helper.make_tensor("labels", TensorProto.STRING, [1, 2], [b"cat", b"dog"])
    weights = {"fc": np.array([[1, 0], [0, 1]], np.float32), "labels": labels}
    model = make(nodes, {"x": ("N", 2)}, ["y"], weights, domains={"ai.onnx.ml": 3})
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.STRING
    (y,) = Session(ir.from_proto(model)).run({"x": np.array([[0, 1]], np.float32)}, ["y"])
    assert y.tolist() == [["dog"]]
    assert list(topology_of(model)) == ["fc"]
