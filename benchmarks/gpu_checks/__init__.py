"""What `benchmarks/gpu.py` checks: a function each, `(Bench) -> figures`, in a process of its own.

Needs torch, NumPy and PyArrow alone, except where a check says that it is left out without more.
"""
