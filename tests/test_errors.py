from __future__ import annotations

import pickle

import pytest

from onnx_ei import errors
from onnx_ei.errors import closest

KINDS = {
    errors.ModelError: ValueError,
    errors.UnknownLayerError: KeyError,
    errors.UnboundedSpanError: ValueError,
    errors.UnsupportedModelError: ValueError,
    errors.BackendError: RuntimeError,
    errors.MissingDependencyError: ImportError,
}


@pytest.mark.parametrize(("kind", "builtin"), KINDS.items())
def test_kinds_are_the_builtin_a_user_would_catch(
    kind: type[Exception], builtin: type[Exception]
) -> None:
    assert issubclass(kind, errors.OnnxEiError)
    with pytest.raises(builtin, match="what failed"):
        raise kind("what failed")
    assert str(kind("what failed")) == "what failed"


@pytest.mark.parametrize("kind", KINDS)
def test_errors_travel_between_processes(kind: type[Exception]) -> None:
    again = pickle.loads(pickle.dumps(kind('it\'s "quoted"')))
    assert type(again) is kind
    assert str(again) == 'it\'s "quoted"'


def test_an_empty_unknown_layer_error_has_an_empty_message() -> None:
    assert str(errors.UnknownLayerError()) == ""


@pytest.mark.parametrize(
    "kind", [errors.OutOfRangeWarning, errors.UndersampledWarning, errors.NotConvergedWarning]
)
def test_warnings_share_a_base(kind: type[Warning]) -> None:
    assert issubclass(kind, errors.OnnxEiWarning)
    assert issubclass(kind, UserWarning)


def test_every_public_name_exists() -> None:
    assert sorted(errors.__all__) == errors.__all__
    assert all(hasattr(errors, name) for name in errors.__all__)


@pytest.mark.parametrize(
    ("name", "known", "said"),
    [
        ("sigmod", ["tanh", "sigmoid"], "did you mean 'sigmoid'?"),
        ("RELU", ["Tanh", "Relu"], "did you mean 'Relu'?"),
        ("zzz", ["a", "b"], "known: 'a', 'b'"),
        ("zzz", [], "there are none"),
        ("conv", [f"conv{i}" for i in range(9)], "did you mean 'conv8', 'conv7', 'conv6'?"),
        ("q", range(15), "known: " + ", ".join(f"'{i}'" for i in range(12)) + " and 3 more"),
    ],
)
def test_closest(name: str, known: list[object], said: str) -> None:
    assert closest(name, known) == said


def test_closest_takes_what_is_no_string() -> None:
    assert closest(10, ["100", "x"]) == "did you mean '100'?"  # type: ignore[arg-type]
