"""``python -m onnx_ei``: the command line, where the console script is not on the path."""

from __future__ import annotations

from onnx_ei.cli import main

if __name__ == "__main__":
    main()
