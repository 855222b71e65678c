"""The model repository: which versions are wanted (catalog), and how one is loaded and checked (loader)."""
