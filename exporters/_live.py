"""A PyTorch module -> its graph, its modules by node, and its weights as they are now.

What :func:`onnx_ei.topology_of` does with a module: one export, in memory and without folding, so
that the weights can go on changing and every node still knows the module that it is part of.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

from onnx_ei._graph.live import Reading
from onnx_ei._graph.operators import KEEPING
from onnx_ei.errors import ModelError
from onnx_ei.exporters._example import array_of, cases, evaluating, example_of, run
from onnx_ei.exporters._parity import check_parity
from onnx_ei.exporters._programs import Exported, export_program, warn_of_legacy

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
    modules : dict of str to torch.nn.Module
        The modules by path when it was exported; one may have several paths.
    tied : dict of str to tuple of str
        All names of a parameter or buffer that had more than one, under each of them.
    """

    module: torch.nn.Module
    program: ir.Model
    example: dict[str, Any]
    weights: tuple[str, ...]
    modules: dict[str, torch.nn.Module]
    tied: dict[str, tuple[str, ...]]

    def read(self, name: str) -> Reading:
        """Return a parameter or buffer as it is now.

        Raises
        ------
        ModelError
            If it is gone, is no longer the one that its other names mean, or belongs to a module
            that has been replaced.
        """
        import torch

        tensor = self._tensor(name)
        for other in self.tied.get(name, ()):
            # the graph has one initializer for both
            now = self._tensor(other)
            if now is not tensor and not torch.equal(now, tensor):
                raise ModelError(
                    f"weights {name!r} and {other!r} were one when topology_of saw them and are "
                    "two now; call topology_of again"
                )
        plain = tensor.detach().cpu().contiguous()
        data = plain.reshape(-1).view(torch.uint8).numpy()
        return Reading(data, tuple(plain.shape), str(plain.dtype))

    def _tensor(self, name: str) -> torch.Tensor:
        import torch

        path, _, attribute = name.rpartition(".")
        try:
            # part by part: a TorchScript module has no get_submodule
            owner: Any = reduce(getattr, path.split(".") if path else (), self.module)
            tensor = getattr(owner, attribute)
        except AttributeError:
            owner = tensor = None
        kind = type(self.module).__name__
        if not isinstance(tensor, torch.Tensor):
            raise ModelError(f"weight {name!r} is gone from {kind}; call topology_of again")
        if owner is not self.modules[path]:
            raise ModelError(
                f"{kind} has another module at {path!r} than when topology_of saw it; "
                "call topology_of again"
            )
        return tensor

    def path_of(self, node: ir.Node | None) -> str | None:
        """Return the path of the innermost module that a node is part of; "" is the root."""
        scopes = re.findall(
            r"'([^']*)'", "" if node is None else node.metadata_props.get(_SCOPES, "")
        )
        # the last scope is the operator itself
        return str(scopes[-2]) if len(scopes) > 1 and scopes[-2] in self.modules else None

    def module_of(self, node: ir.Node | None) -> torch.nn.Module | None:
        """Return the innermost module that a node is part of."""
        path = self.path_of(node)
        return None if path is None else self.modules[path]

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
        modules = [self.module_of(node) for node in nodes]
        held = defaultdict(set)
        for module, weight in zip(modules, weights, strict=True):
            # a module of two names has two for its weight as well
            held[module].add(self.tied[weight][0] if weight in self.tied else weight)
        calls: Counter[torch.nn.Module] = Counter()
        keys: list[Hashable] = []
        for module, label in zip(modules, labels, strict=True):
            if module is None or len(held[module]) > 1 or _has_children(module):
                keys.append(label)
                continue
            calls[module] += 1
            keys.append(module if calls[module] == 1 else (module, calls[module]))
        return keys

    def activation(self, output: ir.Value, layers: Sequence[ir.Node]) -> torch.nn.Module | None:
        """Return the module that an activation is, or None where it is a function.

        Parameters
        ----------
        output : onnx_ir.Value
            The activated tensor.
        layers : sequence of onnx_ir.Node
            The layers: a module that holds one is no activation.
        """
        module = self.module_of(output.producer())
        if module is None or _has_children(module):
            return None
        if module in {self.module_of(layer) for layer in layers}:
            return None
        return None if self._goes_on(output, module) else module

    def _goes_on(self, value: ir.Value, module: torch.nn.Module) -> bool:
        """Say whether a module computes something else from a value."""
        inside = [use.node for use in value.uses() if self.module_of(use.node) is module]
        return any(
            node.op_type not in KEEPING or self._goes_on(node.outputs[0], module) for node in inside
        )


def _has_children(module: torch.nn.Module) -> bool:
    # a parametrized weight (weight_norm, say) does not make another module of its owner
    return any(name != "parametrizations" for name, _ in module.named_children())


def _tied(module: torch.nn.Module) -> dict[str, tuple[str, ...]]:
    """Group the names of parameters and buffers that have more than one."""
    names: dict[int, list[str]] = defaultdict(list)
    # all at once: a TorchScript module makes its tensors anew, and an id is used again
    state = list(_state(module))
    for name, tensor in state:
        names[id(tensor)].append(name)
    return {name: tuple(group) for group in names.values() if len(group) > 1 for name in group}


def _state(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _check_recorded(module: torch.nn.Module, found: Exported) -> None:
    """Compare a recorded program with the module: nothing proves that they are the same."""
    import onnx_ir as ir

    data = ir.to_proto(found.program).SerializeToString()
    wanted = cases(module, found.example, found.reason is None)
    check_parity(data, type(module).__name__, wanted, "export it by other means and pass its path")
    warn_of_legacy(module, found)


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
        found = export_program(module, example, optimize=False)
        program = found.program
        if found.exporter == "legacy":
            _check_recorded(module, found)
    names = [str(value.name) for value in program.graph.inputs]
    given = dict(zip(names, example.args, strict=False))
    given |= {n: t for n, t in example.kwargs.items() if n in names}
    for name, tensor in zip(names, example.tensors, strict=False):
        given.setdefault(name, tensor)
    state = {name for name, _ in _state(module)}
    return Trace(
        module=module,
        program=program,
        example={name: array_of(given[name]) for name in names if name in given},
        weights=tuple(n for n in program.graph.initializers if n in state),
        modules=dict(module.named_modules(remove_duplicate=False)),
        tied=_tied(module),
    )
