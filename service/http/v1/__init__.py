"""The `/v1` endpoints: one per task, OpenAI's shapes, the list of models."""
