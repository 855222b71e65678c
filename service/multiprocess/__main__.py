"""Entry point of the processes that the supervisor starts: `python -m service.multiprocess engine|http-N`.

Not for operators: the supervisor sends the settings through standard input.
"""

from __future__ import annotations

import sys

from service.errors import StartFailed
from service.multiprocess.supervisor_channel import SupervisorChannel
from service.settings import Settings
from service.telemetry.logs import configure_logging


def main() -> None:
    """Run as the engine or as an HTTP worker."""
    channel = SupervisorChannel()
    settings = Settings.model_validate_json(channel.setup.settings)
    configure_logging(settings.log_level, process=channel.setup.name)
    try:
        if channel.setup.name == "engine":
            from service.multiprocess.engine_process import serve_models

            serve_models(settings, channel)
        else:
            from service.multiprocess.http_process import serve_http

            serve_http(settings, channel)
    except StartFailed as error:
        channel.report_failure(str(error))
        sys.exit(2)


if __name__ == "__main__":
    main()
