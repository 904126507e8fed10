"""What is installed: every module, the type marker, light imports, documented public names."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import onnx_ei
import onnx_ei.exporters

HERE = Path(__file__).resolve().parent.parent
CHECKOUT = Path(os.environ.get("ONNX_EI_CHECKOUT", HERE))
"""Where the sources are: the wheel's tests run elsewhere and are told."""

HEAVY = ("torch", "matplotlib", "pandas", "tensorflow", "keras", "jax", "sklearn", "dask")


FOLDERS = {"onnx_ei": CHECKOUT / "onnx_ei", "onnx_ei.exporters": CHECKOUT / "exporters"}
"""The roots of what is installed, by the name under which it is imported."""


def packages_on_disk() -> dict[str, Path]:
    return {
        ".".join((name, *init.parent.relative_to(root).parts)): init.parent
        for name, root in FOLDERS.items()
        for init in root.rglob("__init__.py")
    }


def modules() -> list[str]:
    walked = pkgutil.walk_packages(onnx_ei.__path__, "onnx_ei.")
    exporters = pkgutil.iter_modules(onnx_ei.exporters.__path__, "onnx_ei.exporters.")
    names = {"onnx_ei", *(m.name for m in walked), *(m.name for m in exporters)}
    return sorted(names - {"onnx_ei.__main__"})


def test_the_packages_list_is_what_the_disk_holds():
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    listed = project["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(packages_on_disk())
    assert len(listed) == len(set(listed))


def test_every_folder_of_modules_is_a_package():
    for root in FOLDERS.values():
        for module in root.rglob("*.py"):
            assert (module.parent / "__init__.py").is_file(), module


def test_the_wheel_holds_every_module_and_nothing_else():
    if "ONNX_EI_CHECKOUT" not in os.environ:
        pytest.skip("not told where the checkout is: tox's wheel environment runs this")
    installed = {
        file.as_posix()
        for file in metadata.files("onnx-ei") or ()
        if ".dist-info/" not in file.as_posix() and file.suffix != ".pyc"
    }
    scripts = {file for file in installed if file.startswith("..")}
    expected = {"onnx_ei/py.typed"} | {
        f"{package.replace('.', '/')}/{module.name}"
        for package, folder in packages_on_disk().items()
        for module in folder.glob("*.py")
    }
    assert installed - scripts == expected
    assert [Path(script).stem for script in scripts] == ["onnx-ei"]
    assert not Path(onnx_ei.__file__).is_relative_to(CHECKOUT / "onnx_ei")


def test_types_are_announced():
    assert Path(onnx_ei.__file__).with_name("py.typed").is_file()


def test_version_and_extras():
    assert onnx_ei.__version__ == metadata.version("onnx-ei")
    meta = metadata.metadata("onnx-ei")
    assert meta["License-Expression"] == "MIT"
    extras = {"cpu", "gpu", "torch", "sklearn", "keras", "jax", "plot", "pandas", "dask"}
    assert extras <= set(meta.get_all("Provides-Extra"))
    required = [line for line in metadata.requires("onnx-ei") or () if "extra ==" not in line]
    # Two wheels fight over one folder, so neither may come by itself.
    assert not any(line.startswith("onnxruntime") for line in required)
    assert not any(line.startswith(HEAVY) for line in required)


@pytest.mark.parametrize("module", ["onnx_ei", "onnx_ei.exporters", "onnx_ei.exporters.from_torch"])
def test_importing_is_light(module):
    code = f"import sys, {module}; print(*sorted({set(HEAVY)!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == []


EVERY_NAME = "import onnx_ei; [getattr(onnx_ei, name) for name in onnx_ei.__all__]"


def imported_by(code: str, heavy: set[str]) -> set[str]:
    """Which of some packages a new process has imported after some code."""
    tell = f"import sys; print(*sorted({heavy!r} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{tell}"],
        capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    return set(done.stderr.split()) & heavy


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["export", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    code = "\n".join((
        "import sys", "from onnx_ei.cli import main", f"sys.argv[1:] = {arguments!r}",
        "try: main()", "except SystemExit as end: assert not end.code",
    ))  # fmt: skip
    measuring = {"numpy", "scipy", "numba", "onnx", "onnx_ir", "onnxruntime", "networkx", "sympy"}
    assert imported_by(code, {*HEAVY, *measuring}) == set()


@pytest.mark.jit
def test_a_run_with_compiled_kernels_imports_no_compiler():
    # what compiling takes, and what numba's own sums take with it, is half a second
    iris = HERE / "examples" / "iris" / "iris.onnx"
    code = "\n".join((
        "import sys", "from onnx_ei.cli import main", f"sys.argv[1:] = {['run', str(iris)]!r}",
        "try: main()", "except SystemExit as end: assert not end.code",
    ))  # fmt: skip
    compiling = {"numba.np.arraymath", "numba.np.linalg", "numba.np.npyimpl", "scipy.linalg"}
    folding = {"onnxscript", "onnx.reference", "sympy.core"}
    imported_by(code, set())  # compiles them, where that is still to do
    assert imported_by(code, compiling | folding | {"numba.np.arrayobj"}) == {"numba.np.arrayobj"}


def test_every_public_name_comes_without_frameworks_and_without_a_runtime():
    # numba imports the root of scipy, which is cheap
    scipy = {"scipy.special", "scipy.optimize", "scipy.stats"}
    heavy = {*HEAVY, *scipy, "onnxruntime", "onnx_ir", "onnxscript", "sympy", "rich", "typer"}
    assert imported_by(EVERY_NAME, heavy) == set()


@pytest.mark.parametrize("name", modules())
def test_every_public_name_is_documented(name):
    module = importlib.import_module(name)
    assert inspect.getdoc(module), f"{name} has no docstring"
    for public in getattr(module, "__all__", ()):
        value = getattr(module, public)
        if inspect.isclass(value) or inspect.isroutine(value):
            assert inspect.getdoc(value), f"{name}.{public} has no docstring"


def test_public_names_come_from_modules_that_say_so():
    for public in getattr(onnx_ei, "__all__", ()):
        value = getattr(onnx_ei, public)
        module = getattr(value, "__module__", None)
        if module is None or not module.startswith("onnx_ei"):
            continue
        assert public in importlib.import_module(module).__all__, f"{module} does not list {public}"
