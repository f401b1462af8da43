"""Turn every error of a request into a status, a stable code and one sentence, without paths, keys or tracebacks."""

from __future__ import annotations

from contextvars import ContextVar
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from pipeline.errors import DecodeError, FetchError, ItemError, ItemRefused, PipelineError, PromptError
from pipeline.log import log

REQUEST_ID: ContextVar[str] = ContextVar("REQUEST_ID", default="")
"""Id of the request that is being answered: it stands in the answer and in the log."""

ITEM_STATUS: dict[type[ItemError], int] = {ItemRefused: 400, FetchError: 422, DecodeError: 422, PromptError: 422}
"""Status of the item errors that the client can mend; any other is 500."""

INTERNAL = "the server failed on this request; its log says why"

LONGEST = 400
"""Characters of a sentence, at most: it may quote the request."""


class RequestRefused(PipelineError):
    """A request cannot be answered.

    Args:
        status: Status of the answer.
        code: Stable word for programs.
        message: One sentence for people.
        headers: Headers of the answer.
    """

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers or {}


def no_detector(preset: str) -> RequestRefused:
    """Return the refusal of a name that nothing looks for."""
    message = f"the preset {preset} finds no objects by name here; give a box, or ask for a service with recipe.detector"
    return RequestRefused(400, "request", message)


class Refusal(NamedTuple):
    """Sentence for the client."""

    status: int
    code: str
    message: str
    headers: dict[str, str]

    def response(self) -> JSONResponse:
        """Return the answer: ``{"code": …, "message": …}``, for a 500 with the ``request_id`` by which the log names it."""
        content = {"code": self.code, "message": self.message[:LONGEST]}
        if self.status == 500 and (request_id := REQUEST_ID.get()):
            content["request_id"] = request_id
        return JSONResponse(content, self.status, headers={"X-Error-Code": self.code, **self.headers})


def refusal_of(error: BaseException) -> Refusal:
    """Return what a client is told about an error. Details of the server's own failures go to the log only."""
    if isinstance(error, RequestRefused):
        return Refusal(error.status, error.code, str(error), error.headers)
    if isinstance(error, ItemError):
        status = next((status for kind, status in ITEM_STATUS.items() if isinstance(error, kind)), 500)
        if status < 500:
            return Refusal(status, error.code, str(error), {})
        log.error("request failed", extra={"facts": {"code": error.code, "detail": str(error), "request_id": REQUEST_ID.get()}})
        return Refusal(status, error.code, error.about, {})
    if isinstance(error, HTTPException):
        return _of_http(error)
    log.error("request failed", exc_info=error, extra={"facts": {"request_id": REQUEST_ID.get()}})
    return Refusal(500, "internal", INTERNAL, {})


def _of_http(error: HTTPException) -> Refusal:
    """Return the refusal of an error that Starlette raises itself."""
    headers = dict(error.headers or {})
    if error.status_code == 404:
        return Refusal(404, "not_found", "there is nothing at this address; /docs lists all addresses", headers)
    if error.status_code == 405:
        return Refusal(405, "method", f"this address takes {headers.get('Allow', 'another method')}", headers)
    return Refusal(error.status_code, "request", "the request cannot be read", headers)
