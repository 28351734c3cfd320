"""What a recipe names on the Hugging Face Hub: models and data sets, by id and revision. Imports nothing heavy.

A branch moves. `pipeline.revisions` asks once, before a run begins, which commit each branch or tag is; from then on
whatever loads something asks for that commit.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from rewards.weight_files import PICKLES

HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
COMMIT = re.compile(r"[0-9a-f]{40}")
BRANCH = "main"
"""What a name without a revision means."""


class HubError(ValueError):
    """The Hub has no such model, data set or revision, or does not give it to this user."""


class UnreachableError(HubError):
    """The Hub was not reached, and its cache on this machine does not know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubName:
    """A model or data set as a recipe names it."""

    kind: Literal["model", "dataset"]
    id: str
    """On the Hub; or a folder's or file's path, which is a name there only where nothing is here."""
    revision: str | None
    """Branch, tag or commit; None: `main`."""
    runs_code: bool = False
    """Whether the recipe lets code run that lies there."""

    def __str__(self) -> str:
        return f"{self.kind} {self.id}@{self.revision or BRANCH}"

    @property
    def key(self) -> str:
        """The recipe's key for the revision, next to the name."""
        return "model_revision" if self.kind == "model" else "revision"

    @property
    def is_here(self) -> bool:
        """Whether it is a folder or file of this machine."""
        return Path(self.id).exists() or self.id.endswith((".jsonl", ".json"))

    @property
    def is_on_hub(self) -> bool:
        """Whether it can only be meant for the Hub."""
        return not self.is_here and HUB_ID.fullmatch(self.id) is not None

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a whole commit, which never moves."""
        return self.revision is not None and COMMIT.fullmatch(self.revision) is not None


@runtime_checkable
class NamesOnHub(Protocol):
    """A config that may name something on the Hub."""

    def hub_name(self) -> HubName | None:
        """Return what it names; None where it names nothing."""
        ...


def briefly(model: str, revision: str | None) -> str:
    """Return a model with its revision, of a commit the beginning."""
    return f"{model}@{revision[:12] if COMMIT.fullmatch(revision) else revision}" if revision else model


def commit_of(name: HubName) -> str:
    """Return the commit that a revision is now; where the Hub is not reached, what it was when it was last seen.

    Raises HubError where there is none, UnreachableError where that cannot be known.
    """
    if name.is_pinned:
        assert name.revision is not None
        return name.revision
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RevisionNotFoundError

    try:
        found = HfApi().resolve_revision(name.id, repo_type=name.kind, revision=name.revision)
    except RevisionNotFoundError as error:
        raise HubError(
            f"{name.kind} {name.id!r} has no revision {name.revision!r} on the Hub; {name.key} is the name of a branch "
            "or tag, or a commit"
        ) from error
    except (HfHubHTTPError, HFValidationError) as error:  # it has answered
        raise HubError(
            f"{name.kind} {name.id!r} is neither here (seen from {Path.cwd()}) nor to be had from the Hub: "
            f"{_told(error)}"
        ) from error
    except Exception as error:  # sockets, proxies, certificates, and what the library makes of them
        raise UnreachableError(
            f"{name} could not be looked up, and this machine's cache of the Hub does not have it: {_told(error)}; "
            f"connect to the Hub once, or give {name.key} as a commit that the cache has"
        ) from error
    return str(found.resolved)


def model_files(name: HubName) -> Path:
    """Return the folder in which a model's files of its revision lie; what the cache lacks is downloaded.

    Raises HubError.
    """
    import huggingface_hub

    try:
        path = huggingface_hub.snapshot_download(name.id, revision=name.revision, ignore_patterns=PICKLES)
    except Exception as error:
        raise HubError(
            f"{name} is neither a folder (seen from {Path.cwd()}) nor to be had from the Hub: {_told(error)}"
        ) from error
    return Path(path)


def _told(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
