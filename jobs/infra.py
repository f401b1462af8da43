"""``matteline infra``: what runs Matteline on a cluster, every night."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.console import out

infra = typer.Typer(help="Write what runs Matteline on a Kubernetes cluster.", no_args_is_help=True)


@infra.callback()
def _commands() -> None:
    """Write what runs Matteline on a Kubernetes cluster."""  # a callback, or typer would drop the only command's name


@infra.command()
def render(
    overlay: Annotated[str, typer.Option("--overlay", help="kind, cpu or gpu-spot: a folder of infra/overlays.")],
    image: Annotated[str | None, typer.Option("--image", help="The container image, with its tag.")] = None,
    manifest: Annotated[str | None, typer.Option("--manifest", "-m", help="URI of what to cut out.")] = None,
    output: Annotated[str | None, typer.Option("--output", help="URI of where results go.")] = None,
    preset: Annotated[str | None, typer.Option("--preset", "-p", help="Model: a name from `matteline models`.")] = None,
    schedule: Annotated[str | None, typer.Option("--schedule", help='When, in UTC: "0 2 * * *" is two every night.')] = None,
    replicas: Annotated[str | None, typer.Option("--replicas", help="Workers that hold a model; of GPUs, at most.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Of the run; at most 32 characters.")] = None,
    ray_cron_job: Annotated[
        bool, typer.Option("--ray-cron-job", help="Schedule by KubeRay's RayCronJob (alpha, behind a feature gate).")
    ] = False,
    file: Annotated[Path | None, typer.Option("-o", "--file", help="Write there, not to the screen.")] = None,
) -> None:
    """Write a nightly run as YAML for `kubectl apply -f`, checked; what isn't given is as the overlay's settings.yaml says."""
    from pipeline.deploy.nightly import as_yaml, nightly
    from pipeline.errors import StorageError

    given = {
        "image": image,
        "manifest": manifest,
        "output": output,
        "preset": preset,
        "schedule": schedule,
        "replicas": replicas,
        "name": name,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    text = as_yaml(nightly(overlay, changes, ray_cron_job=ray_cron_job))
    if file is None:
        typer.echo(text, nl=False)
        return
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{file} can't be written: {error.strerror}") from error
    out.print(f"{file}: kubectl apply -f {file}", markup=False)
