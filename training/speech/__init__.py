"""Speech: synthetic voices and users' recordings -> recognition and keywords."""
