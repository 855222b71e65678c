"""Pictures to learn from: where they come from, how they are divided, how they are varied."""
