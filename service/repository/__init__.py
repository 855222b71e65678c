"""The model folder: what it must hold, how a version is loaded, checked and warmed up, which one answers."""
