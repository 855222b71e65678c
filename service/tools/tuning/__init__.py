"""`kotae tune`: which batch size, lanes and threads are best for a model on this very host.

    model folder ─▶ items ─▶ sweep (interleaved, medians) ─▶ front ─▶ choice for a deadline ─▶ override file

Runs sessions as lanes do, without queue and HTTP, so it must have the host for itself.
"""
