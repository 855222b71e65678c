"""What training has in common for every kind of model: fit, evaluate, export, quantize."""
