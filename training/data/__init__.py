"""Data that several modalities use: splits, tables, Debian packages, drawn digits."""
