"""Kotae's service: models answer over HTTP. NumPy and ONNX Runtime, never torch.

Follow one request from the outside in: `api` (HTTP), `tasks` (bytes to arrays and arrays to
answers), `engine` (queues, batches, devices). `catalog` holds the models, `app` wires everything.
"""

import os

# ONNX Runtime's own builds report models and runs to Microsoft (from 1.29 on, Linux too) and keep an
# identifier of the machine in the home folder, unless this is set before the library is loaded. `0` lets it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
