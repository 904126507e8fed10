"""A PyTorch module -> its graph, its modules by node, and its weights as they are now.

What :func:`onnx_ei.topology_of` does with a module: one export, in memory and without folding, so
that the weights can go on changing and every node still knows the module that it is part of.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnx_ei._graph.live import Reading
from onnx_ei.errors import ModelError
from onnx_ei.exporters._example import array_of, example_of
from onnx_ei.exporters.from_torch import evaluating, export_program, run

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

__all__ = ["Trace", "trace"]

_SCOPES = "pkg.torch.onnx.name_scopes"


@dataclass(frozen=True, kw_only=True, eq=False)
class Trace:
    """A module, exported.

    Attributes
    ----------
    module : torch.nn.Module
        The module.
    program : onnx_ir.Model
        Its graph; parameters and buffers are initializers under their ``state_dict`` names.
    example : dict of str to ndarray
        The example input by the graph's input names.
    weights : tuple of str
        The initializers that are parameters or buffers.
    """

    module: torch.nn.Module
    program: ir.Model
    example: dict[str, Any]
    weights: tuple[str, ...]

    def read(self, name: str) -> Reading:
        """Return a parameter or buffer as it is now."""
        import torch

        path, _, attribute = name.rpartition(".")
        try:
            tensor = getattr(self.module.get_submodule(path), attribute)
        except AttributeError:
            tensor = None
        if not isinstance(tensor, torch.Tensor):
            raise ModelError(
                f"weight {name!r} is gone from {type(self.module).__name__}; call topology_of again"
            )
        plain = tensor.detach().cpu().contiguous()
        data = plain.reshape(-1).view(torch.uint8).numpy()
        return Reading(data, tuple(plain.shape), str(plain.dtype))

    def path_of(self, node: ir.Node | None) -> str | None:
        """Return the path of the innermost module that a node is part of; "" is the root."""
        scopes = re.findall(
            r"'([^']*)'", "" if node is None else node.metadata_props.get(_SCOPES, "")
        )
        # the last scope is the operator itself
        return str(scopes[-2]) if len(scopes) > 1 and self._has(scopes[-2]) else None

    def _has(self, path: str) -> bool:
        try:
            self.module.get_submodule(path)
        except AttributeError:
            return False
        return True

    def keys(
        self, nodes: Sequence[ir.Node], weights: Sequence[str | None], labels: Sequence[str]
    ) -> list[Hashable]:
        """Return the modules that layers are.

        Parameters
        ----------
        nodes : sequence of onnx_ir.Node
            The layers' operators, in the order in which they run.
        weights : sequence of str or None
            The names of their weights.
        labels : sequence of str
            Unique names, for operators that are not a module of their own.

        Returns
        -------
        list
            The module; ``(module, 2)`` and so on where it runs again; the label where an operator
            is not all that its module does.
        """
        paths = [self.path_of(node) for node in nodes]
        held = defaultdict(set)
        for path, weight in zip(paths, weights, strict=True):
            held[path].add(weight)
        calls: Counter[str] = Counter()
        keys: list[Hashable] = []
        for path, label in zip(paths, labels, strict=True):
            module = None if path is None else self.module.get_submodule(path)
            if path is None or module is None or len(held[path]) > 1 or _has_children(module):
                keys.append(label)
                continue
            calls[path] += 1
            keys.append(module if calls[path] == 1 else (module, calls[path]))
        return keys

    def activation(self, node: ir.Node | None, layers: Sequence[ir.Node]) -> torch.nn.Module | None:
        """Return the module that an activation is, or None where it is a function.

        Parameters
        ----------
        node : onnx_ir.Node or None
            The last operator of the activation.
        layers : sequence of onnx_ir.Node
            The layers: a module that holds one is no activation.
        """
        path = self.path_of(node)
        if path is None or path in {self.path_of(layer) for layer in layers}:
            return None
        module = self.module.get_submodule(path)
        return None if _has_children(module) else module


def _has_children(module: torch.nn.Module) -> bool:
    return any(True for _ in module.children())


def trace(module: torch.nn.Module, input: Any) -> Trace:
    """Export a module in memory.

    Parameters
    ----------
    module : torch.nn.Module
        In any mode, on any device; both are left as they are.
    input : tensor, array, tuple or dict of them
        An example input.

    Returns
    -------
    Trace

    Raises
    ------
    TypeError
        If the input is no tensor, array, tuple or dict of them.
    ValueError
        If the module fails on it.
    UnsupportedModelError
        If the module cannot be exported; it is named, with the remedy.
    """
    import torch

    example = example_of(module, input)
    with evaluating(module), torch.no_grad():
        run(module, example)
        program, _, _ = export_program(module, example, optimize=False)
    names = [str(value.name) for value in program.graph.inputs]
    given = dict(zip(names, example.args, strict=False))
    given |= {n: t for n, t in example.kwargs.items() if n in names}
    for name, tensor in zip(names, example.tensors, strict=False):
        given.setdefault(name, tensor)
    state = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    state |= {name for name, _ in module.named_buffers(remove_duplicate=False)}
    return Trace(
        module=module,
        program=program,
        example={name: array_of(given[name]) for name in names if name in given},
        weights=tuple(n for n in program.graph.initializers if n in state),
    )
