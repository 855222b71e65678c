"""Training: from data to a model folder that the service can serve."""
