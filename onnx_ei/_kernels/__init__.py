"""Loops that numba compiles: arrays in, the caller's ``out`` filled, nothing else."""
