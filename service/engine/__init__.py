"""Queues, batches, lanes and sessions: arrays and time. No HTTP, no tasks, no Prometheus.

A `Batcher` (one per model) collects items, a `Lane` (one per device) claims batches and runs them on
`Session`s. The application passes in an `Observer`, which is told what happens.

Imports go in one direction: `lane` imports `queue` and `runtime`, `cuda` imports `runtime`, and `queue` the
plain rules of `runtime`. `devices` chooses between sessions of `runtime` (CPU) and `cuda` (GPU).
"""
