"""``matteline infra``: Kubernetes manifests for a nightly run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.console import out

infra = typer.Typer(help="Write the Kubernetes manifests of a nightly run.", no_args_is_help=True)


@infra.callback()
def _commands() -> None:
    """Write the Kubernetes manifests of a nightly run."""  # without a callback typer drops the name of the only command


@infra.command()
def render(
    overlay: Annotated[str, typer.Option("--overlay", help="kind, cpu or gpu-spot: a folder of infra/overlays.")],
    image: Annotated[str | None, typer.Option("--image", help="Container image, with its tag.")] = None,
    manifest: Annotated[str | None, typer.Option("--manifest", "-m", help="URI of the manifest.")] = None,
    output: Annotated[str | None, typer.Option("--output", help="URI of the output.")] = None,
    preset: Annotated[str | None, typer.Option("--preset", "-p", help="Model: a name from `matteline models`.")] = None,
    schedule: Annotated[
        str | None, typer.Option("--schedule", help='Cron schedule in UTC: "0 2 * * *" is 02:00 every night.')
    ] = None,
    replicas: Annotated[
        str | None, typer.Option("--replicas", help="Number of workers that run the model. On GPUs, the largest number.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the run, at most 32 characters.")] = None,
    ray_cron_job: Annotated[
        bool, typer.Option("--ray-cron-job", help="Schedule with KubeRay's RayCronJob (alpha, behind a feature gate).")
    ] = False,
    file: Annotated[Path | None, typer.Option("-o", "--file", help="Write to this file instead of stdout.")] = None,
) -> None:
    """Render an overlay as YAML for `kubectl apply --server-side -f -`, and check it.

    This needs kubectl or kustomize, but no cluster.

    Options that are not given keep the values of the overlay's settings.yaml.
    """
    from pipeline.deploy.render import render as render_overlay
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
    text = render_overlay(overlay, changes, ray_cron_job=ray_cron_job)
    if file is None:
        typer.echo(text, nl=False)
        return
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {file}: {error.strerror}") from error
    out.print(f"{file}: kubectl apply --server-side -f {file}", markup=False)
