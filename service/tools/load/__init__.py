"""`kotae bench`: a load generator for HTTP services.

    LoadPlan ─▶ LoadGenerator ─▶ ClientConnections ─▶ LoadRecorder ─▶ LoadSummary ─▶ table or JSON

Closed loop: a fixed number of clients; each sends its next request when it has its answer. Open loop:
requests arrive as a Poisson process at a given rate, whether or not earlier ones are answered. Latency
counts from the moment at which a request was due, so a server that stalls cannot hide it (no coordinated
omission). The generator knows HTTP only, nothing about models.
"""
