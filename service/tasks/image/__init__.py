"""Image tasks: decoding and resizing before the graph; labels and boxes after it."""
