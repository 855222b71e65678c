"""The processes that the supervisor starts: `python -m service.workers engine` or `… http-0`.

Not for operators: the lifeline on standard input says what to do.
"""

from __future__ import annotations

import sys

from service.errors import StartFailed
from service.settings import Settings
from service.telemetry.logs import configure_logging
from service.workers.lifeline import Lifeline


def main() -> None:
    """Be what the lifeline says."""
    lifeline = Lifeline()
    settings = Settings.model_validate_json(lifeline.setup.settings)
    configure_logging(settings.log_level, process=lifeline.setup.name)
    try:
        if lifeline.setup.name == "engine":
            from service.workers.engine_process import serve_models

            serve_models(settings, lifeline)
        else:
            from service.workers.http_process import serve_http

            serve_http(settings, lifeline)
    except StartFailed as error:
        lifeline.fail(str(error))
        sys.exit(2)


if __name__ == "__main__":
    main()
