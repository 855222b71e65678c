"""NVIDIA GPUs: driver, memory and bindings."""
