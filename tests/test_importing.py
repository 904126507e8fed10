"""The garbage collector is out of the way while modules load, and back afterwards."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator

import pytest

from onnx_ei.importing import collector_paused


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    was = gc.isenabled()
    gc.enable()
    yield
    (gc.enable if was else gc.disable)()


def test_it_is_off_within_and_on_afterwards() -> None:
    with collector_paused():
        assert not gc.isenabled()
        with collector_paused():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_an_error_turns_it_on_again() -> None:
    with pytest.raises(KeyError), collector_paused():
        raise KeyError
    assert gc.isenabled()


def test_where_it_is_off_it_stays_off() -> None:
    gc.disable()
    with collector_paused():
        pass
    assert not gc.isenabled()


LATER = """
import sys
finders = list(sys.meta_path)
from onnx_ei.importing import load_libraries
load_libraries()
assert sys.meta_path == finders
assert "sympy.core" not in sys.modules, "sympy is there already"
{use}
assert "sympy.core" in sys.modules
"""


@pytest.mark.parametrize(
    "use",
    [
        "from onnx_ir import SymbolicDim as D; assert str(D('n') + D('m')) == 'm + n'",
        "import sympy; assert sympy.Symbol('n') + 1 - 1 == sympy.Symbol('n')",
        "from sympy.core.numbers import Integer; assert Integer(2) + 1 == 3",
    ],
    ids=["an open dimension", "the package", "a part of it"],
)
def test_arithmetic_with_open_dimensions_loads_when_it_is_used(use: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LATER.format(use=use)], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")


def frozen(code: str) -> list[str]:
    """What a new process prints, after how many objects it has frozen."""
    tell = f"import gc\n{code}\nprint(gc.isenabled(), gc.get_freeze_count() > 50_000)"
    done = subprocess.run(
        [sys.executable, "-c", tell], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.split()[-2:]


def test_a_user_s_objects_are_not_frozen() -> None:
    assert frozen("import onnx_ei; onnx_ei.analyze") == ["True", "False"]


def test_the_libraries_of_a_command_are_frozen() -> None:
    code = "from onnx_ei.importing import load_libraries; load_libraries()"
    assert frozen(code) == ["True", "True"]


def test_a_command_leaves_no_objects_to_be_taken_apart() -> None:
    code = """
import sys
from onnx_ei.cli import main
import onnx_ei.analysis
sys.argv[1:] = ["doctor"]
try: main()
except SystemExit: pass
"""
    assert frozen(code) == ["True", "True"]
