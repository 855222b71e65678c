"""`kotae serve --http-workers N`: N processes speak HTTP, decode and encode; one process runs the models.

    supervisor ──starts, watches, restarts──▶ engine        (models, queues, lanes: the GPU's only owner)
        └────────────────────────────────────▶ http-0 … http-(N-1)   (all accept on one inherited listener)

    http-k ── tensors through shared memory (`arena`), a token through a socket (`link`) ──▶ engine (`relay`)
    http-k ◀── outputs through shared memory (`ring`), a token a result, one send a batch ── engine

A worker's requests enter the engine's queues like any others. What an HTTP process needs of the engine has
stand-ins there (`remote`: a queue; `mirror`: catalog and lanes), so that the API's code is the very same.
"""
