"""The task `text-classification`: training, evaluation and export."""
