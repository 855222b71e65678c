"""Speech data made with speech synthesizers."""
