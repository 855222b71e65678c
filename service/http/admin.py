"""`/admin/…`: what an operator can change while the service runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict


class LogLevel(BaseModel):
    """The lowest level that is logged."""

    model_config = ConfigDict(extra="forbid")

    level: Literal["debug", "info", "warning", "error"]


def admin_router(get_level: Callable[[], str], set_level: Callable[[str], None]) -> APIRouter:
    """Build the routes.

    Args:
        get_level: Returns the lowest level that is logged.
        set_level: Changes that level.
    """
    router = APIRouter(prefix="/admin", tags=["operations"])

    @router.get("/log-level", summary="What is logged?")
    async def show_log_level() -> LogLevel:
        return LogLevel.model_validate({"level": get_level()})

    @router.put("/log-level", summary="Log more or less, at once")
    async def change_log_level(wanted: LogLevel) -> LogLevel:
        set_level(wanted.level)
        return wanted

    return router
