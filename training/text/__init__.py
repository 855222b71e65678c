"""What is learnt from texts: reading tables, batches, learners, figures, versions."""
