"""The command line, `kotae`: serve models, show and verify them, measure and tune them."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from service.errors import ModelRejected, StartFailed
from service.settings import CONFIG_VARIABLE, load_settings

if TYPE_CHECKING:
    from service.repository.catalog import Catalog

app = typer.Typer(help="Kotae serves models over HTTP.", no_args_is_help=True, pretty_exceptions_enable=False)
models_app = typer.Typer(help="List, show and verify the models of a folder.", no_args_is_help=True)
app.add_typer(models_app, name="models")

ModelsOption = Annotated[Path | None, typer.Option("--models", help="Folder of models.")]
DeviceOption = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]


@app.command()
def serve(
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 picks a free one.")] = None,
    models: ModelsOption = None,
    device: DeviceOption = None,
    http_workers: Annotated[
        int | None, typer.Option(help="HTTP worker processes; 0 runs everything in one process.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
) -> None:
    """Serve all models of a folder over HTTP."""
    for number in (signal.SIGTERM, signal.SIGINT):  # until the server installs its own handlers
        signal.signal(number, lambda *_: sys.exit(0))
    if config is not None:
        os.environ[CONFIG_VARIABLE] = str(config)
    from service.telemetry.logs import configure_logging, set_log_level

    configure_logging("info")
    settings = load_settings(host=host, port=port, models=models, device=device, http_workers=http_workers)
    set_log_level(settings.log_level)
    if settings.http_workers:
        from service.multiprocess.supervisor import supervise

        supervise(settings)
        return
    from service.app import create_app
    from service.http.server.drain import serve as run_server
    from service.http.server.listeners import open_listeners

    app = create_app(settings)
    run_server(app, settings, open_listeners(settings))


@app.command()
def keys(
    name: Annotated[str, typer.Argument(help="Name of the key, shown in the log.")],
    file: Annotated[Path, typer.Option(help="Keys file to add it to; created if missing.")],
    scope: Annotated[list[str] | None, typer.Option(help="infer, admin or metrics; repeatable.")] = None,
) -> None:
    """Create an API key: print it once, and add its hash to the keys file."""
    from service.http.auth import add_key

    typer.echo(add_key(file, name, tuple(scope or ["infer"])))


@models_app.command("list")
def list_models(models: ModelsOption = None) -> None:
    """List the models without loading them."""
    from service.repository.catalog import Catalog

    names = (Column(title, no_wrap=True) for title in ("model", "task"))
    table = Table(*names, "versions", "marks", "description")
    for model in Catalog.of_folder(load_settings(models=models).models).models.values():
        manifest = model.manifest
        if manifest is None:
            table.add_row(model.name, "?", "", "", f"[red]{escape(model.reason)}")
            continue
        versions = ", ".join(str(number) for number in model.version_numbers()) or "[red]none"
        marks = ", ".join(name for name in ("default", "required") if getattr(manifest, name))
        table.add_row(model.name, manifest.task, versions, marks, escape(manifest.description))
    _wide().print(table)


@models_app.command("show")
def show_model(name: str, models: ModelsOption = None) -> None:
    """Show a model's manifest and the description of its newest version."""
    from service.repository.manifest import MANIFEST_FILE, VERSION_FILE, version_folders

    folder = load_settings(models=models).models / name
    if not (folder / MANIFEST_FILE).is_file():
        raise StartFailed(f"{folder} is not a model: it holds no {MANIFEST_FILE}")
    console = Console()
    for path in (folder / MANIFEST_FILE, *(entry / VERSION_FILE for _, entry in version_folders(folder)[:1])):
        console.rule(str(path.relative_to(folder)))
        console.print(path.read_text(encoding="utf-8"), markup=False, highlight=True, soft_wrap=True)


@models_app.command("verify")
def verify_models(
    names: Annotated[list[str] | None, typer.Argument(help="Models to verify; by default all.")] = None,
    models: ModelsOption = None,
    device: DeviceOption = None,
) -> None:
    """Load every version and run its golden check; exit with 1 if one fails."""
    logging.disable(logging.CRITICAL)  # the table has the same information
    from service.repository.catalog import Catalog

    settings = load_settings(models=models, device=device)
    catalog = Catalog.of_folder(settings.models, settings.device)
    if unknown := sorted(set(names or ()) - catalog.models.keys()):
        raise StartFailed(f"no such model: {', '.join(unknown)}")
    if names:
        catalog.models = {name: catalog.models[name] for name in names}
    catalog.load(every_version=True)
    _wide().print(_verification_table(catalog))
    if not catalog.models or any(model.has_failure for model in catalog.models.values()):
        raise typer.Exit(1)


def _verification_table(catalog: Catalog) -> Table:
    table = Table("model", "version", "state", "device", "largest difference", "reason")
    for model in catalog.models.values():
        if not model.versions:
            table.add_row(model.name, "", "[red]failed", "", "", escape(model.reason))
        for number, version in model.versions.items():
            error = version.golden_check_error
            table.add_row(
                model.name,
                str(number),
                "[green]ready" if version.state == "ready" else f"[red]{version.state}",
                ", ".join(map(str, version.devices)),
                "" if error is None else f"{error:.2g}",
                escape(version.reason),
            )
    return table


@app.command()
def bench(
    url: Annotated[str, typer.Argument(help="URL of a running service, or of one of its routes.")],
    *,
    task: Annotated[str | None, typer.Option(help="Task, such as image-classification.")] = None,
    route: Annotated[str | None, typer.Option(help="Route, such as /v1/embeddings.")] = None,
    model: Annotated[str | None, typer.Option(help="Model; by default that of the task.")] = None,
    file: Annotated[list[Path] | None, typer.Option(help="File to send; repeatable.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="Text to send; repeatable.")] = None,
    clients: Annotated[
        int | None, typer.Option(help="Closed loop: concurrent clients; by default 8.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Open loop: requests per second, Poisson arrivals.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Duration of the measurement.")] = 10,
    deadline_ms: Annotated[float | None, typer.Option(help="Deadline of every request.")] = None,
    priority: Annotated[int | None, typer.Option(help="Priority of every request; 1 is highest.")] = None,
    key: Annotated[str | None, typer.Option(help="API key.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of arrivals and of the choice of inputs.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Load a service and report latency percentiles, goodput and rejections.

    In open loop, latency counts from the time at which a request was scheduled, and the program spins: give
    it its own CPU core. A small request takes it 10 to 20 microseconds, so that the program itself limits the
    rate to some tens of thousands of requests per second; it reports requests that it sent late.
    """
    from service.tools.load.command import RequestOptions, print_summary, run_load, write_json
    from service.tools.load.plan import LoadPlan

    options = RequestOptions(url, task, route, model, file or (), text or (), deadline_ms, priority, key)
    address, requests = options.requests()
    plan = LoadPlan(
        address,
        requests,
        seconds,
        clients=clients or (0 if rate else 8),
        rate=rate or 0,
        deadline_seconds=None if deadline_ms is None else deadline_ms / 1000,
        seed=seed,
    )
    summary = run_load(plan, Console(stderr=True))
    if as_json:
        typer.echo(write_json(summary))
    else:
        print_summary(summary, Console())


@app.command()
def tune(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    *,
    models: ModelsOption = None,
    device: DeviceOption = None,
    deadline_ms: Annotated[
        float | None, typer.Option(help="Latency limit; by default the manifest's deadline.")
    ] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32, fp16 or int8.")] = "auto",
    max_items: Annotated[
        int | None, typer.Option(min=1, help="Largest batch; by default the manifest's.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0, help="Approximate time of all measurements.")] = 60,
    overrides: Annotated[
        Path | None, typer.Option(help="File to write; by default that of KOTAE_OVERRIDES.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="File for a PNG of latency over throughput.")] = None,
) -> None:
    """Find the best batch size, lanes and threads of a model on this host, and save them.

    Run it while the host is otherwise idle. A setting is accepted if a request meets the deadline while every
    lane is busy: it waits for one running batch and then runs in its own, with a margin.
    """
    from service.tools.tuning.choice import choose
    from service.tools.tuning.command import TuningOptions, draw, print_table, save_overrides
    from service.tools.tuning.command import tune as run_tune

    settings = load_settings(models=models, device=device)
    tuning = TuningOptions(settings.models / model, settings.device, precision, max_items, seconds)
    manifest, measured = run_tune(tuning, Console(stderr=True))
    limit_seconds = manifest.deadline_seconds if deadline_ms is None else deadline_ms / 1000
    best = choose(measured, limit_seconds)
    print_table(measured, best, limit_seconds, _wide())
    if picture is not None:
        draw(measured, best, limit_seconds, picture)
    if best is None:
        raise StartFailed(f"no setting answers within {limit_seconds * 1000:g} ms on a busy host")
    file = overrides or settings.overrides
    if file is None:
        typer.echo("not saved: name a file with --overrides FILE or KOTAE_OVERRIDES")
        return
    save_overrides(manifest.name, best, file, precision)
    typer.echo(f"saved in {file}; the service reads it if KOTAE_OVERRIDES names it")


def _wide() -> Console:
    """Return the terminal; with wide lines if a file or a program reads the output."""
    return Console(width=None if sys.stdout.isatty() else 200)


def main() -> None:
    """Run the command line; an error that an operator can correct is one line on standard error, code 2."""
    try:
        app()
    except (StartFailed, ModelRejected) as error:
        Console(stderr=True).print(f"[red]kotae:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
