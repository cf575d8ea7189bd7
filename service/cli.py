"""The `local-video-server` command."""

from __future__ import annotations

import sys
from errno import EDQUOT, ENOSPC
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

import telemetry
from config import Loaded, Settings
from config.settings import env_name, option_name
from config.table import shown
from service.commands import doctor, loadtest, report, request, requests
from service.commands.options import FAILED, INTERRUPTED, WRONG_SETTING, fail, load, setting_options
from service.errors import ServerError
from service.probe import mime_type
from service.samples import SAMPLES, is_unfinished, make_samples


class _Commands(click.Group):
    """Ends quietly after a Ctrl-C, and with one line when what it writes has no room."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            if error.errno not in (ENOSPC, EDQUOT):
                raise
            sys.stdout = None  # else Python tries once more to write, and says that it can't
            fail(f"can't write what there is to say: {error.strerror}", FAILED)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="local-video-server", message="%(prog)s %(version)s")
def main() -> None:
    """A small video server for one folder, with exact performance figures."""


@main.command()
@click.option(
    "--samples",
    is_flag=True,
    help="With no video in the folder, make a few short clips there first. The default folder need not exist.",
)
@setting_options
def serve(samples: bool, config_file: Path | None, **options: Any) -> None:
    """Serve a folder of videos."""
    loaded = load(config_file, options)
    settings, console = loaded.settings, Console()
    _prepare_folder(loaded, samples, console)
    _prepare_data(loaded)
    try:
        from service.server import address, claim_port, pick_port, run

        settings = settings.model_copy(update={"port": pick_port(settings.host, settings.port)})
        claimed = claim_port(settings.data, settings.port) if loaded.settings.port else None
        token = _check_start(settings)
    except (telemetry.SettingsError, telemetry.InstrumentationError) as error:
        fail(str(error), WRONG_SETTING)
    except (ServerError, OSError) as error:
        fail(str(error), FAILED)
    url = address(settings.host, settings.port)
    run(settings, lambda: _greet(console, settings, url, token))
    if claimed is not None:
        claimed.release()
    console.print("Stopped.")


def _check_start(settings: Settings) -> str:
    """Read the telemetry's settings, bring the schema up to date and return the admin token, here, where a complaint is one
    line for the user."""
    from service.admin import load_token
    from service.db import DATABASE_FILE, Database
    from telemetry import apps, pipeline
    from telemetry.exporters import registry

    loaded = telemetry.TelemetrySettings.load()
    registry.of_settings(loaded)
    apps.check_instrumentation(loaded.instrumentation)
    pipeline.check()
    Database(settings.data.resolve() / DATABASE_FILE).close()
    return load_token(settings.data.resolve())


def _prepare_folder(loaded: Loaded, samples: bool, console: Console) -> None:
    folder = loaded.settings.videos
    name = _name(loaded, "videos")
    if folder.exists() and not folder.is_dir():
        fail(f"{name} must be a folder, got the file '{folder}'", WRONG_SETTING)
    is_default = loaded.origins["videos"] == "default"
    if samples and (is_default or folder.exists()) and _wants_samples(folder):
        _make_samples(folder, console)
    if not folder.is_dir():
        remedy = "; --samples makes it, with a few clips" if is_default else ""
        fail(f"{name} must be a folder that exists, got '{folder}'{remedy}", WRONG_SETTING)


def _prepare_data(loaded: Loaded) -> None:
    folder = loaded.settings.data
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        fail(
            f"{_name(loaded, 'data')} must be a folder that can be made and written, got '{folder}': {error.strerror}",
            WRONG_SETTING,
        )


def _name(loaded: Loaded, field: str) -> str:
    """Return a setting's name as the user gave it."""
    origin = loaded.origins[field]
    if origin == env_name(field):
        return origin
    return option_name(field) if origin in {"command line", "default"} else f"{field} in {origin}"


def _wants_samples(folder: Path) -> bool:
    """Say whether a folder has no video, or nothing but some of the clips that were once begun there."""
    if not folder.is_dir():
        return True
    videos = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if mime_type(path.name) and path.is_file()
    }
    return not videos or (is_unfinished(folder) and videos <= {sample.path for sample in SAMPLES})


def _make_samples(folder: Path, console: Console) -> None:
    columns = (
        TextColumn("Making sample clips"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[path]}"),
    )
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("samples", total=len(SAMPLES), completed=-1, path="")
            make_samples(folder, lambda path: progress.update(task, advance=1, path=path))
    except OSError as error:
        fail(f"can't make the sample clips in '{folder}': {error.strerror or error}", FAILED)


def _greet(console: Console, settings: Settings, url: str, token: str) -> None:
    from service.admin import url_with_token

    workers = "1 worker" if settings.workers == 1 else f"{settings.workers} workers"
    lines = (
        ("Library", f"{url}/"),
        ("Performance", f"{url}/admin/performance" if settings.is_on_loopback else url_with_token(url, token)),
        ("Folder", str(settings.videos.resolve())),
        ("Serving", f"{workers}, {settings.threads} threads each; Ctrl-C stops"),
    )
    for label, value in lines:
        # Text, not markup: a folder may be called [bold].
        console.print(
            Text(f"{label:<12} ", style="dim") + Text(value, style="bold" if value.startswith("http") else ""),
            soft_wrap=True,
        )


@main.command("make-samples")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
def make_samples_command(folder: Path) -> None:
    """Make a few short video clips in FOLDER."""
    _make_samples(folder, Console())
    click.echo(f"{len(SAMPLES)} clips in {folder}")


@main.command()
@setting_options
def config(config_file: Path | None, **options: Any) -> None:
    """Show the settings in force and where each comes from."""
    loaded = load(config_file, options)
    table = Table("setting", "value", "from", box=None, header_style="dim")
    for field in type(loaded.settings).model_fields:
        table.add_row(Text(field), Text(shown(getattr(loaded.settings, field))), Text(loaded.origins[field]))
    Console(soft_wrap=True).print(table)


for _command in (doctor, loadtest, report, request, requests):
    main.add_command(_command)
