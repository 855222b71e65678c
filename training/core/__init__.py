"""What all modalities have in common: fit, evaluate, export, quantize."""
