"""The inference engine: queues, batches, lanes and sessions. No HTTP, no tasks, no Prometheus.

A `Batcher` (one for each model version) collects items. A `Lane` (one for each device) claims batches and
runs them on `Session`s. Events go to an `Observer` that the application provides.
"""
