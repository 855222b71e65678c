"""How busy one GPU is kept: bare ONNX Runtime, the engine, HTTP, and what limits each."""
