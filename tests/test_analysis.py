"""A whole model: one row a layer, whatever the layer is."""

import json

import numpy as np
import pytest
from graphs import mixed_model, two_layer_model

from onnx_ei import analyze, measure, topology_of
from onnx_ei.analysis import describe, select_layers
from onnx_ei.errors import UnknownLayerError

OPTIONS = {"samples": 2000, "in_bins": 4, "out_bins": 4}

# the ranges here are the defaults, which drop samples, and 2000 samples are few: not the subject
pytestmark = pytest.mark.filterwarnings("ignore::onnx_ei.errors.OnnxEiWarning")


def test_every_layer_is_a_row_with_a_value_or_a_reason():
    topology = topology_of(mixed_model())
    found = analyze(topology, **OPTIONS)
    assert [row.layer for row in found.rows] == list(topology)
    for row in found.rows:
        assert (row.reason is None) == bool(row.measurements)
    reasons = {row.op_type: row.reason for row in found.rows if row.reason}
    assert list(reasons) == ["MatMulInteger"]
    assert "quantised integer" in reasons["MatMulInteger"]


def test_rows_say_what_the_topology_says():
    topology = topology_of(two_layer_model())
    first, second = describe(topology).rows
    assert (first.layer, first.op_type, first.kind) == ("fc1", "MatMul", "dense")
    assert (first.in_activation, first.out_activation) == (None, "Sigmoid")
    assert (first.in_shape, first.out_shape) == ((1, 3), (1, 4))
    assert (first.n_inputs, first.n_outputs, first.batched) == (3, 4, True)
    assert (second.in_activation, second.out_activation) == ("Sigmoid", None)
    assert not first.measurements


def test_measurements_are_those_of_the_single_calls():
    topology = topology_of(two_layer_model())
    names = ("ei", "ei_parts", "sensitivity", "degeneracy", "phi")
    found = analyze(topology, names, "fc2", **OPTIONS)
    (row,) = found.rows
    for name in names:
        alone = measure(name, "fc2", topology_of(two_layer_model()), **OPTIONS)
        assert row.measurements[name].value == alone.value
        assert row.measurements[name].stderr == alone.stderr
        assert row.measurements[name].n_samples == alone.n_samples


def test_automatic_sampling_stops_each_measure_where_it_would_alone():
    topology = topology_of(two_layer_model())
    names = ("ei", "ei_parts", "sensitivity")
    options = {"in_bins": 4, "out_bins": 4, "threshold": 0.02}
    (row,) = analyze(topology, names, "fc1", **options).rows
    for name in names:
        alone = measure(name, "fc1", topology, **options)
        together = row.measurements[name]
        assert (together.value, together.stderr) == (alone.value, alone.stderr)
        assert (together.n_samples, together.converged) == (alone.n_samples, alone.converged)


def test_input_range_reaches_only_the_layers_that_the_input_feeds():
    topology = topology_of(two_layer_model())
    first, second = analyze(topology, ["ei"], input_range=(0, 2), **OPTIONS).rows
    assert first.measurements["ei"].in_range == (0, 2)
    assert second.measurements["ei"].in_range == (0, 1)


def test_layers_by_pattern_in_graph_order():
    topology = topology_of(two_layer_model())
    assert select_layers(topology, None) == ["fc1", "fc2"]
    assert select_layers(topology, ["fc2", "fc1"]) == ["fc1", "fc2"]
    assert select_layers(topology, "*2") == ["fc2"]
    with pytest.raises(UnknownLayerError, match="no layer matches 'fc3'; did you mean 'fc"):
        select_layers(topology, "fc3")


def test_a_key_that_looks_like_a_pattern_is_found():
    topology = topology_of(two_layer_model(names=("block[0]", "block[1]")))
    assert select_layers(topology, "block[0]") == ["block[0]"]


def test_a_broken_layer_is_a_row_and_the_others_are_measured():
    weights = np.full((4, 2), np.nan, np.float32)
    found = analyze(two_layer_model(second=weights), ["ei"], **OPTIONS)
    first, second = found.rows
    assert first.measurements
    assert not first.broken
    assert second.broken
    assert "holds NaN" in str(second.reason)


def test_on_row_sees_each_row_as_it_is_done():
    seen = []
    found = analyze(two_layer_model(), ["ei"], on_row=seen.append, **OPTIONS)
    assert seen == list(found.rows)


def test_an_analysis_is_json():
    found = analyze(mixed_model(), ["ei", "phi"], **OPTIONS)
    read = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [row["layer"] for row in read["rows"]] == [row.layer for row in found.rows]
    value = read["rows"][0]["measurements"]["ei"]["value"]
    assert value == found.rows[0].measurements["ei"].value
