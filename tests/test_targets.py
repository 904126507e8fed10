"""What is measured of a model: layers by pattern, and spans by their ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from graphs import make, mixed_model, mlp, node, noise

from onnx_ei import UnknownLayerError, analyze
from onnx_ei.analysis import describe
from onnx_ei.targets import Target, named_spans, targets
from onnx_ei.topology import topology_of

QUICK: dict[str, Any] = {"samples": 1000, "in_bins": 4, "out_bins": 4}

pytestmark = pytest.mark.filterwarnings("ignore::onnx_ei.errors.OnnxEiWarning")


def chain(*names: str) -> onnx.ModelProto:
    """Dense layers of three units, one after the other, whose weights have these names."""
    ends = [f"x{index}" for index in range(len(names) + 1)]
    nodes = [
        onnx.helper.make_node("MatMul", [ends[index], name], [ends[index + 1]])
        for index, name in enumerate(names)
    ]
    return make(nodes, {"x0": ("N", 3)}, ends[-1:], {name: noise(3, 3) for name in names})


def spans_of(model: onnx.ModelProto, *spans: Any) -> list[Target]:
    return [of for of in targets(topology_of(model), spans=spans) if of.span is not None]


class TestNames:
    def test_the_text_is_the_name_unless_there_is_one(self) -> None:
        spans = named_spans(["a:b", "all=a:c", ("b", "c")])
        assert [span.name for span in spans] == ["a:b", "all", "b:c"]
        assert [span.ends for span in spans] == [(("a", "b"),), (("a", "c"),), (("b", "c"),)]
        assert named_spans("a:b") == named_spans({"a:b": ("a", "b")})
        assert named_spans(named_spans(["a:b"])) == named_spans("a:b")
        assert named_spans(None) == ()

    @pytest.mark.parametrize("given", ["a", ":", "a:", ":b", "=a:b", "all=a", ("a", "b"), [("a",)]])
    def test_what_is_no_pair_is_refused(self, given: Any) -> None:
        with pytest.raises(ValueError, match=r"a span is a pair of layers: FIRST:LAST or NAME=F"):
            named_spans(given)

    def test_two_of_one_name_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"two spans have the name 'x'; name one of them"):
            named_spans(["x=a:b", "x=a:c"])


class TestEnds:
    def test_keys_with_colons_and_slashes(self) -> None:
        model = chain("net/fc:1", "net/fc:2", "net/fc:3")
        (found,) = spans_of(model, "net/fc:1:net/fc:3")
        assert (found.in_layer, found.layer) == ("net/fc:1", "net/fc:3")
        (found,) = spans_of(model, "all=net/fc:2:net/fc:3")
        assert (found.in_layer, found.layer, found.span) == ("net/fc:2", "net/fc:3", "all")

    def test_patterns_that_match_one_layer_each(self) -> None:
        (found,) = spans_of(mlp(), "*1:*2")
        assert (found.in_layer, found.layer, found.reason) == ("fc1", "fc2", None)

    def test_a_key_goes_before_a_pattern(self) -> None:
        (found,) = spans_of(chain("a", "b*", "b2"), "a:b*")
        assert (found.layer, found.reason) == ("b*", None)

    def test_text_that_can_be_read_in_two_ways_is_a_row_that_says_so(self) -> None:
        model = chain("a", "b:c", "a:b", "c")
        (found,) = spans_of(model, "a:b:c")
        assert found.reason == (
            "its ends may be 2 pairs of layers: a to b:c, a:b to c; give keys, or patterns that "
            "match one layer each"
        )
        (found,) = spans_of(model, ("a:b", "c"))
        assert (found.in_layer, found.layer, found.reason) == ("a:b", "c", None)

    def test_ends_that_are_not_there_are_named(self) -> None:
        with pytest.raises(
            UnknownLayerError, match=r"span 'fc1:fc9': no layer matches 'fc9'; did you mean"
        ):
            spans_of(mlp(), "fc1:fc9")
        assert targets(topology_of(mlp()), spans="x:y", strict=False) == [
            Target(layer="fc1"), Target(layer="fc2"),
        ]  # fmt: skip

    def test_they_come_after_the_layers_by_name(self) -> None:
        found = targets(topology_of(mlp()), "fc2", spans=["b=fc1:fc2", "a=fc1:fc1"])
        assert [(of.layer, of.span) for of in found] == [("fc2", None), ("fc1", "a"), ("fc2", "b")]


class TestRows:
    def test_are_what_measure_gives_between_the_layers(self) -> None:
        found = analyze(mlp(), ["ei", "phi"], spans=["net=fc1:fc2"], **QUICK)
        assert [(row.layer, row.span) for row in found.rows] == [
            ("fc1", None), ("fc2", None), ("fc2", "net"),
        ]  # fmt: skip
        row = found.rows[-1]
        alone = analyze(mlp(), ["ei", "phi"], "fc2", in_layer="fc1", **QUICK).rows[0]
        for name, measured in row.measurements.items():
            assert measured.value == alone.measurements[name].value
            assert (measured.in_layer, measured.layer) == ("fc1", "fc2")
        assert (row.kind, row.in_layer, row.layer_id, row.name) == ("span", "fc1", None, "net")
        assert (row.n_inputs, row.n_outputs) == (
            found.rows[0].n_inputs, found.rows[1].n_outputs,
        )  # fmt: skip
        assert (row.in_shape, row.out_shape) == (found.rows[0].in_shape, found.rows[1].out_shape)

    def test_the_range_of_the_input_is_for_spans_that_it_feeds(self) -> None:
        found = analyze(
            mlp(), ["ei"], spans=["net=fc1:fc2", "end=fc2:fc2"], input_range=(0, 5), **QUICK
        )
        ends = {row.name: row.measurements["ei"].in_range for row in found.rows}
        assert ends["fc1"] == ends["net"] == (0, 5)
        assert ends["fc2"] == ends["end"] != (0, 5)

    def test_what_cannot_be_measured_is_a_row_with_its_reason(self) -> None:
        found = analyze(mixed_model(), ["ei"], spans=["back=fc:pool", "q=pool:quantised"], **QUICK)
        back, quantised = found.rows[-2:]
        assert (back.status, quantised.status) == ("unmeasurable", "unmeasurable")
        assert "does not come after in_layer" in str(back.reason)
        assert quantised.reason == found.rows[-3].reason
        wide = analyze(mlp(), ["ei"], spans="x=fc*:fc2", **QUICK).rows[-1]
        assert (wide.status, wide.span, wide.in_layer) == ("unmeasurable", "x", "fc*")

    def test_of_several_models_those_that_have_it(self) -> None:
        found = analyze([mlp(), chain("a", "b")], ["ei"], spans=["fc1:fc2"], **QUICK)
        assert [row.span for row in found.rows] == [None, None, "fc1:fc2", None, None]
        for exclude in (None, "*"):
            with pytest.raises(
                UnknownLayerError, match="span 'fc1:b': no model has both of its ends"
            ):
                analyze([mlp(), chain("a", "b")], ["ei"], spans="fc1:b", exclude=exclude, **QUICK)

    def test_describe_lists_them_with_their_ranges_and_costs(self) -> None:
        found = describe(topology_of(mlp()), spans="net=fc1:fc2", samples=1000, bins=(4, 4))
        first, last, net = found.rows
        assert (net.in_range, net.out_range) == (first.in_range, last.out_range)
        assert net.costs["ei_parts"].seconds > 0
        # nothing of a span of several layers is computed in closed form, as far as is known before
        assert "counting" in net.costs["ei_parts"].parts
        assert "computing" in last.costs["ei_parts"].parts


def test_layers_of_one_table(tmp_path: Any) -> None:
    found = analyze(mlp(), ["ei"], spans=["net=fc1:fc2", "a=fc1:fc1"], **QUICK)
    records = found.to_records()
    assert [record["span"] for record in records] == [None, None, "a", "net"]
    assert [record["in_layer"] for record in records] == [None, None, "fc1", "fc1"]
    assert [record["layer_id"] for record in records] == [0, 1, None, None]
    (summed,) = found.summary()
    assert (summed["layers"], summed["spans"], summed["measured"]) == (2, 2, 4)
    values = [row.measurements["ei"].value for row in found.rows[:2]]
    assert summed["ei"] == pytest.approx(np.mean(values))  # type: ignore[arg-type]
    found.to_jsonl(tmp_path / "r.jsonl")
    back = type(found).load(tmp_path / "r.jsonl")
    assert [row.to_dict() for row in back.rows] == [row.to_dict() for row in found.rows]
    assert [row.to_dict() for row in back.merge(found).rows] == [r.to_dict() for r in found.rows]
    compared = found.compare(analyze(mlp("Sigmoid"), ["ei"], spans=["net=fc1:fc2"], **QUICK))
    assert [(r["layer"], r["span"], r["status_b"]) for r in compared.to_records()] == [
        ("fc1", None, "measured"), ("fc2", None, "measured"),
        (None, "a", None), (None, "net", "measured"),
    ]  # fmt: skip


def test_a_node_without_a_name() -> None:
    model = make([node("MatMul", "x w", "y")], {"x": ("N", 3)}, ["y"], {"w": noise(3, 3)})
    assert [of.layer for of in targets(topology_of(model))] == ["w"]
