"""``matteline infra``: Kubernetes manifests for a nightly run, and for the service."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs import options
from jobs.console import echo, err, out

if TYPE_CHECKING:
    from pipeline.config.job import Job

infra = typer.Typer(help="Write the Kubernetes manifests of a nightly run, or of the service.", no_args_is_help=True)

APPLY = "kubectl apply --server-side -f"


@infra.callback()
def _commands() -> None:
    """Write the Kubernetes manifests of a nightly run, or of the service."""


@infra.command()
def render(
    overlay: Annotated[str, typer.Option("--overlay", help="kind, cpu or gpu-spot: a folder of infra/overlays.")],
    image: Annotated[str | None, typer.Option("--image", help="Container image, with its tag.")] = None,
    manifest: Annotated[str | None, typer.Option("--manifest", "-m", help="URI of the manifest.")] = None,
    image_column: options.ImageColumn = None,
    id_column: options.IdColumn = None,
    box_column: options.BoxColumn = None,
    boxes_column: options.BoxesColumn = None,
    label_column: options.LabelColumn = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="URI of the output.")] = None,
    label: options.Label = None,
    preset: options.Preset = None,
    rendition: options.Renditions = None,
    set_: options.Set = None,
    job: options.JobFile = None,
    endpoint_url: options.Endpoint = None,
    allow_root: options.AllowRoot = None,
    retry: options.Retry = None,
    changed: options.Changed = False,
    replace: options.Replace = False,
    deadline: options.Deadline = None,
    drift_from: options.DriftFrom = None,
    accept_licence: options.AcceptLicence = False,
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
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Write to this file instead of stdout.")] = None,
) -> None:
    """Render an overlay as YAML for `kubectl apply --server-side -f -`, and check it.

    This needs kubectl or kustomize, but no cluster.

    Options that are not given keep the values of the overlay's settings.yaml. A job file carries all its settings to the
    cluster, and those of the options of `matteline run`.
    """
    from pipeline.deploy.render import render as render_overlay
    from pipeline.errors import ConfigError

    if output is not None and "://" not in output:
        raise ConfigError(
            f"--output {output!r} is no URI: the run on the cluster writes its results there, so give one such as "
            f"s3://bucket/prefix; to write the manifests to a file, give --file {output}"
        )
    where = {"manifest": manifest, "output": output, "preset": preset}
    own = {"image": image, "schedule": schedule, "replicas": replicas, "name": name}
    pairs = options.settings(set_, endpoint_url)
    pairs += options.run_settings(retry, changed=changed, replace=replace, accept_licence=accept_licence)
    pairs += options.column_settings(image_column, id_column, box_column, boxes_column, label_column)
    pairs += options.label_settings(label) + options.limit_settings(deadline, drift_from)
    if not (job or pairs or rendition or allow_root or str(preset).endswith((".yaml", ".yml"))):
        changes = {key: value for key, value in {**own, **where}.items() if value is not None}
        _write(render_overlay(overlay, changes, ray_cron_job=ray_cron_job), file)
        return
    loaded, files, found = _carried(overlay, where, job, pairs, rendition, allow_root)
    changes = {key: value for key, value in {**own, **found}.items() if value is not None}
    text = render_overlay(
        overlay,
        changes,
        job=files,
        deadline_s=loaded.budget.deadline_s,
        gpus_per_actor=loaded.compute.gpus_per_actor,
        ray_cron_job=ray_cron_job,
    )
    _check_scaling(text, loaded)
    _write(text, file)


@infra.command()
def service(
    image: Annotated[str | None, typer.Option("--image", help="Container image, with its tag.")] = None,
    preset: Annotated[
        list[str] | None,
        typer.Option(
            "--preset",
            "-p",
            help="Model: a name from `matteline models`. Repeatable: each is one more model in every replica; the first is the "
            "default.",
        ),
    ] = None,
    rendition: options.OwnRenditions = None,
    set_: options.Set = None,
    accept_licence: options.AcceptLicence = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host", metavar="NAME", help="Answer only to this host name, and localhost. Default: to any. Repeatable."
        ),
    ] = None,
    allow_origin: options.AllowOrigin = None,
    allow_root: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-root",
            metavar="URI",
            help="Let GET /api/remove?url=… read web addresses below this one, which begins with https://. Repeatable.",
        ),
    ] = None,
    identity: Annotated[
        str | None,
        typer.Option(
            "--identity",
            metavar="CLOUD",
            help="Let the pods reach the cloud's identity service, for weights in a bucket: eks (Pod Identity) or gke. "
            "Default: they reach none.",
        ),
    ] = None,
    machines: Annotated[str | None, typer.Option("--machines", help="Machines with a GPU, at most.")] = None,
    replicas: Annotated[str | None, typer.Option("--replicas", help="Replicas of the model, at most; two share a GPU.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the service, at most 32 characters.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", "-o", help="Write to this file instead of stdout.")] = None,
) -> None:
    """Render the service (matteline serve) for a cluster, as a RayService, and check it.

    Clients send a token, which a Secret named matteline-service-token holds: kubectl create secret generic
    matteline-service-token --from-literal=token=$(openssl rand -hex 32).
    """
    from pipeline.deploy.service import render_service, service_settings
    from pipeline.serve.settings import SHORTEST_TOKEN, Serving

    presets = preset or [str(service_settings().get("preset"))]
    given = {"image": image, "preset": presets[0], "machines": machines, "replicas": replicas, "name": name}
    changes = {key: value for key, value in given.items() if value is not None}
    # Refuses names that cannot be used. The token is that of the Secret.
    Serving("0.0.0.0", token="x" * SHORTEST_TOKEN, hosts=tuple(allow_host or ()), origins=tuple(allow_origin or ()))
    arguments = _served(presets, rendition, set_, accept_licence=accept_licence) | {
        "allow_hosts": allow_host,
        "allow_origins": allow_origin,
        "allow_roots": _web_roots(allow_root),
    }
    arguments = {key: value for key, value in arguments.items() if value}
    _write(render_service(changes, arguments, identity=identity), file)


def _served(
    presets: list[str], renditions: list[str] | None, pairs: list[str] | None, *, accept_licence: bool
) -> dict[str, Any]:
    """Return the arguments of ``pipeline.serve.on_ray`` that say what is served.

    Raises:
        ConfigError: A value is invalid, the cluster could not read what it names, or a licence is not accepted.
    """
    from pipeline.config.job import parse_overrides
    from pipeline.config.portable import portable_service
    from pipeline.models.resolve import check_licence

    loaded, arguments = portable_service(presets, parse_overrides(pairs or []), renditions or ())
    for one in loaded:
        check_licence(one, accept_licence)
    return arguments | {"presets": presets[1:], "accept_licence": accept_licence}


def _web_roots(roots: list[str] | None) -> list[str]:
    """Return the allowed roots, if the pods can read them.

    Raises:
        ConfigError: One is no web address that they reach.
    """
    from pipeline.config.job import Storage
    from pipeline.errors import ConfigError
    from pipeline.storage.allowlist import AllowList

    for root in roots or ():
        if not root.startswith("https://"):
            raise ConfigError(f"--allow-root {root} does not begin with https://: a service on a cluster reads nothing else")
        AllowList.of(Storage(allow_roots=(root,)))
    return roots or []


def _carried(
    overlay: str,
    where: Mapping[str, str | None],
    job_file: str | None,
    pairs: list[str],
    renditions: list[str] | None,
    allow_roots: list[str] | None,
) -> tuple[Job, dict[str, str], dict[str, str]]:
    """Return a job, its files for the cluster, and its manifest, output and preset there.

    Without a job file, what ``where`` lacks comes from the overlay.

    Raises:
        ConfigError: A setting is invalid, or the cluster could not read what it names.
    """
    from pipeline.config.job import merge_settings
    from pipeline.config.portable import PRESET_FILE, portable_job
    from pipeline.config.presets import DEFAULT_PRESET
    from pipeline.deploy.render import settings_of
    from pipeline.deploy.settings import JOB_FOLDER

    overlays = {} if job_file else settings_of(overlay)
    manifest, output, preset = (where[key] or overlays.get(key) for key in ("manifest", "output", "preset"))
    loaded = options.job_of(manifest, output, preset, job_file, pairs, allow_roots, renditions)
    given = merge_settings(manifest=manifest, output=output, preset=preset, overrides=pairs, job_file=job_file)
    files = portable_job(loaded, given, JOB_FOLDER)
    name = f"{JOB_FOLDER}/{PRESET_FILE}" if PRESET_FILE in files else given["preset"] or DEFAULT_PRESET
    return loaded, files, {"manifest": loaded.manifest, "output": loaded.output.uri, "preset": name}


def _check_scaling(text: str, job: Job) -> None:
    """Refuse settings that do not go with the options by which a run on GPUs scales.

    Raises:
        ConfigError: It names them.
    """
    from pipeline.config.job import Compute
    from pipeline.config.sections import build

    if found := re.search(r"--wait-for-gpus\s+(\d+)\s+--max-actors\s+(\d+)", text):
        options_ = {"wait_for_gpus": int(found[1]), "max_actors": int(found[2])}
        build(Compute, job.compute.model_dump(exclude_unset=True) | options_, "the job with --max-actors of this overlay")


def _write(text: str, file: Path | None) -> None:
    """Write the manifests, and say how to apply them."""
    from pipeline.errors import StorageError

    if file is None:
        echo(text)
        if sys.stdout.isatty():
            err.print(f"# apply it: matteline infra render … | {APPLY} -", markup=False)
        return
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {file}: {error.strerror}") from error
    out.print(f"{file}: {APPLY} {file}", markup=False)
