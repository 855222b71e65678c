"""What the performance figures come from; re-runnable on any machine with two cores and a C compiler."""
