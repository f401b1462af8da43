"""``matteline serve``: cut out pictures over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs import options


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
    rendition: options.OwnRenditions = None,
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
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="Answer requests to this host name. With --host 0.0.0.0: only to these names and localhost. Repeatable.",
        ),
    ] = None,
    allow_origin: options.AllowOrigin = None,
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
    from pipeline.config.job import parse_overrides
    from pipeline.config.presets import DEFAULT_PRESET
    from pipeline.errors import ConfigError
    from pipeline.log import log, set_up_logging
    from pipeline.serve.settings import Serving, read_token

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
    try:
        from pipeline.serve.configure import Options, configure
        from pipeline.serve.server import listen, run
    except ModuleNotFoundError as error:
        raise ConfigError(f"matteline serve needs {error.name}: pip install 'matteline[serve]'") from None
    chosen = Options(
        presets=tuple(preset or [DEFAULT_PRESET]),
        renditions=tuple(rendition or ()),
        changes=parse_overrides(set_ or []),
        accept_licence=accept_licence,
        read=tuple(allow_root or ()),
        write=tuple(output_root or ()),
        max_jobs=max_jobs,
    )
    make_service = configure(chosen, settings)
    listening = listen(settings)
    name = f"[{host}]" if ":" in host else host
    log.info(f"listening on http://{name}:{listening.getsockname()[1]}", extra={"facts": {"presets": list(chosen.presets)}})
    run(make_service, listening, settings)
