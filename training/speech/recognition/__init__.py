"""The task `speech-recognition`, trained: what is said in a recording, with letters and a word list."""
