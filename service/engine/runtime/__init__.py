"""ONNX Runtime: sessions, providers, CPU threads, memory."""
