"""Loops that numba compiles: arrays in, the caller's ``out`` filled, nothing else."""

from onnx_ei._kernels._threads import heed_quota

heed_quota()  # before any of them runs, whoever imports it
