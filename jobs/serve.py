"""``matteline serve``: cut out pictures over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.config.job import Limits
    from pipeline.config.rendition import Rendition
    from pipeline.models.backgrounds import Backgrounds
    from pipeline.serve.jobs.jobs import Jobs
    from pipeline.serve.jobs.offer import Offer
    from pipeline.storage.files import Files


def serve(
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on. One that other machines reach needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="Port to listen on; 0 chooses a free one.")] = 8000,
    preset: Annotated[
        list[str] | None,
        typer.Option(
            "--preset",
            "-p",
            help="Model: a name from `matteline models`, or a .yaml file. Repeatable: each is one more model in memory; the "
            "first is the default.",
        ),
    ] = None,
    rendition: Annotated[
        list[str] | None,
        typer.Option(
            "--rendition", "-r", metavar="FILE", help="Offer this rendition of yours, a .yaml file, besides the bundled ones."
        ),
    ] = None,
    token_file: Annotated[
        str | None,
        typer.Option(
            "--token-file",
            metavar="FILE",
            help="File with the token that clients must send. Default: the variable MATTELINE_TOKEN.",
        ),
    ] = None,
    queue: Annotated[
        int, typer.Option("--queue", min=1, max=4096, help="Requests at a time; more get 503 with Retry-After.")
    ] = 32,
    deadline: Annotated[
        float, typer.Option("--deadline", min=0.1, help="Seconds from a picture's arrival to its answer; then 504.")
    ] = 60.0,
    batch_wait: Annotated[
        float, typer.Option("--batch-wait", min=0, max=1000, help="Milliseconds that a batch waits for pictures in decoding.")
    ] = 5.0,
    drain: Annotated[float, typer.Option("--drain", min=1, help="Seconds that requests get to end after SIGTERM.")] = 30.0,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help="Answer requests to this host name, too. Repeatable."),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option("--allow-origin", metavar="ORIGIN", help="Serve web pages of this origin (CORS). Repeatable."),
    ] = None,
    allow_root: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-root",
            metavar="URI",
            help="Let requests name addresses below this one to be read: web addresses for GET /api/remove?url=…, folders and "
            "prefixes for jobs. Repeatable.",
        ),
    ] = None,
    output_root: Annotated[
        list[str] | None,
        typer.Option(
            "--output-root",
            metavar="URI",
            help="Take jobs (POST /v1/jobs) that write below this folder or prefix. Default: the service takes no jobs. "
            "Repeatable.",
        ),
    ] = None,
    max_jobs: Annotated[int, typer.Option("--max-jobs", min=1, max=64, help="Jobs at a time; more get 503.")] = 1,
    set_: options.Set = None,
    accept_licence: options.AcceptLicence = False,
    verbose: options.Verbose = False,
) -> None:
    """Cut out pictures over HTTP: POST /v1/cutout, a page to try it at /, and what rembg's clients send.

    Stop it with Ctrl-C or SIGTERM: it finishes the requests that have begun.
    """
    from pipeline.config.job import Compute, Limits, Storage, parse_overrides
    from pipeline.config.presets import DEFAULT_PRESET, load_preset
    from pipeline.config.rendition import load_rendition, rendition_names
    from pipeline.config.sections import build
    from pipeline.errors import ConfigError
    from pipeline.log import log, set_up_logging
    from pipeline.models.resolve import check_licence
    from pipeline.serve.settings import Serving, read_token
    from pipeline.storage.files import Files

    set_up_logging(verbose=verbose)
    settings = Serving(
        host=host,
        port=port,
        token=read_token(token_file),
        hosts=tuple(allow_host or ()),
        origins=tuple(allow_origin or ()),
        queue=queue,
        deadline_s=deadline,
        wait_s=batch_wait / 1000,
        drain_s=drain,
    )
    changes = parse_overrides(set_ or [])
    storage = build(Storage, changes.get("storage", {}), "--set")
    limits = build(Limits, changes.get("limits", {}), "--set")
    compute = build(Compute, changes.get("compute", {}), "--set")
    files = Files(storage.model_copy(update={"allow_roots": (*storage.allow_roots, *(allow_root or ()))}))
    loaded = [load_preset(name, changes.get("recipe")) for name in preset or [DEFAULT_PRESET]]
    presets = {one.recipe.name: one for one in loaded}
    if len(presets) < len(loaded):
        raise ConfigError("two presets have the same name; give each --preset once")
    for one in loaded:
        check_licence(one, accept_licence)
    renditions, backgrounds = _renditions(rendition or (), files, limits)
    try:
        from pipeline.serve.jobs.offer import Offer
        from pipeline.serve.server import listen, run
        from pipeline.serve.service import Service
    except ModuleNotFoundError as error:
        raise ConfigError(f"matteline serve needs {error.name}: pip install 'matteline[serve]'") from None
    offer = Offer(
        read=files.storage.allow_roots,
        write=tuple(output_root or ()),
        most=max_jobs,
        presets=dict(zip(presets, preset or [DEFAULT_PRESET], strict=True)),
        renditions={load_rendition(one).name: one for one in (*rendition_names(), *(rendition or ()))},
        settings={f"{section}.{key}": value for section, pairs in changes.items() for key, value in pairs.items()}
        | ({"run.accept_licence": True} if accept_licence else {}),
    )
    jobs = _jobs(offer, files)
    listening = listen(settings)
    name = f"[{host}]" if ":" in host else host
    log.info(f"listening on http://{name}:{listening.getsockname()[1]}", extra={"facts": {"presets": list(presets)}})
    run(lambda: Service(presets, renditions, backgrounds, settings, limits, compute, files, jobs), listening, settings)


def _jobs(offer: Offer, files: Files) -> Jobs | None:
    """Return the jobs of a service that takes some.

    Raises:
        ConfigError: A root for outputs cannot be used.
    """
    from pipeline.serve.jobs.jobs import Jobs

    if not offer.write:
        return None
    for root in offer.write:
        files.check_writable(files.absolute(root))
    return Jobs(offer, files)


def _renditions(own: Sequence[str], files: Files, limits: Limits) -> tuple[dict[str, Rendition], Backgrounds]:
    """Return the bundled renditions and the user's own by the name of their file, and their background pictures.

    Raises:
        ConfigError: One cannot be used, or a name is used twice.
    """
    from pipeline.config.rendition import check_unique_names, load_rendition, rendition_names
    from pipeline.errors import ConfigError
    from pipeline.models.backgrounds import pin_backgrounds

    chosen = [load_rendition(name) for name in [*rendition_names(), *own]]
    try:
        check_unique_names(chosen)
    except ValueError as error:
        raise ConfigError(f"--rendition: {error}") from None
    pinned, backgrounds = pin_backgrounds(chosen, files, limits)
    return {
        file.name: one.model_copy(update={"size_px": () if file.size_px is None else (file.size_px,)})
        for one in pinned
        for file in one.files
    }, backgrounds
