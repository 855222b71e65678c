"""The tasks for sounds: recordings, synthetic speech, keyword classification and speech recognition."""
