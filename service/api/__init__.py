"""HTTP and nothing else: routes, bodies, limits, errors as JSON. One file an endpoint family."""
