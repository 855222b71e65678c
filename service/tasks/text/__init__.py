"""Texts: tokens before the graph, labels and embeddings after it."""
