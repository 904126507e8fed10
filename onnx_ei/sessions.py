"""onnxruntime sessions: which provider really runs, and one bound call.

Every session is made here, the same way for every device: single-threaded on the CPU (the work is
spread over chunks, not inside an operator, so that no sum depends on the number of threads), no
spinning, TF32 off unless asked for, the provider checked after creation, inputs and outputs bound.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_ei.devices import PROVIDERS, parse_device
from onnx_ei.errors import BackendError, ModelError
from onnx_ei.providers import (
    first_line,
    onnxruntime_module,
    providers_for,
    refusal,
    why_not,
)

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

__all__ = [
    "BoundRun",
    "Session",
    "check_device",
]

# Weights above this many bytes reach onnxruntime as they lie in memory (or in the mapped file)
# instead of being copied into a serialised model, which protobuf limits to 2 GB.
EMBED_LIMIT = 1 << 16


def check_device(device: object) -> None:
    """Run one number on a device: refuse it before any work is done.

    Raises
    ------
    BackendError
        If CUDA is asked for and not to be had.
    MissingDependencyError
        If onnxruntime is missing, or installed twice.
    ValueError
        If it is not a device.
    """
    import onnx_ir as ir_module

    one = ir_module.val("x", ir_module.DataType.FLOAT, [1])
    node = ir_module.node("Identity", [one])
    node.outputs[0].name, node.outputs[0].type = "y", one.type
    graph = ir_module.Graph(
        [one], [node.outputs[0]], nodes=[node], opset_imports={"": 18}, name="one number"
    )
    Session(ir_module.Model(graph, ir_version=10), device).run({"x": np.ones(1, np.float32)}, ["y"])


class Session:
    """One onnxruntime session on one device.

    Parameters
    ----------
    model : onnx_ir.Model
        What to run; its large weights are shared with the session, not copied into a file.
    device : str or torch.device
        ``'cpu'``, ``'cuda'`` or ``'cuda:N'``.

    Attributes
    ----------
    device : Device
        The same.
    provider : str
        The execution provider that runs it, read back from the session.
    place : (str, int)
        Where its inputs and outputs are bound.

    Raises
    ------
    BackendError
        If CUDA is asked for and not to be had, or onnxruntime refuses the model.
    MissingDependencyError
        If onnxruntime is missing, or installed twice.
    """

    def __init__(self, model: ir.Model, device: object = "cpu") -> None:
        ort = onnxruntime_module()
        self.device = parse_device(device)
        providers = providers_for(ort, self.device)
        options = _options(ort)
        data, self._weights = _serialise(ort, model)
        if self._weights:
            options.add_external_initializers(list(self._weights), list(self._weights.values()))
        with warnings.catch_warnings():
            # onnxruntime warns and goes on without a provider that it lacks; here that is an error
            warnings.simplefilter("ignore", UserWarning)
            try:
                # without its fallback, which goes on without CUDA and prints a banner
                try:
                    self._session = ort.InferenceSession(
                        data, options, providers=providers, enable_fallback=0
                    )
                except Exception:
                    # onnxruntime 1.32 cannot optimise every model so, as of signed tables
                    options.add_session_config_entry(PRECISE, "0")
                    self._session = ort.InferenceSession(
                        data, options, providers=providers, enable_fallback=0
                    )
            except Exception as error:  # onnxruntime's exceptions share no base of their own
                raise BackendError(refusal(ort, self.device, error)) from error
        self.provider = str(self._session.get_providers()[0])
        if self.provider != PROVIDERS[self.device.kind]:
            raise BackendError(
                f"device {str(self.device)!r} was asked for, but the session runs on "
                f"{self.provider}; {why_not(ort, self.device)}"
            )
        self.place = (self.device.kind, self.device.number)
        self._bindable = {v.name for v in self._session.get_outputs() if v.type in _BINDABLE}

    @property
    def nodes(self) -> dict[str, dict[str, int]] | None:
        """How many nodes of which operator run on which provider; None where nothing tells.

        onnxruntime tells from 1.24 on, of the graph as it is cut up between the providers: later
        it may still fuse nodes.
        """
        assigned = getattr(self._session, "get_provider_graph_assignment_info", None)
        if assigned is None:
            return None
        found: dict[str, Counter[str]] = {}
        for part in assigned():
            kinds = found.setdefault(str(part.ep_name), Counter())
            kinds.update(str(node.op_type) for node in part.get_nodes())
        return {provider: dict(sorted(kinds.items())) for provider, kinds in found.items()}

    @property
    def cpu_nodes(self) -> dict[str, int] | None:
        """How many nodes of which operator a GPU left to the CPU; None where nothing tells."""
        if self.device.kind == "cpu":
            return {}
        nodes = self.nodes
        return None if nodes is None else nodes.get(PROVIDERS["cpu"], {})

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Run once, inputs and outputs bound to the device.

        Parameters
        ----------
        feeds : mapping of str to ndarray
            Every input by name, in the dtype that the model declares.
        outputs : sequence of str
            The outputs wanted, by name.

        Returns
        -------
        list of ndarray
            In the order of ``outputs``, on the host.

        Raises
        ------
        BackendError
            If onnxruntime fails; its own message is kept.
        """
        text_in = any(array.dtype.kind in "OUS" for array in feeds.values())
        try:
            if text_in or not self._bindable.issuperset(outputs):
                # text cannot be bound, and an output of text or of a sequence crashes the process
                # when it is copied
                return list(self._session.run(list(outputs), dict(feeds)))
            binding = self._session.io_binding()
            for name, array in feeds.items():
                binding.bind_cpu_input(name, np.ascontiguousarray(array))
            for name in outputs:
                # the runtime allocates: output shapes may depend on the data
                binding.bind_output(name, *self.place)
            self._session.run_with_iobinding(binding)
            return list(binding.copy_outputs_to_cpu())
        except Exception as error:  # onnxruntime's exceptions share no base of their own
            raise BackendError(f"onnxruntime failed: {first_line(error)}") from error

    def bound(self, name: str, feed: NDArray[Any], output: str) -> tuple[BoundRun, NDArray[Any]]:
        """Run once; return a function of arrays like this one, whose result has a buffer.

        Parameters
        ----------
        name, output : str
            The only input that is fed, and the only output that is wanted.
        feed : ndarray
            An array of the shape and the dtype of every array to come.

        Returns
        -------
        run : BoundRun
            The function.
        first : ndarray
            What this array gives.

        Raises
        ------
        BackendError
            If onnxruntime fails.
        """
        (first,) = self.run({name: feed}, [output])
        return BoundRun(self, name, feed, output, first), first


class BoundRun:
    """Runs of one shape, whose result is written into one buffer on the host.

    Not for two threads at once: each needs its own.

    Parameters
    ----------
    session, name, feed, output
        As for :meth:`Session.bound`.
    result : ndarray
        What this array gives.
    """

    def __init__(
        self,
        session: Session,
        name: str,
        feed: NDArray[Any],
        output: str,
        result: NDArray[Any],
    ) -> None:
        self._session, self._name, self._output = session, name, output
        self._like = (feed.shape, feed.dtype)
        self._binding: Any = None
        if feed.dtype.kind in _PLAIN and result.dtype.kind in _PLAIN:
            self._bind(result)

    def _bind(self, result: NDArray[Any]) -> None:
        self._out = onnxruntime_module().OrtValue.ortvalue_from_shape_and_type(
            result.shape, result.dtype.type
        )
        self._binding = self._session._session.io_binding()
        self._binding.bind_ortvalue_output(self._output, self._out)

    def takes(self, feed: NDArray[Any]) -> bool:
        """Whether an array is like the first one."""
        return (feed.shape, feed.dtype) == self._like

    def __call__(self, feed: NDArray[Any]) -> NDArray[Any]:
        """Run once.

        Parameters
        ----------
        feed : ndarray
            Like the first one.

        Returns
        -------
        ndarray
            On the host. It may be the buffer itself: the next run writes over it.

        Raises
        ------
        BackendError
            If onnxruntime fails.
        """
        if self._binding is None:
            return self._session.run({self._name: feed}, [self._output])[0]
        try:
            # Anew for every run: binding is what copies an input to where its nodes are, on the GPU
            # or, those that it leaves to it, on the CPU; what is written later into a buffer that
            # is bound is not copied again. On the CPU the array itself is read.
            self._binding.bind_cpu_input(self._name, np.ascontiguousarray(feed))
            self._session._session.run_with_iobinding(self._binding)
            found: NDArray[Any] = self._out.numpy()
        except Exception as error:  # onnxruntime's exceptions share no base of their own
            raise BackendError(f"onnxruntime failed: {first_line(error)}") from error
        return found


PRECISE = "session.x64quantprecision"
"""Without it, a processor without VNNI adds products of unsigned by signed bytes in 16 bits, where
they saturate: a sum of a small layer was off by a tenth, in silence."""
_PLAIN = "fiub"
"""Kinds of dtypes that are NumPy's own: bfloat16 is not."""
_BINDABLE = frozenset(
    f"tensor({kind})"
    for kind in (
        "float", "double", "float16", "bfloat16", "bool", "int8", "int16", "int32", "int64",
        "uint8", "uint16", "uint32", "uint64",
    )
)  # fmt: skip


def _options(ort: ModuleType) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # which node runs where: a list that is kept, and costs nothing that could be measured
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.add_session_config_entry(PRECISE, "1")
    options.log_severity_level = 4  # an error comes back as an exception, which may be expected
    return options


def _serialise(ort: ModuleType, model: ir.Model) -> tuple[bytes, dict[str, Any]]:
    """Serialise all but the large weights; those go to the session as they lie in memory."""
    import onnx_ir as ir_module
    from onnx import TensorProto

    initializers = model.graph.initializers
    kept = {n: _data(v) for n, v in initializers.items()}
    # onnxruntime drops what nothing reads, and then misses it when its data is handed over; a
    # value's own list of uses still names the nodes of branches that are gone
    nodes = ir_module.traversal.RecursiveGraphIterator(model.graph)
    read = {id(v) for node in nodes for v in node.inputs} | {id(v) for v in model.graph.outputs}
    idle = {name for name, value in initializers.items() if id(value) not in read}
    large = {n: t for n, t in kept.items() if n not in idle and _is_large(t)}
    try:
        for name, tensor in kept.items():
            if name in idle or name in large:
                initializers[name].const_value = ir_module.tensor(np.zeros(0, np.uint8), name=name)
            elif isinstance(tensor, ir_module.ExternalTensor):
                # the session is made of bytes: there is no file beside them
                initializers[name].const_value = ir_module.Tensor(
                    tensor.numpy(), dtype=tensor.dtype, name=name
                )
        proto = ir_module.to_proto(model)
    finally:
        for name, tensor in kept.items():
            initializers[name].const_value = tensor
    for entry in proto.graph.initializer:
        if entry.name in large:
            name, tensor = entry.name, large[entry.name]
            entry.Clear()
            entry.name, entry.data_type = name, int(tensor.dtype)
            entry.dims.extend(int(d) for d in tensor.shape.numpy())
            entry.data_location = TensorProto.EXTERNAL
            location = entry.external_data.add()
            location.key, location.value = "location", "memory"
    for index in reversed(range(len(proto.graph.initializer))):
        if proto.graph.initializer[index].name in idle:
            del proto.graph.initializer[index]
    weights = {}
    for name, tensor in large.items():
        array = np.ascontiguousarray(tensor.numpy())
        weights[name] = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, int(tensor.dtype))
    return proto.SerializeToString(), weights


def _data(value: ir.Value) -> ir.TensorProtocol:
    if value.const_value is None:
        raise ModelError(f"initializer {value.name!r} holds no data")
    return value.const_value


def _is_large(tensor: ir.TensorProtocol) -> bool:
    # 4-bit tensors are unpacked by numpy and strings are not one buffer: both stay in the file
    whole_bytes = not tensor.dtype.is_string() and tensor.dtype.bitwidth >= 8
    return whole_bytes and tensor.nbytes > EMBED_LIMIT
