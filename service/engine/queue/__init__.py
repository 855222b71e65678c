"""The queue of one model: order, admission, batch selection, deduplication."""
