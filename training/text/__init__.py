"""The tasks for texts: classification and embedding."""
