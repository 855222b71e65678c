"""The task `speech-recognition`: training, evaluation and export."""
