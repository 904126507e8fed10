"""The scikit-learn exporter: what the layers are called, what is mended, how it refuses."""

from __future__ import annotations

import doctest
import importlib
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import require_peer
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import BaggingClassifier, IsolationForest, RandomForestClassifier
from sklearn.linear_model import LinearRegression, RidgeClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline, make_union
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler
from sklearn.svm import SVC

from onnx_ei import measure, topology_of
from onnx_ei.errors import MissingDependencyError, ModelError, UnsupportedModelError
from onnx_ei.exporters import export_sklearn
from onnx_ei.exporters._parity import check_parity

require_peer("skl2onnx")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4)).astype(np.float32)
CLASSES = np.digitize(X[:, 0] + X[:, 1], [-0.5, 0.5])


def fitted(model, y=CLASSES):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few iterations: they do not converge
        return model.fit(X, y)


def classifier(*hidden, y=CLASSES, **options):
    return fitted(MLPClassifier(hidden, max_iter=3, random_state=0, **options), y)


def regressor(*hidden, y=X[:, 0], **options):
    return fitted(MLPRegressor(hidden_layer_sizes=hidden, max_iter=3, random_state=0, **options), y)


def run(path, x):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {session.get_inputs()[0].name: x}), strict=True))


def shapes(path):
    graph = onnx.load(path).graph
    return {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.output]
    }


def layers(path):
    topology = topology_of(str(path))
    return {key: data["output"]["activation"] for key, data in topology.nodes(data=True)}


@pytest.mark.parametrize(
    ("activation", "found"),
    [("relu", "Relu"), ("tanh", "Tanh"), ("logistic", "Sigmoid"), ("identity", None)],
)
def test_layers_are_called_by_their_place_and_activations_are_found(tmp_path, activation, found):
    model = classifier(5, 6, activation=activation)
    path = export_sklearn(model, X, tmp_path / "m.onnx")

    assert path == tmp_path / "m.onnx"
    assert layers(path) == {"hidden1": found, "hidden2": found, "output": None}
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    for name, weight, bias in zip(layers(path), model.coefs_, model.intercepts_, strict=True):
        np.testing.assert_allclose(weights[f"{name}.weight"], weight, rtol=1e-6)
        np.testing.assert_allclose(weights[f"{name}.bias"].ravel(), bias, rtol=1e-6)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx"]


def test_no_node_of_a_layer_is_called_by_another_operator(tmp_path):
    path = export_sklearn(classifier(5), X, tmp_path / "m.onnx")
    names = {node.name: node.op_type for node in onnx.load(path).graph.node}
    assert names["/output/Softmax"] == "Softmax"
    assert all(name.endswith(op) for name, op in names.items() if name.startswith("/"))


def test_free_batch_plain_probabilities_and_the_same_numbers(tmp_path):
    model = classifier(5)
    path = export_sklearn(model, X[:1], tmp_path / "m.onnx")

    assert shapes(path) == {"X": ["batch", 4], "label": ["batch"], "probabilities": ["batch", 3]}
    onnx.checker.check_model(path, full_check=True)
    got = run(path, X)
    np.testing.assert_array_equal(got["label"], model.predict(X))
    np.testing.assert_allclose(got["probabilities"], model.predict_proba(X), atol=1e-5)


@pytest.mark.parametrize(
    ("y", "units", "activation", "label"),
    [
        (CLASSES == 1, 1, "Sigmoid", ["batch"]),
        (np.eye(3, dtype=int)[CLASSES], 3, "Sigmoid", ["batch", 3]),
    ],
)
def test_two_classes_and_several_labels(tmp_path, y, units, activation, label):
    path = export_sklearn(classifier(5, y=y), X, tmp_path / "m.onnx")
    output = topology_of(str(path)).nodes["output"]["output"]
    assert output["shape"] == (1, units)
    assert output["activation"] == activation
    assert shapes(path)["label"] == label


def test_classes_may_be_text(tmp_path):
    model = classifier(5, y=np.array(["low", "mid", "high"])[CLASSES])
    path = export_sklearn(model, X, tmp_path / "m.onnx")
    np.testing.assert_array_equal(run(path, X)["label"], model.predict(X))


def test_classes_of_text_are_compared(tmp_path):
    model = classifier(5, y=np.array(["low", "mid", "high"])[CLASSES])
    path = export_sklearn(model, X, tmp_path / "m.onnx")
    labels, scores = model.predict(X), model.predict_proba(X)
    check_parity(path, "net", [([X], [labels, scores])])
    labels[:2] = "none"
    with pytest.raises(ModelError, match=r"output 0 of net differs .* in 2 of 60 labels"):
        check_parity(path, "net", [([X], [labels, scores])])


@pytest.mark.parametrize("n_outputs", [1, 2, 3])
def test_a_regressor_of_several_outputs_keeps_its_columns(tmp_path, n_outputs):
    model = regressor(5, y=X[:, 0] if n_outputs == 1 else X[:, :n_outputs])
    path = export_sklearn(model, X, tmp_path / "m.onnx")
    assert shapes(path)["variable"] == ["batch", n_outputs]
    expected = model.predict(X).reshape(len(X), n_outputs)
    np.testing.assert_allclose(run(path, X)["variable"], expected, atol=1e-5)


def test_skl2onnx_alone_loses_the_columns():
    """The mend above is worth something only while skl2onnx gets this wrong."""
    import skl2onnx

    program = skl2onnx.to_onnx(regressor(5, y=X[:, :3]), X[:1])
    session = ort.InferenceSession(program.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"X": X})[0].shape == (len(X) * 3, 1)


@pytest.mark.parametrize("scaler", [StandardScaler, MinMaxScaler, RobustScaler])
def test_pipelines_with_scalers(tmp_path, scaler):
    model = fitted(make_pipeline(scaler(), MLPClassifier((5,), max_iter=3, random_state=0)))
    path = export_sklearn(model, X, tmp_path / "m.onnx")
    assert layers(path) == {"hidden1": "Relu", "output": None}
    np.testing.assert_allclose(run(path, X)["probabilities"], model.predict_proba(X), atol=1e-5)


def test_steps_that_mix_are_called_by_their_name(tmp_path):
    net = MLPClassifier((5,), max_iter=3, random_state=0)
    path = export_sklearn(
        fitted(Pipeline([("scale", StandardScaler()), ("main-axes", PCA(2)), ("net", net)])),
        X,
        tmp_path / "m.onnx",
    )
    assert list(layers(path)) == ["main_axes", "hidden1", "output"]
    union = make_pipeline(make_union(StandardScaler(), PCA(2)), net)
    path = export_sklearn(fitted(union), X, tmp_path / "m.onnx")
    assert list(layers(path)) == ["featureunion.pca", "hidden1", "output"]
    path = export_sklearn(fitted(PCA(2)), X, tmp_path / "m.onnx")
    assert list(layers(path)) == ["pca"]


def test_several_networks_are_told_apart(tmp_path):
    bag = BaggingClassifier(MLPClassifier((5,), max_iter=3), 2, random_state=0)
    path = export_sklearn(fitted(bag), X, tmp_path / "m.onnx")
    assert sorted(layers(path)) == [
        f"estimator{i}.{layer}" for i in (0, 1) for layer in ("hidden1", "output")
    ]


def test_layers_of_equal_weights_are_told_apart(tmp_path):
    model = regressor(4, 4, 4, activation="tanh")
    for index in (1, 2):
        model.coefs_[index] = np.eye(4)
        model.intercepts_[index] = np.zeros(4)
    path = export_sklearn(model, X, tmp_path / "m.onnx")
    assert len(layers(path)) == 4
    assert {"hidden1", "output"} < set(layers(path))


@pytest.mark.parametrize(
    "model",
    [
        ColumnTransformer([("a", StandardScaler(), [0, 1]), ("b", MinMaxScaler(), [2, 3])]),
        SVC(),
        RidgeClassifier(),
        LinearRegression(),
        KMeans(2, n_init=1, random_state=0),
        IsolationForest(n_estimators=3, random_state=0),
        RandomForestClassifier(3, max_depth=2, random_state=0),
    ],
    ids=lambda model: type(model).__name__,
)
@pytest.mark.parametrize("two", [True, False])
def test_whatever_else_skl2onnx_converts(tmp_path, model, two):
    path = export_sklearn(fitted(model, CLASSES == 1 if two else CLASSES), X, tmp_path / "m.onnx")
    assert shapes(path)["X"] == ["batch", 4]
    topology_of(str(path))


def test_a_layer_measures_as_the_estimator_computes(tmp_path):
    """A unit that copies its input: information is the input's entropy."""
    model = regressor(4, activation="identity")
    model.coefs_[0] = np.eye(4)
    model.intercepts_[0] = np.zeros(4)
    path = export_sklearn(model, X, tmp_path / "m.onnx")
    found = measure("ei_parts", "hidden1", topology_of(str(path)), samples=4000, in_bins=8,
                    out_bins=8)  # fmt: skip
    assert found.value == pytest.approx(4 * 3, abs=0.1)


def test_two_exports_are_the_same_bytes_and_name_no_path(tmp_path):
    files = [export_sklearn(classifier(5), X, tmp_path / name).read_bytes() for name in "ab"]
    assert files[0] == files[1]
    for leak in (Path(__file__), Path.cwd(), Path(sys.prefix), tmp_path):
        assert str(leak).encode() not in files[0]


def test_opset(tmp_path):
    path = export_sklearn(classifier(5), X, tmp_path / "m.onnx", opset=15)
    (version,) = {o.version for o in onnx.load(path).opset_import if o.domain == ""}
    assert version <= 15
    with pytest.raises(ValueError, match=r"from 13 to \d+.*got 9"):
        export_sklearn(classifier(5), X, tmp_path / "n.onnx", opset=9)


class Doubler(TransformerMixin, BaseEstimator):
    """A step that skl2onnx has never seen."""

    def fit(self, x, y=None):
        self.fitted_ = True
        return self

    def transform(self, x):
        return 2 * x


def test_what_skl2onnx_cannot_say(tmp_path):
    model = make_pipeline(Doubler(), MLPClassifier((5,), max_iter=3))
    with pytest.raises(UnsupportedModelError, match=r"Pipeline cannot be exported.*Doubler"):
        export_sklearn(fitted(model), X, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


class Moody(MLPRegressor):
    """A regressor that is not what its weights say."""

    def predict(self, x):
        return super().predict(x) + 1


def test_a_file_that_does_something_else_is_not_written(tmp_path):
    import skl2onnx
    from skl2onnx.common.shape_calculator import calculate_linear_regressor_output_shapes
    from skl2onnx.operator_converters.multilayer_perceptron import (
        convert_sklearn_mlp_regressor,
    )

    skl2onnx.update_registered_converter(
        Moody, "Moody", calculate_linear_regressor_output_shapes, convert_sklearn_mlp_regressor
    )
    (tmp_path / "m.onnx").write_text("an earlier file")
    model = fitted(Moody(hidden_layer_sizes=(3,), max_iter=3), X[:, 0])
    with pytest.raises(ModelError, match=r"output 0 of Moody.*differs.*no file was written"):
        export_sklearn(model, X, tmp_path / "m.onnx")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["an earlier file"]
    export_sklearn(model, X, tmp_path / "m.onnx", check=False)
    assert list(layers(tmp_path / "m.onnx")) == ["hidden1", "output"]


def test_wrong_arguments(tmp_path):
    path, model = tmp_path / "m.onnx", classifier(5)
    with pytest.raises(TypeError, match="fitted scikit-learn estimator, got the class MLPClass"):
        export_sklearn(MLPClassifier, X, path)
    with pytest.raises(TypeError, match="fitted scikit-learn estimator, got function"):
        export_sklearn(lambda x: x, X, path)
    with pytest.raises(ValueError, match=r"MLPClassifier is not fitted.*call fit"):
        export_sklearn(MLPClassifier(), X, path)
    for wrong in ("x", X[0], X[:0], [["a", "b"]], None):
        with pytest.raises(TypeError, match="input must be a table of numbers"):
            export_sklearn(model, wrong, path)
    with pytest.raises(ValueError, match=r"MLPClassifier fails on the input.*\(1, 3\)"):
        export_sklearn(model, X[:1, :3], path)
    with pytest.raises(FileNotFoundError, match=r"folder .* does not exist; create it"):
        export_sklearn(model, X, tmp_path / "none" / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("package", "extra"),
    [
        ("sklearn", "onnx-ei[sklearn]"),
        ("skl2onnx", "onnx-ei[sklearn]"),
        ("onnxruntime", "onnx-ei[cpu]"),
    ],
)
def test_missing_packages_are_named_with_their_extra(tmp_path, monkeypatch, package, extra):
    model = classifier(5)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=re.escape(f'pip install "{extra}"')):
        export_sklearn(model, X, tmp_path / "m.onnx")


def test_docstrings_run():
    module = importlib.import_module("onnx_ei.exporters.from_sklearn")
    assert doctest.testmod(module).failed == 0
