"""`kotae serve --http-workers N`: N HTTP workers and one engine process.

    supervisor ── starts, watches and restarts ──┬─▶ engine                (models, queues, lanes)
                                                 └─▶ http-0 … http-(N-1)   (HTTP, decoding, encoding)

    worker ── input tensors in shared memory (`input_memory`)   + a token (`token_socket`) ──▶ engine
    worker ◀── output tensors in shared memory (`output_ring`)  + a token (`token_socket`) ── engine

All workers accept connections on the same listening sockets. Their requests enter the engine's queues like
the requests of a single process. Both ends of such a connection are `engine_connection` (in the worker) and
`worker_connection` (in the engine). The engine sends its state to every worker (`engine_state`), which
keeps a copy of the catalog, the queues and the lanes (`engine_mirror`), so that the HTTP code is the
same as in a single process.
"""
