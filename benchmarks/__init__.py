"""What the README's performance figures come from; re-runnable on any machine with two cores and `wrk`."""
