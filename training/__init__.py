"""Training: data -> network -> fit -> evaluate -> export to a model folder that the service answers with."""
