"""Synthetic scenes of digits as training data for the detector."""
