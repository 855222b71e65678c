"""Text tasks: tokenization before the graph; labels and embeddings after it."""
