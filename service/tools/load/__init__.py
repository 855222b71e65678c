"""`kotae bench`: load for a running service, and what it answered.

    Plan (what, how fast, how long) ─▶ Generator ─▶ Connections ─▶ Tally ─▶ summary, table, JSON

Closed loop: so many clients, each waiting for its answer. Open loop: requests come at random moments at a
given rate, whether or not the ones before were answered, and latency counts from the moment at which a
request was meant to leave, so that a server that stalls cannot hide it. Knows HTTP, and nothing of models.
"""
