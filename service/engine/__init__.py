"""Arrays and time: queues, batches, lanes and sessions. No HTTP, no tasks, no Prometheus.

A `Batcher` (one a model) collects items, a `Lane` (one a device) claims batches and runs them on
`Session`s. What happens is told to an `Observer` that the application hands in.
"""
