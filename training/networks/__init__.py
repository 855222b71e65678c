"""The networks as PyTorch modules, from raw inputs to final outputs."""
