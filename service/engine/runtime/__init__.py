"""ONNX Runtime on the CPU: sessions, CPU threads, memory."""
