"""The addresses of jobs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipeline.errors import StorageError, WriteError
from pipeline.log import log
from pipeline.serve.body import read_json
from pipeline.serve.jobs.jobs import Jobs
from pipeline.serve.jobs.openapi import JOB, JOBS
from pipeline.serve.refusals import RequestRefused
from pipeline.serve.service import Service

Endpoint = Callable[["JobRoutes", Request], Awaitable[Response]]


def _storage_may_fail(endpoint: Endpoint) -> Endpoint:
    """Answer 503 if the storage fails. Its message, which names places, goes to the log."""

    @wraps(endpoint)
    async def answered(self: JobRoutes, request: Request) -> Response:
        try:
            return await endpoint(self, request)
        except (StorageError, WriteError) as error:
            log.error("the storage of a job failed", extra={"facts": {"detail": str(error)}})
            message = "the storage of the jobs does not answer, or not as it should; try again later"
            raise RequestRefused(503, "storage", message, {"Retry-After": "10"}) from None

    return answered


class JobRoutes:
    """``/v1/jobs``, of a service with or without jobs."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def all(self) -> list[Route]:
        """Return the routes."""
        return [
            Route(JOBS, self.submit, methods=["POST"]),
            Route(JOBS, self.listed, methods=["GET"]),
            Route(JOB, self.state, methods=["GET"]),
            Route(JOB, self.stop, methods=["DELETE"]),
        ]

    @property
    def _jobs(self) -> Jobs:
        if self._service.jobs is None:
            raise RequestRefused(404, "jobs", "this service takes no jobs; its operator can allow them with --output-root")
        return self._service.jobs

    @_storage_may_fail
    async def submit(self, request: Request) -> Response:
        """Start a job."""
        jobs = self._jobs
        if self._service.draining:
            raise RequestRefused(503, "busy", "the service is ending", {"Retry-After": "10"})
        state = await jobs.submit(await read_json(request, self._service.limits))
        return JSONResponse(state, 202, headers={"Location": f"{JOBS}/{state['id']}"})

    @_storage_may_fail
    async def listed(self, _: Request) -> Response:
        """List the latest jobs."""
        return JSONResponse({"jobs": await self._jobs.listed()})

    @_storage_may_fail
    async def state(self, request: Request) -> Response:
        """Describe a job and its progress."""
        return JSONResponse(await self._jobs.state(request.path_params["id"]))

    @_storage_may_fail
    async def stop(self, request: Request) -> Response:
        """Ask a job to stop."""
        was_running, state = await self._jobs.stop(request.path_params["id"])
        return JSONResponse(state, 202 if was_running else 200)
