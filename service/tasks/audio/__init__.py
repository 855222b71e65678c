"""Audio tasks: decoding and segmentation before the graph; labels and transcripts after it."""
