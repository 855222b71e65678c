"""Recipes: one readable YAML file says everything that a training run depends on."""
