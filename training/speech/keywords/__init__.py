"""The task `audio-classification`, trained: which of a few words or sounds a short recording is."""
