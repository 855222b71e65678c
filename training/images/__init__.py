"""The task `image-classification`: data, training, evaluation and export."""
