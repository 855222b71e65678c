"""Kotae's service: models answer over HTTP. NumPy and ONNX Runtime, never torch.

Follow one request from the outside in: `api` (HTTP), `tasks` (bytes to arrays and arrays to
answers), `engine` (queues, batches, devices). `catalog` holds the models, `app` wires everything.
"""
