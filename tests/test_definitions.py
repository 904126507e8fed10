"""Values that only another version of the definitions may change.

A results file goes on where an earlier onnx_ei ended, and two files are merged, as long as
``DEFINITIONS`` is the same: the same parameters and seed must then give the same values. The table
in ``definitions.json`` holds a value of every measure, by every estimator and method. Where a
change of the code moves one of them on purpose:

1. raise ``DEFINITIONS`` in ``onnx_ei/provenance.py``, and say in CHANGELOG.md what changed;
2. write the table anew: ``python tests/test_definitions.py``.

The table cannot be written anew for the same number, nor does the test pass with another one.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import make, node

from onnx_ei.errors import OnnxEiWarning
from onnx_ei.estimators import ESTIMATORS
from onnx_ei.measures import measure
from onnx_ei.provenance import DEFAULTS, DEFINITIONS
from onnx_ei.topology import topology_of

TABLE = Path(__file__).with_name("definitions.json")
MEASURES = ("ei", "ei_parts", "ei_parts_matrix", "sensitivity", "sensitivity_matrix",
            "vector_and_pairwise_ei", "eis_between_groups", "degeneracy", "phi")  # fmt: skip
EXACT = ("ei_parts", "ei_parts_matrix", "sensitivity", "sensitivity_matrix")
SAMPLED: dict[str, Any] = {"method": "sample", "samples": 3000, "in_bins": 6, "out_bins": 5}


def model() -> onnx.ModelProto:
    """Two inputs, two outputs, weights that are powers of two.

    Every product is then exact and every sum is rounded once: all processors, with or without
    fused operations and in whatever order, give the same bits, and no sample changes its bin.
    """
    weights = {"fc": np.array([[1, 0.25], [-0.5, 1]], np.float32)}
    return make(
        [node("MatMul", "x fc", "h"), node("Relu", "h", "y")], {"x": ("N", 2)}, ["y"], weights
    )


def cases() -> dict[str, tuple[str, dict[str, Any]]]:
    """What is measured, by a name that stays."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for name in MEASURES:
        more = {"groups": [((0,), (0,)), ((0, 1), (1,))]} if "groups" in name else {}
        found[name] = (name, SAMPLED | more)
        found[f"{name}, seed 7"] = (name, SAMPLED | more | {"seed": 7})
        found[f"{name}, dynamic"] = (
            name,
            SAMPLED | more | {"out_range": "dynamic", "out_bins": "dynamic"},
        )
    for estimator in ESTIMATORS:
        for name in ("ei", "ei_parts"):
            found[f"{name}, {estimator}"] = (name, SAMPLED | {"estimator": estimator})
    for name in EXACT:
        found[f"{name}, exact"] = (name, {"method": "exact", "in_bins": 6, "out_bins": 5})
    for name in ("ei", "phi", "degeneracy"):
        found[f"{name}, all defaults but bins"] = (name, {"in_bins": 6, "out_bins": 5})
    found["degeneracy, against ei_parts"] = ("degeneracy", SAMPLED | {"against": "ei_parts"})
    found["ei_parts, no ranges"] = ("ei_parts", {"method": "sample", "samples": 3000})
    return found


def measured(name: str, options: dict[str, Any]) -> dict[str, list[float]]:
    """The value and its error, flat."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OnnxEiWarning)
        found = measure(name, "fc", topology_of(model()), **options)
    ends = {"value": found.value, "stderr": found.stderr}
    return {end: np.ravel(np.asarray(of, dtype=np.float64)).tolist() for end, of in ends.items()}


def table() -> dict[str, Any]:
    """What the table should hold."""
    values = {case: measured(*of) for case, of in cases().items()}
    return {"definitions": DEFINITIONS, "values": values}


def test_the_table_is_of_these_definitions() -> None:
    assert json.loads(TABLE.read_text())["definitions"] == DEFINITIONS, (
        "DEFINITIONS was changed: write the table anew (python tests/test_definitions.py)"
    )


def test_every_measure_and_estimator_is_in_the_table() -> None:
    assert set(json.loads(TABLE.read_text())["values"]) == set(cases())


@pytest.mark.parametrize("case", cases())
def test_a_value_changes_with_the_definitions_only(case: str) -> None:
    pinned = json.loads(TABLE.read_text())["values"][case]
    name, options = cases()[case]
    found = measured(name, options)
    # exact values are computed to their tolerance; the logarithm may differ in its last bit
    slack = 1e-10 if options.get("method") == "sample" else 1e-6
    for end, values in pinned.items():
        assert found[end] == pytest.approx(values, rel=1e-9, abs=slack), (
            f"{end} of {case} changed, and DEFINITIONS is {DEFINITIONS} as before: raise it in "
            "onnx_ei/provenance.py if that is meant (see the top of this file)"
        )


def test_a_new_argument_of_a_measure_is_no_accident() -> None:
    """All arguments are part of a result's key: with another one, files begun before don't resume.

    Unless ``check_options`` leaves it out where it has its default, as it does for ``tf32``.
    """
    assert set(DEFAULTS) == {
        "threshold", "samples", "extrapolate", "batch_size", "in_layer", "in_range", "in_bins",
        "out_range", "out_bins", "activation", "device", "groups", "against", "pvalues", "seed",
        "estimator", "method", "tolerance", "positions", "background", "max_samples",
        "memory_limit", "progress", "tf32",
    }  # fmt: skip


if __name__ == "__main__":
    new = table()
    if TABLE.exists():
        old = json.loads(TABLE.read_text())
        same = {case for case in old["values"] if old["values"][case] == new["values"].get(case)}
        if old["definitions"] == new["definitions"] and len(same) < len(old["values"]):
            changed = sorted(set(old["values"]) - same)
            sys.exit(f"values changed: raise DEFINITIONS first; {len(changed)}: {changed}")
    TABLE.write_text(json.dumps(new, indent=1) + "\n")
