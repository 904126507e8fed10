"""The example input of a PyTorch export: sorted into arguments, widened, redrawn at random."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnx_ei.exporters._parity import Array, Case, first_line

if TYPE_CHECKING:
    import torch

__all__ = [
    "Example",
    "array_of",
    "cases",
    "doubled",
    "evaluating",
    "example_of",
    "leaves",
    "random_like",
    "run",
]


@dataclass(frozen=True, kw_only=True)
class Example:
    """The example input, sorted into the two ways of passing arguments."""

    args: tuple[torch.Tensor, ...] = ()
    kwargs: Mapping[str, torch.Tensor]

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All of them, positional ones first."""
        return [*self.args, *self.kwargs.values()]

    @property
    def batch(self) -> int | None:
        """The leading dimension, where all inputs that have one agree on it."""
        sizes = {t.shape[0] for t in self.tensors if t.dim() > 0}
        return int(sizes.pop()) if len(sizes) == 1 else None

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Example:
        """Give the example with each tensor changed."""
        return Example(
            args=tuple(change(t) for t in self.args),
            kwargs={name: change(t) for name, t in self.kwargs.items()},
        )


def example_of(model: torch.nn.Module, given: Any) -> Example:
    """Sort what the user gave into arguments, on the module's device and in its dtype."""
    import torch

    state = [*model.parameters(), *model.buffers()]
    device = state[0].device if state else torch.device("cpu")
    floats = [t.dtype for t in state if t.is_floating_point()]
    dtype = floats[0] if floats else torch.get_default_dtype()

    def tensor(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.detach().to(device)
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise TypeError(
                "input must be a tensor, an array of numbers, a tuple of them or a dict of them "
                f"by argument name; got {type(value).__name__}"
            )
        made = torch.as_tensor(array.copy(), device=device)
        return made.to(dtype) if array.dtype.kind == "f" else made

    if isinstance(given, Mapping):
        example = Example(kwargs={str(name): tensor(value) for name, value in given.items()})
    elif isinstance(given, tuple) or _holds_arrays(torch.Tensor, given):
        example = Example(args=tuple(tensor(value) for value in given), kwargs={})
    else:
        example = Example(args=(tensor(given),), kwargs={})
    if not example.tensors:
        raise TypeError("input is empty: give one example for each argument of forward")
    return example


def _holds_arrays(tensor_type: type, given: Any) -> bool:
    """Tell a list of inputs from a list of numbers."""
    return isinstance(given, list) and any(isinstance(v, tensor_type | np.ndarray) for v in given)


def doubled(tensor: torch.Tensor) -> torch.Tensor:
    """Repeat a batch of one."""
    return tensor.repeat(2, *[1] * (tensor.dim() - 1)) if tensor.dim() > 0 else tensor


def random_like(rng: np.random.Generator, batch: int | None, tensor: torch.Tensor) -> torch.Tensor:
    """Draw within the example's own range: an index stays valid, a log keeps its domain."""
    import torch

    shape = list(tensor.shape)
    if batch is not None and shape:
        shape[0] = batch
    low, high = (float(tensor.min()), float(tensor.max())) if tensor.numel() else (0.0, 0.0)
    drawn: Array
    if tensor.dtype == torch.bool:
        drawn = rng.integers(0, 2, shape)
    elif not tensor.is_floating_point():
        drawn = rng.integers(int(low), int(high) + 1, shape)
    elif low < high:
        drawn = rng.uniform(low, high, shape)
    else:
        drawn = rng.standard_normal(shape)
    return torch.as_tensor(drawn).to(dtype=tensor.dtype, device=tensor.device)


def leaves(output: Any) -> list[torch.Tensor]:
    """List the tensors of a module's output in the order in which the exporter writes them."""
    import torch

    if isinstance(output, torch.Tensor):
        return [output]
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, list | tuple):
        return [leaf for part in output for leaf in leaves(part)]
    return []


def array_of(tensor: torch.Tensor) -> Array:
    """Give a tensor's values to numpy."""
    import torch

    plain = tensor.detach().cpu()
    if plain.dtype == torch.bfloat16:  # numpy has none of its own, and torch does not know ours
        bits = plain.contiguous().view(torch.int16).numpy()
        return np.asarray(bits.view(ir.DataType.BFLOAT16.numpy()))
    return np.asarray(plain.numpy())


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Put a module into eval mode; afterwards each submodule gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def run(model: torch.nn.Module, example: Example, which: str = "the example input") -> Any:
    """Call a module, and say what it failed on."""
    try:
        return model(*example.args, **example.kwargs)
    # A module's forward is the user's code: it can raise anything.
    except Exception as error:
        shapes = ", ".join(f"{tuple(t.shape)} {t.dtype}" for t in example.tensors)
        raise ValueError(
            f"{type(model).__name__} fails on {which} ({shapes}): {first_line(error)}; "
            "pass an example that its forward accepts"
        ) from error


def cases(model: torch.nn.Module, example: Example, free: bool) -> Iterator[Case]:
    """Give random inputs with the module's outputs, at the example's batch and at one more."""
    rng = np.random.default_rng(0)
    batch = example.batch
    for size in (batch, batch + 1) if free and batch else (None,):
        drawn = example.map(partial(random_like, rng, size))
        outputs = [array_of(tensor) for tensor in leaves(run(model, drawn, "random input"))]
        named = {name: array_of(tensor) for name, tensor in drawn.kwargs.items()}
        yield named or [array_of(tensor) for tensor in drawn.args], outputs
