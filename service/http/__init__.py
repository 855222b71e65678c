"""The HTTP side: routes, authentication, limits, errors as JSON. One module an endpoint family."""
