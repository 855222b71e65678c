"""The load on one GPU under bare ONNX Runtime, the engine and HTTP, and what limits each."""
