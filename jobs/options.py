"""Options that several commands share, worded once."""

from __future__ import annotations

from typing import Annotated

import typer

Preset = Annotated[
    str | None, typer.Option("--preset", "-p", help="Model: a name from `matteline models`, or your own .yaml file.")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="SECTION.KEY=VALUE",
        help="Change a setting, e.g. recipe.stretch=true or compute.actors=4. Repeatable.",
    ),
]
JobFile = Annotated[
    str | None, typer.Option("--job", help="A YAML file with manifest, output, preset and settings; options win over it.")
]
Manifest = Annotated[
    str | None,
    typer.Option(
        "--manifest",
        "-m",
        help="What to cut out: Parquet, CSV or JSON Lines with an image_uri column, or a folder of images. Path or URI.",
    ),
]
Output = Annotated[
    str | None, typer.Option("--output", "-o", help="Where results go: a folder, or a URI such as s3://bucket/prefix.")
]
AcceptLicence = Annotated[bool, typer.Option("--accept-licence", help="Use weights whose licence restricts commercial use.")]
Endpoint = Annotated[str | None, typer.Option("--endpoint-url", help="An S3 server that isn't AWS (or set AWS_ENDPOINT_URL).")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more, and show tracebacks.")]


def settings(chosen: list[str] | None, endpoint_url: str | None) -> list[str]:
    """All ``section.key=value`` pairs of a command line."""
    return [*(chosen or []), *([f"storage.endpoint_url={endpoint_url}"] if endpoint_url else [])]
