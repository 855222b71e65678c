"""Sounds: samples before the graph, labels and transcripts after it."""
