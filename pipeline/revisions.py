"""Branches and tags on the Hub become commits, once a run: they are written down, and a run that goes on keeps them.

`revisions.json` in the run's folder says which commit each was taken for. A branch that has moved since changes nothing
there; who wants what is behind it now names that commit in the recipe.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from pipeline.config import RunConfig
from pipeline.state import RunFolder, RunFolderError, write_json
from rewards.hub import HubError, HubName, NamesOnHub, UnreachableError, commit_of
from rewards.remote_code import require_read_code
from stages.base import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """A recipe whose models and data sets on the Hub are commits."""

    config: RunConfig
    """With a commit for each revision, as far as they are known."""
    commits: Mapping[str, str]
    """Commit by what was asked for, such as `model org/name@main`."""
    problems: list[Problem]
    """What must be mended before the run can start."""
    unknown: list[Problem]
    """What could not be looked up: a run cannot start without it, and a check can."""


def pinned(config: RunConfig, folder: RunFolder) -> Pinned:
    """Return the recipe with commits: those that the run has already, else what the Hub, or its cache, says now.

    Writes nothing. Raises RunFolderError where the run's own file of them cannot be read.
    """
    commits, failed = dict(_kept(folder)), dict[str, HubError]()
    problems = dict[Problem, None]()

    def revision(name: HubName, where: str) -> str | None:
        at = f"{where}." if where else ""
        if name.is_here and name.revision is not None:
            problems[
                f"{at}{name.key} {name.revision!r} is of something on the Hub, and {name.id} is a folder or file here, "
                f"which has no revision: its content is what it is known by; leave {name.key} out"
            ] = None
        if not name.is_on_hub or name.is_pinned:
            return name.revision
        asked = str(name)
        if asked not in commits and asked not in failed:
            try:
                commits[asked] = commit_of(name)
            except HubError as error:
                failed[asked] = error
        try:
            require_read_code(name)
        except HubError as error:
            now = f" (which is {commits[asked]} now)" if asked in commits else ""
            problems[f"{at}{error}{now}"] = None
        return commits.get(asked, name.revision)

    found = with_revisions(config, revision)
    return Pinned(
        config=found,
        commits=commits,
        problems=[*problems, *(str(each) for each in failed.values() if not isinstance(each, UnreachableError))],
        unknown=[str(each) for each in failed.values() if isinstance(each, UnreachableError)],
    )


def keep(folder: RunFolder, commits: Mapping[str, str]) -> None:
    """Write a run's commits down."""
    if commits:
        write_json(folder.revisions, dict(sorted(commits.items())))


def with_revisions(node: Any, revision: Callable[[HubName, str], str | None], where: str = "") -> Any:
    """Return a config with other revisions, wherever it or a part of it names something on the Hub.

    ``revision`` says which, from the name and its place in the recipe, such as `stages.rl.rewards[0]`.
    """
    if isinstance(node, BaseModel):
        changed = {
            key: new
            for key in type(node).model_fields
            if (new := with_revisions(old := getattr(node, key), revision, f"{where}.{key}".lstrip("."))) is not old
        }
        name = node.hub_name() if isinstance(node, NamesOnHub) else None
        if name is not None and (found := revision(name, where)) != name.revision:
            changed[name.key] = found
        return node.model_copy(update=changed) if changed else node
    if isinstance(node, dict):
        parts = {key: with_revisions(value, revision, f"{where}.{key}".lstrip(".")) for key, value in node.items()}
        return parts if any(parts[key] is not node[key] for key in node) else node
    if isinstance(node, list | tuple):
        items = [with_revisions(value, revision, f"{where}[{at}]") for at, value in enumerate(node)]
        return type(node)(items) if any(new is not old for new, old in zip(items, node, strict=True)) else node
    return node


def _kept(folder: RunFolder) -> Mapping[str, str]:
    """Return the commits that a run has begun with; none where it has not."""
    file = folder.revisions
    if not file.is_file():
        return {}
    try:
        tree = json.loads(file.read_text())
        if not all(isinstance(commit, str) for commit in tree.values()):
            raise ValueError("a commit is no text")
        return dict(tree)
    except (OSError, ValueError, AttributeError) as error:
        raise RunFolderError(
            f"{file} is damaged ({type(error).__name__}: {error}); it has the commits of the run's models and data on "
            "the Hub. Name them in the recipe, as resolved.json has them, and delete it"
        ) from error
