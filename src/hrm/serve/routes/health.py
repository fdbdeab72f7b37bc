"""Whether the server is there."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

router = APIRouter()


class Health(BaseModel):
    """It answers."""

    status: Literal["ok"] = "ok"


@router.head("/health", include_in_schema=False)
@router.get("/health")
async def health() -> Health:
    """Needs no key, and loads nothing."""
    return Health()
