"""`compare.html`: several runs side by side, and what differs between their recipes."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.config import ConfigError, load_config
from pipeline.report.page import Page, render
from pipeline.report.recipes import differences
from pipeline.report.run_data import read
from pipeline.report.run_page import whole_run
from pipeline.state import RunFolder, write_text


def write(folders: Sequence[RunFolder], to: Path) -> Path:
    """Write the page of several runs, which have begun; return the file.

    Raises ConfigError for a single run, and for runs that have one name; RunFolderError for one that has not begun.
    """
    if len(folders) < 2:
        raise ConfigError(f"there is nothing to compare {folders[0].root} with; name another run, or see: strop report")
    configs = [load_config(folder.resolved) for folder in folders]
    seen: dict[str, Path] = {}
    for config, folder in zip(configs, folders, strict=True):
        other = seen.setdefault(config.name, folder.root)
        if other is not folder.root:
            raise ConfigError(
                f"{other} and {folder.root} are both the run {config.name!r}, so the page could not tell them apart; "
                "name each run once, and run a recipe a second time under another name: --set name=..."
            )
    runs = [read(config, folder) for config, folder in zip(configs, folders, strict=True)]
    page = Page(
        title=" and ".join([", ".join(config.name for config in configs[:-1]), configs[-1].name]),
        facts=f"{len(runs)} runs side by side",
        runs=runs,
        rows=list(whole_run(runs)),
        differences=differences(configs),
        notes=[f"{run.config.name}: {note}" for run in runs for note in run.notes],
    )
    if to.is_dir():
        raise ConfigError(f"--to {to} is a folder; name a file, such as {to / 'compare.html'}")
    to.parent.mkdir(parents=True, exist_ok=True)
    write_text(to, render(page))
    return to
