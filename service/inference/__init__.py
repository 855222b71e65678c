"""The core: a typed request in, a typed answer or error out. Knows no transport."""
