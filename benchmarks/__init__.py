"""Reproducible performance measurements; any machine with two cores can run most of them."""
