"""NVIDIA GPUs: driver, memory, bindings and sessions.

Nothing in this package has run on a GPU yet; docs/gpu.md says what was tested instead.
"""
