"""The application: middleware, routes, errors and what happens at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer

from hrm import __version__
from hrm.serve import errors
from hrm.serve.metrics import Metrics
from hrm.serve.models import Models
from hrm.serve.routes import chat, completions, health, metrics, models, solve
from hrm.serve.schema import ChatChunk
from hrm.serve.security import Guard
from hrm.serve.settings import Settings


def create_app(offered: Models, settings: Settings | None = None) -> FastAPI:
    """The API for these models, which are closed at the end."""
    settings = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(offered.close, 0.0)

    app = FastAPI(
        title="hrm", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        description="Text and verified answers from models that think as long as they need.",
        generate_unique_id_function=_named,
    )  # fmt: skip
    app.state.models, app.state.settings, app.state.metrics = offered, settings, Metrics()
    offered.observe = app.state.metrics.step
    errors.install(app)
    app.add_middleware(Guard, settings=settings, metrics=app.state.metrics)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.origins), allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"], expose_headers=["Retry-After"],
        )  # fmt: skip
    app.include_router(health.router)
    key = Depends(HTTPBearer(auto_error=False, description="A key from the file of --api-key-file."))
    for router in (models.router, completions.router, chat.router, solve.router, metrics.router):
        app.include_router(router, dependencies=[key], responses=errors.RESPONSES)
    app.openapi = lambda: _schema(app)  # type: ignore[method-assign]
    return app


def _schema(app: FastAPI) -> dict[str, Any]:
    """FastAPI's, with what streams consist of."""
    if app.openapi_schema is None:
        made = FastAPI.openapi(app)
        chunk = ChatChunk.model_json_schema(ref_template="#/components/schemas/{model}")
        made["components"]["schemas"] |= chunk.pop("$defs") | {"ChatChunk": chunk}
    return app.openapi_schema or {}


def _named(route: APIRoute) -> str:
    return route.name
