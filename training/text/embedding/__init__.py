"""The task `text-embedding`: training, evaluation and export."""
