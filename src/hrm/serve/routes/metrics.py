"""What Prometheus reads."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

router = APIRouter()


TEXT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}


@router.get("/metrics", response_class=Response, responses=TEXT)
async def metrics(request: Request) -> Response:
    """Counters and histograms, in the text format of Prometheus."""
    found = request.app.state.metrics
    found.now(request.app.state.models.engines())
    return Response(generate_latest(found.registry), media_type=CONTENT_TYPE_LATEST)
