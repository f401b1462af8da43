"""Describe the addresses of jobs for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from pipeline.config.job_request import SAFE_SETTINGS, JobRequest

JOBS, JOB = "/v1/jobs", "/v1/jobs/{id}"
"""Addresses of all jobs and of one."""

_ERROR = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
_STATE = {
    "id": "Id of the job and of its run.",
    "verdict": "starting, running, silent (it lives, and does not write its progress), dead, or over.",
    "said": "The verdict in words.",
    "exit_code": "0: complete. 2: refused. 3: too many items failed. 4: stopped. 5: another run uses the output.",
    "error": "One sentence, if it failed.",
    "progress": "Counts, speed, time left and failures, as matteline top shows them; null before the run begins.",
}
_REFUSED = {
    "400": "A field or a setting is wrong, or may not be set.",
    "401": "The token is missing or wrong.",
    "403": "An address is below no root of the service; or a page of another origin asks.",
    "404": "There is no such job.",
    "408": "The body came too slowly.",
    "409": "A job of this output is running.",
    "413": "The body is too large.",
    "415": "The body is of another kind.",
    "421": "A host name that is not served.",
    "500": "The service failed; its log says why.",
    "503": "As many jobs are running as the service takes; or the storage does not answer.",
}


def job_paths() -> dict[str, Any]:
    """Return the paths of jobs."""
    fields = JobRequest.model_json_schema()
    named = " ".join(f"{name}: {field.description}" for name, field in JobRequest.model_fields.items())
    fields["properties"]["settings"]["propertyNames"] = {"enum": list(SAFE_SETTINGS)}
    body = {"required": True, "content": {"application/json": {"schema": fields}}}
    where = [{"name": "id", "in": "path", "required": True, "description": "Id of the job.", "schema": {"type": "string"}}]
    return {
        JOBS: {
            "post": {
                "operationId": "submitJob",
                "summary": "Start a job: a run over a manifest",
                "description": f"The body is JSON. {named} The same request continues a job that was stopped or has died. "
                f"Settings that may be set: {', '.join(SAFE_SETTINGS)}.",
                "requestBody": body,
                "responses": {"202": _answer("The job's state."), **_refusals("400", "403", "408", "409", "413", "415", "503")},
            },
            "get": {
                "operationId": "jobs",
                "summary": "List the latest jobs, the newest first",
                "responses": {"200": _answer("The jobs.", jobs=True), **_refusals("403", "503")},
            },
        },
        JOB: {
            "get": {
                "operationId": "job",
                "summary": "Get the state of a job with its progress",
                "parameters": where,
                "responses": {"200": _answer("The job's state."), **_refusals("403", "404", "503")},
            },
            "delete": {
                "operationId": "stopJob",
                "summary": "Stop a job; what it has done stays",
                "parameters": where,
                "responses": {
                    "202": _answer("It was asked to stop."),
                    "200": _answer("It was over."),
                    **_refusals("403", "404", "503"),
                },
            },
        },
    }


def _answer(about: str, *, jobs: bool = False) -> dict[str, Any]:
    state = {"type": "object", "properties": {name: {"description": text} for name, text in _STATE.items()}}
    listed = {"type": "object", "properties": {"jobs": {"type": "array", "items": {"type": "object"}}}}
    return {"description": about, "content": {"application/json": {"schema": listed if jobs else state}}}


def _refusals(*statuses: str) -> dict[str, Any]:
    every = sorted({"401", "421", "500", *statuses})
    return {status: {"description": _REFUSED[status], "content": _ERROR} for status in every}
