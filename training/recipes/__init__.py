"""Recipes: YAML files with all settings of a training."""
