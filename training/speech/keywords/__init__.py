"""The task `audio-classification`: training, evaluation and export."""
