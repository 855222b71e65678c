"""Networks: `uint8` pictures in, probabilities out, the whole way as PyTorch modules."""
