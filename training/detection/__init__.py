"""The task `object-detection`: data, training, evaluation and export."""
