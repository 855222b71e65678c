"""`kotae tune`: finds the best batch size, lanes and threads for a model on this host.

    model folder ─▶ items ─▶ sweep ─▶ Pareto front ─▶ choice for a deadline ─▶ override file

Sessions run batches as lanes do, without queue and HTTP. The host must be idle otherwise.
"""
