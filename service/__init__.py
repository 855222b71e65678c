"""Kotae's service: models answer over HTTP. NumPy and ONNX Runtime, never torch.

A request goes from `http` to `inference`, which decodes it by `tasks` and queues it in `engine`. `repository`
holds the models. `app` builds it all.
"""

import os

# ONNX Runtime's own builds (from 1.29, on Linux too) report models and runs to Microsoft, and store an ID of
# the machine in the home folder, unless this is set before the library is loaded. `0` allows it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
