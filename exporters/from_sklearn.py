"""scikit-learn to ONNX: networks and the pipelines around them, layers named by what they are.

The file is written by ``skl2onnx``. What this module adds: plain probabilities instead of a list of
dicts, a named free batch, layers called ``hidden1``, ``hidden2``, ``output`` (skl2onnx calls a
Softmax ``Relu2``), and outputs that have been compared with the estimator's own.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnx_ei.errors import UnsupportedModelError
from onnx_ei.exporters._parity import Array, Case, check_parity, first_line
from onnx_ei.exporters._sklearn_names import mend_outputs, name_layers
from onnx_ei.exporters._writing import (
    check_folder,
    clean,
    name_batch,
    need,
    replacing,
    unique_names,
)

__all__ = ["export_sklearn"]

MIN_OPSET = 13
"""The first in which the axes of Squeeze and ReduceSum are inputs: the form that is read here."""

ML_OPSET = 3
"""The newest that every converter of skl2onnx 1.20 writes: an isolation forest refuses 4."""

MAX_ROWS = 100
"""Of the example, for the comparison."""


def export_sklearn(
    model: Any,
    input: Any,
    path: str | os.PathLike[str],
    *,
    opset: int | None = None,
    check: bool = True,
) -> Path:
    """Write a fitted scikit-learn estimator as an ONNX file that onnx_ei can measure.

    Parameters
    ----------
    model : sklearn.base.BaseEstimator
        A fitted ``MLPClassifier``, ``MLPRegressor``, a ``Pipeline`` that ends in one, or anything
        else that skl2onnx converts.
    input : array-like, shape (n_rows, n_features)
        Some rows of numbers that it accepts; they become float32. Several rows make the comparison
        better: the random rows are drawn from their values, column by column.
    path : str or os.PathLike
        Where the file goes. Its folder must exist; a file of that name is replaced, and only once
        the new one is complete.
    opset : int, optional
        Version of the default operator set, from 13. Default: skl2onnx's own choice.
    check : bool, default True
        Compare the file's outputs in onnxruntime with the estimator's before returning, on the
        example and on random rows.

    Returns
    -------
    pathlib.Path
        The file written. The layers of an MLP are ``hidden1``, ``hidden2`` ... and ``output``, a
        PCA is ``pca``; where there are several, and in a pipeline of more than one network, the
        step's name goes before (``a.hidden1``). Classifiers give ``label`` and ``probabilities``.

    Raises
    ------
    TypeError
        If ``model`` is no estimator, or ``input`` no table of numbers.
    ValueError
        If ``opset`` is out of range, the estimator is not fitted, or it fails on ``input``.
    FileNotFoundError
        If the folder of ``path`` does not exist.
    MissingDependencyError
        If scikit-learn, skl2onnx, or for the check onnxruntime, is not installed.
    UnsupportedModelError
        If skl2onnx cannot express the estimator in ONNX, or there is nothing to compare with.
    ModelError
        If the file's outputs differ from the estimator's. No file is left then.

    Notes
    -----
    The file computes in float32. Numbers agree when
    ``|onnx - sklearn| <= 1e-6 + 1e-4 * max|sklearn|``, labels when they are equal. skl2onnx 1.20
    writes a wrong shape for an ``MLPRegressor`` of several outputs; it is put right.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from sklearn.neural_network import MLPRegressor
    >>> x = np.linspace(-1, 1, 40).reshape(20, 2)
    >>> net = MLPRegressor(hidden_layer_sizes=3, solver="lbfgs", max_iter=500).fit(x, x[:, 0])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export_sklearn(net, x, f"{folder}/net.onnx").name
    'net.onnx'
    """
    need("export_sklearn", {"sklearn": "onnx-ei[sklearn]", "skl2onnx": "onnx-ei[sklearn]"})
    if check:
        otherwise = "or pass check=False to skip the comparison"
        need("export_sklearn", {"onnxruntime": "onnx-ei[cpu]"}, otherwise)
    path = check_folder(path)
    _validate(model, opset)
    rows = _rows(input)
    made = _outputs(model, rows)
    program = _convert(model, rows[:1], opset)
    expected = _by_output(program, model, made)
    name_layers(program, model)
    mend_outputs(
        program, {name: a.shape[1:] for name, a in expected.items() if len(a) == len(rows)}
    )
    clean(program)
    name_batch(program)
    unique_names(program.graph)
    with replacing(path) as file:
        onnx.save(program, file)
        if check:
            check_parity(file, type(model).__name__, _cases(model, rows, program))
    return path


def _validate(model: Any, opset: int | None) -> None:
    from skl2onnx import get_latest_tested_opset_version
    from sklearn.base import BaseEstimator
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    if not isinstance(model, BaseEstimator):
        given = model.__name__ if isinstance(model, type) else type(model).__name__
        kind = "the class " if isinstance(model, type) else ""
        raise TypeError(f"model must be a fitted scikit-learn estimator, got {kind}{given}")
    latest = get_latest_tested_opset_version()
    if opset is not None and not MIN_OPSET <= opset <= latest:
        raise ValueError(
            f"opset must be from {MIN_OPSET} to {latest}, or None for skl2onnx's own choice; "
            f"got {opset!r}"
        )
    try:
        check_is_fitted(model)
    except NotFittedError:
        raise ValueError(
            f"{type(model).__name__} is not fitted: it has no weights yet; call fit first"
        ) from None


def _rows(given: Any) -> Array:
    """Give the example as a table of float32."""
    array: Array
    try:
        array = np.asarray(given, dtype=np.float32)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.ndim != 2 or not array.size:
        raise TypeError(
            "input must be a table of numbers, shape (n_rows, n_features), with one row at least; "
            f"got {type(given).__name__} of shape {np.shape(array)}"
        )
    return array[:MAX_ROWS]


def _convert(model: Any, row: Array, opset: int | None) -> onnx.ModelProto:
    import skl2onnx
    from sklearn.base import is_classifier

    opsets = {"": opset or skl2onnx.get_latest_tested_opset_version(), "ai.onnx.ml": ML_OPSET}
    # A list of one dict a row, the default of some classifiers, is no tensor; others have not heard
    # of the option and raise NameError.
    plain: dict[str, bool] = {"zipmap": False}
    for options in [plain, None] if is_classifier(model) else [None]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made: onnx.ModelProto = skl2onnx.to_onnx(
                    model, row, options=options, target_opset=opsets
                )
            return made
        # Converters are many, and what they raise is of every kind.
        except Exception as error:
            if isinstance(error, NameError) and "zipmap" in str(error) and options is plain:
                continue
            raise UnsupportedModelError(
                f"{type(model).__name__} cannot be exported to ONNX: {first_line(error)}; leave "
                "out the step that skl2onnx has no converter for (columns are selected by number, "
                "not by name)"
            ) from error
    raise UnsupportedModelError(f"{type(model).__name__} cannot be exported to ONNX")


def _outputs(model: Any, rows: Array, which: str = "the input") -> dict[str, Array]:
    """Give what the estimator makes of some rows, by the names that skl2onnx gives the outputs."""
    from sklearn.base import is_classifier, is_outlier_detector

    try:
        # Fitted on a data frame, an estimator warns that an array has no column names.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            if is_classifier(model):
                named = {"label": model.predict(rows), "probabilities": _scores(model, rows)}
            elif is_outlier_detector(model):
                column = model.predict(rows).reshape(-1, 1)
                named = {"label": column, "scores": model.decision_function(rows)}
            elif hasattr(model, "predict") and hasattr(model, "transform"):
                named = {"label": model.predict(rows), "scores": model.transform(rows)}
            else:
                run = model.predict if hasattr(model, "predict") else model.transform
                named = {"variable": run(rows)}
    # A pipeline may hold the user's own steps: they can raise anything.
    except Exception as error:
        raise ValueError(
            f"{type(model).__name__} fails on {which}, float32 of shape {rows.shape}: "
            f"{first_line(error)}; pass several rows that it accepts"
        ) from error
    return {name: _plain(name, value) for name, value in named.items()}


def _scores(model: Any, rows: Array) -> Any:
    if hasattr(model, "predict_proba"):
        return model.predict_proba(rows)
    scores = np.asarray(model.decision_function(rows))
    last = model[-1] if hasattr(model, "steps") else model
    # skl2onnx gives both sides of a support vector machine's one, but not of other models'
    both = scores.ndim == 1 and hasattr(last, "support_vectors_")
    return np.stack([scores, -scores], axis=1) if both else scores


def _plain(name: str, value: Any) -> Array:
    array = np.asarray(value.toarray() if hasattr(value, "toarray") else value)
    if array.dtype.kind in "biu":
        return array.astype(np.int64)
    # ONNX has one column where scikit-learn has a vector
    return array.reshape(-1, 1) if array.ndim == 1 and name != "label" else array


def _by_output(
    program: onnx.ModelProto, model: Any, made: Mapping[str, Array], *, strict: bool = False
) -> dict[str, Array]:
    """Give the estimator's outputs by their names in the file, in the file's order."""
    names = [value.name for value in program.graph.output]
    if len(names) == len(made) == 1:
        return dict(zip(names, made.values(), strict=True))
    if strict and set(names) != set(made):
        raise UnsupportedModelError(
            f"the outputs of {type(model).__name__} in ONNX are {', '.join(names)}, and "
            f"export_sklearn can compare {', '.join(made)} only; pass check=False to write it "
            "without a comparison"
        )
    return {name: made[name] for name in names if name in made}


def _cases(model: Any, rows: Array, program: onnx.ModelProto) -> Iterator[Case]:
    """Give the example and random rows of another number, with the estimator's outputs."""
    drawn = _drawn(np.random.default_rng(0), rows, len(rows) + 1)
    for given, which in ((rows, "the input"), (drawn, "random rows near the input")):
        made = _outputs(model, given, which)
        yield [given], list(_by_output(program, model, made, strict=True).values())


def _drawn(rng: np.random.Generator, rows: Array, n_rows: int) -> Array:
    """Draw each column from its own values, so that categories stay valid; one row gets noise."""
    if len(rows) > 1:
        return np.stack([rng.choice(column, n_rows) for column in rows.T], axis=1)
    noise = rng.standard_normal((n_rows, rows.shape[1])) * np.maximum(1.0, np.abs(rows))
    return np.asarray(rows + noise, dtype=np.float32)
