"""Refusals as HTTP answers: one sentence in the form that clients of OpenAI's API read."""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from hrm.files.reading import UserError, quoted
from hrm.serve.schema import REFUSED
from hrm.serve.waiting import Busy

RETRY_SECONDS = 5


class Fault(BaseModel):
    """What is wrong with a request, and with which of its fields."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """Every refusal."""

    error: Fault


class Refusal(UserError):
    """A request that cannot be answered; UserErrors of other kinds are 400."""

    status, code = 400, "invalid_request"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class UnknownModel(Refusal):
    """There is no model of this name, or no longer."""

    status, code = 404, "model_not_found"


class Unavailable(Refusal):
    """A model that cannot be loaded now, or a server that is ending."""

    status, code = 503, "unavailable"


class TimedOut(Refusal):
    """A request that took longer than it may."""

    status, code = 408, "deadline"


SAID = {
    400: "The request says what cannot be done.", 401: "The key is missing or wrong.",
    403: "The request comes from another site.", 404: "There is no such model.",
    408: "It arrived too slowly, or took longer than a request may.",
    413: "The request is too long.", 429: "As many requests wait as may: `Retry-After` says for how long.",
    500: "A mistake of the server.", 503: "The model cannot be loaded now, or the server is ending.",
}  # fmt: skip
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": said}
    | ({"headers": {"Retry-After": {"schema": {"type": "integer"}}}} if status == 429 else {})
    | ({"headers": {"WWW-Authenticate": {"schema": {"type": "string"}}}} if status == 401 else {})
    for status, said in SAID.items()
} | {"default": {"model": ErrorBody, "description": "Any other refusal."}}
"""For the schema of every route with a key."""


def answer(
    status: int, message: str, code: str | None = None, param: str | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    """A refusal."""
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
    body = ErrorBody(error=Fault(message=message, type=kind, param=param, code=code))
    return JSONResponse(body.model_dump(), status, headers)


def of(error: UserError) -> JSONResponse:
    """The answer to a request that ended in this error."""
    if isinstance(error, Busy):
        return answer(429, str(error), "busy", headers={"Retry-After": str(error.retry_after)})
    if isinstance(error, Refusal):
        headers = {"Retry-After": str(RETRY_SECONDS)} if error.status == 503 else None
        return answer(error.status, str(error), error.code, error.param, headers)
    # What the command line calls --top-p is the field top_p here.
    said = re.sub(r"--([a-z][a-z-]+)", lambda flag: flag[1].replace("-", "_"), str(error))
    return answer(400, said, "invalid_request")


def install(app: FastAPI) -> None:
    """Answer every error in this form."""
    app.add_exception_handler(UserError, _mistake)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _plain)


async def _mistake(request: Request, error: Any) -> JSONResponse:
    return of(error)


async def _plain(request: Request, error: Any) -> JSONResponse:
    if error.status_code == 400:  # FastAPI says no more of what json cannot read
        return answer(400, "the body is no JSON that can be read: send an object in UTF-8, not deeply nested")
    said = {404: f"there is no route {quoted(request.url.path)}", 405: f"this route takes no {request.method}"}
    return answer(error.status_code, said.get(error.status_code, str(error.detail)), headers=error.headers)


async def _invalid(request: Request, error: Any) -> JSONResponse:
    """The first of pydantic's complaints, as a sentence."""
    found = error.errors()
    field = found[0]["loc"][:2]
    # Of a value that may be of several kinds, the one that it came nearest to.
    first = max((each for each in found if each["loc"][:2] == field), key=lambda each: len(each["loc"]))
    place = [str(part) for part in first["loc"]]
    place = place[place[:1] in (["body"], ["query"], ["path"]) :]
    name = ".".join(part for part in place if re.fullmatch(r"(?!(?:str|int|bool)$)[a-z_0-9]{1,40}", part))
    said = first["msg"].removeprefix("Value error, ")
    if first["type"] == "json_invalid":
        said, name = f"the body is not valid JSON ({first.get('ctx', {}).get('error', 'damaged')})", ""
    elif first["type"] == "extra_forbidden":
        name = place[-1]
        if name not in REFUSED:
            return answer(400, f"there is no field {quoted(name)}", "invalid_request", name[:100])
        said = REFUSED[name]
    elif first["type"] == "union_tag_invalid":
        said = f"the role is none of {first['ctx']['expected_tags']}".replace("'", "")
    elif first["type"] in ("model_attributes_type", "dict_type") and not name:
        said = "the body must be a JSON object, sent as application/json"
    elif first["type"] == "missing":
        said, name = (f"{name} is missing" if name else "the body is missing: send a JSON object"), ""
    said = f"{name}: {said[:1].lower()}{said[1:]}" if name else said
    return answer(400, said, "invalid_request", name or None)
