"""What is measured of a model: its layers, and spans between two of them that have a name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

import networkx as nx

from onnx_ei.errors import UnknownLayerError, closest
from onnx_ei.topology import layer_of

__all__ = ["NamedSpan", "Spans", "Target", "check_spans", "named_spans", "select_layers", "targets"]

Ends: TypeAlias = "str | tuple[str, str]"
Spans: TypeAlias = "str | Iterable[Ends | NamedSpan] | Mapping[str, Ends]"
"""``"first:last"`` or ``"name=first:last"``; several of these or of pairs of keys; or by name."""


@dataclass(frozen=True, kw_only=True)
class NamedSpan:
    """From the input of one layer to the output of another, in whatever model.

    Attributes
    ----------
    name : str
        What its rows are called.
    ends : tuple of (str, str)
        Keys or patterns of the two layers; several where the text can be read in several ways,
        which the keys of a model decide.
    """

    name: str
    ends: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Target:
    """One thing to measure: a layer, or a named span.

    Attributes
    ----------
    layer : str
        The key of the layer that ends it.
    in_layer : str or None
        The key of the layer that begins a span.
    span : str or None
        The span's name; None of a layer.
    reason : str or None
        Why it cannot be measured, where its ends cannot be told.
    """

    layer: str
    in_layer: str | None = None
    span: str | None = None
    reason: str | None = None


def select_layers(
    topology: nx.DiGraph[Any],
    layers: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    *,
    strict: bool = True,
) -> list[str]:
    """Return the names of the layers that match any of some patterns, in graph order.

    Parameters
    ----------
    topology : networkx.DiGraph
        From :func:`onnx_ei.topology_of`.
    layers : str or iterable of str, optional
        Keys or shell patterns (``"layer1.*"``); all layers by default.
    exclude : str or iterable of str, optional
        Keys or patterns of layers to leave out of those.
    strict : bool
        Whether a pattern that matches nothing is an error.

    Raises
    ------
    UnknownLayerError
        If a pattern matches nothing; the closest keys are named.
    """
    keys = [layer_of(topology, key).label for key in topology]
    chosen = set(keys) if layers is None else _matching(keys, layers, strict)
    if exclude is not None:
        chosen -= _matching(keys, exclude, strict)
    return [k for k in keys if k in chosen]


def targets(
    topology: nx.DiGraph[Any],
    layers: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    spans: Spans | None = None,
    *,
    strict: bool = True,
) -> list[Target]:
    """Return what is to be measured of a model: layers in graph order, then spans by name.

    Parameters
    ----------
    topology, layers, exclude, strict
        As for :func:`select_layers`.
    spans : str, or iterable of str or (str, str), or mapping, optional
        As for :func:`named_spans`.

    Raises
    ------
    UnknownLayerError
        If a pattern matches nothing, or a span has no such ends.
    ValueError
        As :func:`named_spans`.
    """
    keys = select_layers(topology)
    wanted = named_spans(spans)
    found = [target for span in wanted if (target := _found(span, keys)) is not None]
    if strict:
        check_spans(wanted, (target.span for target in found), keys)
    chosen = select_layers(topology, layers, exclude, strict=strict)
    return [Target(layer=key) for key in chosen] + sorted(found, key=lambda of: str(of.span))


def named_spans(given: Spans | None) -> tuple[NamedSpan, ...]:
    """Read spans as they are given.

    Parameters
    ----------
    given : str, or iterable of str or (str, str), or mapping, optional
        ``"first:last"`` or ``"name=first:last"``, keys or patterns of two layers; a pair of keys;
        by name in a mapping. Without a name, ``first:last`` is the name.

    Raises
    ------
    ValueError
        If one is no pair, or two have one name.

    Examples
    --------
    >>> [span.name for span in named_spans(["all=conv1:fc2", "conv1:conv2", ("fc1", "fc2")])]
    ['all', 'conv1:conv2', 'fc1:fc2']
    >>> named_spans({"all": "a:b:c"})[0].ends
    (('a', 'b:c'), ('a:b', 'c'))
    """
    if given is None:
        return ()
    spans: list[NamedSpan] = []
    if isinstance(given, Mapping):
        spans = [_span(str(name), ends) for name, ends in given.items()]
    else:
        spans = [_given(item) for item in ([given] if isinstance(given, str) else given)]
    names = [span.name for span in spans]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two spans have the name {name!r}; name one of them NAME=FIRST:LAST")
    return tuple(spans)


def check_spans(
    wanted: Iterable[NamedSpan], found: Iterable[str | None], keys: Iterable[str]
) -> None:
    """Refuse spans that are in no model.

    Parameters
    ----------
    wanted : iterable of NamedSpan
        What was asked for.
    found : iterable of str
        The names of those that there are.
    keys : iterable of str
        Of the layers that there are.

    Raises
    ------
    UnknownLayerError
        If one is not among those found; the closest keys are named.
    """
    known, there = list(dict.fromkeys(keys)), set(found)
    for span in wanted:
        if span.name not in there:
            ends = dict.fromkeys(end for pair in span.ends for end in pair)
            lost = next((end for end in ends if not _matches(known, end)), "")
            why = f"no layer matches {lost!r}; {closest(lost, known)}"
            raise UnknownLayerError(
                f"span {span.name!r}: {why if lost else 'no model has both of its ends'}"
            )


def _given(item: Any) -> NamedSpan:
    if isinstance(item, NamedSpan):
        return item
    if isinstance(item, str):
        name, separator, ends = item.partition("=")
        return _span(name, ends) if separator else _span(item, item)
    return _span(":".join(map(str, item)), item)


def _span(name: str, ends: Any) -> NamedSpan:
    wanted = "FIRST:LAST or NAME=FIRST:LAST is needed, keys or patterns of two layers"
    if isinstance(ends, str):
        parts = ends.split(":")
        cuts = ((":".join(parts[:n]), ":".join(parts[n:])) for n in range(1, len(parts)))
        read = [(first, last) for first, last in cuts if first and last]
    else:
        pair = tuple(map(str, ends))
        read = [(pair[0], pair[1])] if len(pair) == 2 else []
    if not read or not name:
        raise ValueError(f"a span is a pair of layers: {wanted}, got {ends!r}")
    return NamedSpan(name=name, ends=tuple(read))


def _found(span: NamedSpan, keys: list[str]) -> Target | None:
    """Find a span's ends among a model's layers; None where it has none of that kind."""
    exact = [pair for pair in span.ends if set(pair) <= set(keys)]
    pairs = [
        (first, last)
        for one, other in exact or span.ends
        for first in _matches(keys, one)
        for last in _matches(keys, other)
    ]
    if len(pairs) == 1:
        return Target(layer=pairs[0][1], in_layer=pairs[0][0], span=span.name)
    if not pairs:
        return None
    shown = ", ".join(f"{first} to {last}" for first, last in pairs[:3]) + (
        " ..." if len(pairs) > 3 else ""
    )
    return Target(
        layer=span.ends[0][1],
        in_layer=span.ends[0][0],
        span=span.name,
        reason=f"its ends may be {len(pairs)} pairs of layers: {shown}; give keys, or patterns "
        "that match one layer each",
    )


def _matches(keys: Iterable[str], pattern: str) -> list[str]:
    """Return the key that a pattern is, or else those that it matches."""
    return [pattern] if pattern in keys else [key for key in keys if fnmatchcase(key, pattern)]


def _matching(keys: list[str], patterns: str | Iterable[str], strict: bool) -> set[str]:
    found: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        # a key may hold the characters of a pattern itself
        matching = {k for k in keys if k == pattern or fnmatchcase(k, pattern)}
        if strict and not matching:
            raise UnknownLayerError(f"no layer matches {pattern!r}; {closest(pattern, keys)}")
        found |= matching
    return found
