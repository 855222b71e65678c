"""The server below the application: the HTTP protocol, listening sockets, draining."""
