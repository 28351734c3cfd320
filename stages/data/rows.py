"""Rows of a data set, checked: messages are messages, columns are there, errors name the line."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from rewards.hub import BRANCH
from stages.data import surrogates
from stages.data.config import ColumnConfig, DataSetConfig
from stages.data.layouts import LayoutError, arrange

Row = dict[str, Any]
"""One example; `prompt` and `completion` are lists of messages, the rest is the data set's own. What its chat template
is given by name, the recipe's and the row's own, is in `chat_template_kwargs`, tools that it shows are in `tools`."""

SHOWN = ("tools", "chat_template_kwargs")
"""Columns that a chat template reads next to messages."""
_ROLES = {"system", "developer", "user", "assistant", "tool"}
_AUTHOR = {"prompt": "user", "completion": "assistant", "chosen": "assistant", "rejected": "assistant"}


class DataError(ValueError):
    """A data set that is missing, empty, or not what a stage needs."""


class _PlacedRow(Row):
    """A row that knows where it stands."""

    place = ""


def place_of(row: Row) -> str:
    """Return the file and line that a row stands in, for messages."""
    return getattr(row, "place", "") or "a row"


def asked_of(row: Row) -> Row:
    """Return what of the row its prompt is made of, still knowing where it stands."""
    asked = _PlacedRow({name: row[name] for name in ("prompt", *SHOWN) if row.get(name) is not None})
    asked.place = getattr(row, "place", "")
    return asked


def with_columns(row: Row, **columns: Any) -> Row:
    """Return the row with other columns, still knowing where it stands."""
    changed = _PlacedRow({**row, **columns})
    changed.place = getattr(row, "place", "")
    return changed


def load_rows(config: DataSetConfig, needs: Sequence[str]) -> list[Row]:
    """Return the rows with our column names; each has every column in ``needs``.

    Raises DataError naming file, line and what is there instead.
    """
    source = _read_file(config) if config.is_file else _read_hub(config)
    rows = [_row(config, needs, where, raw) for where, raw in source]
    if not rows:
        raise DataError(f"{config.path} holds no rows; a stage needs at least one")
    for ours, theirs in config.columns.items():
        if all(row.get(ours) is None for row in rows):
            raise DataError(f"no row of {config.path} has column {theirs.column!r}, which is to be {ours!r}")
    return rows


def fingerprint(config: DataSetConfig) -> str:
    """Identity of the content: a hash of the file, or the Hub id with its revision."""
    if not config.is_file:
        return f"{config.path}@{config.revision or BRANCH}"
    with _open(config).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def row_id(row: Row) -> str:
    """Return the row's name, stable while its content is: given as `id`, or a hash."""
    if "id" in row:
        return str(row["id"])
    return hashlib.sha256(json.dumps(row, sort_keys=True, default=str).encode()).hexdigest()[:16]


def reward_columns(row: Row) -> dict[str, Any]:
    """Return what of a row goes along with its prompt for rewards to read.

    A gold completion does so as ``gold_completion``: rewards know ``completions`` as what the policy wrote.
    """
    return {
        "gold_completion" if name == "completion" else name: value
        for name, value in row.items()
        if name not in ("prompt", "id")
    }


def _open(config: DataSetConfig) -> Path:
    path = Path(config.path)
    if not path.is_file():
        what = "is no file" if path.exists() else "does not exist"
        raise DataError(
            f"data file {config.path} {what} (looked from {Path.cwd()}); "
            "a path without .jsonl would be taken as the id of a Hub data set"
        )
    return path


def _read_file(config: DataSetConfig) -> Iterator[tuple[str, Mapping[str, Any]]]:
    count = 0
    with _open(config).open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            if config.limit is not None and count >= config.limit:
                return
            where = f"{config.path}, line {number}"
            try:
                value = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:  # not UTF-8, or not JSON
                raise DataError(f"{where} is not JSON ({error}); expected JSONL in UTF-8, one object a line") from error
            if not isinstance(value, dict):
                raise DataError(f"{where} holds a {type(value).__name__}; expected JSONL, one object a line")
            if surrogates.MAY_HOLD.search(line) and (found := surrogates.find(value)):
                raise DataError(
                    f"{where}, {found}, half of a character (a lone surrogate), which cannot be made into tokens; the "
                    "text was cut inside an emoji, say. Delete it, or write the row again by "
                    "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
                )
            count += 1
            yield where, value


def _read_hub(config: DataSetConfig) -> Iterator[tuple[str, Mapping[str, Any]]]:
    import datasets

    name = config.hub_name()
    try:
        builder = datasets.load_dataset_builder(config.path, config.name, revision=config.revision)
    except Exception as error:
        raise DataError(f"{name} cannot be loaded from the Hub: {error}") from error
    if name.is_pinned and builder.hash != name.revision:  # what `datasets` does where it does not reach the Hub
        raise DataError(
            f"{name} cannot be loaded: the Hub is not reached, and this machine's cache has commit {builder.hash} for "
            "the newest; connect to the Hub, or name that commit"
        )
    try:
        builder.download_and_prepare()
        rows: Iterable[Mapping[str, Any]] = builder.as_dataset(split=config.split)
    except Exception as error:
        raise DataError(f"{name} cannot be loaded from the Hub: {error}") from error
    for number, row in enumerate(rows):
        if config.limit is not None and number >= config.limit:
            return
        yield f"{config.path}[{config.split}], row {number}", row


def _row(config: DataSetConfig, needs: Sequence[str], where: str, raw: Mapping[str, Any]) -> Row:
    mapped = {ours: _mapped(source, where, raw) for ours, source in config.columns.items()}
    try:
        row = _PlacedRow(arrange({**raw, **mapped}, frozenset(mapped)))
    except LayoutError as error:
        raise DataError(f"{where}: {error}") from error
    row.place = where
    for ours, source in config.columns.items():
        if row.get(ours) is None and ours in needs:
            raise DataError(
                f"{where} has no column {source.column!r}; its columns are {', '.join(map(repr, sorted(raw)))}"
            )
    missing = [name for name in needs if row.get(name) is None]
    if "completion" in missing and "prompt" not in {**raw, **mapped} and (turns := row.get("prompt")):
        raise DataError(
            f"{where} has a conversation that ends with a turn of {turns[-1].get('role')!r}, so there is no answer to "
            "learn; end it with the assistant's turn, or leave the row out"
        )
    if missing:
        raise DataError(
            f"{where} has no {' and no '.join(map(repr, missing))}; its columns are "
            f"{', '.join(map(repr, sorted(raw)))}. Name the right one under `columns`, "
            f"for instance columns: {{{missing[0]}: THEIR_NAME}}"
            + ("; plain DPO, loss: {type: dpo}, needs no scores" if "score_chosen" in missing else "")
        )
    for name, role in _AUTHOR.items():
        if row.get(name) is not None and (name in needs or name == "prompt"):
            row[name] = _messages(row[name], role, f"{where}, column {name!r}")
            _check_turns(row[name], role, f"{where}, column {name!r}")
    if config.system is not None and "prompt" in row:
        rest = [turn for turn in row["prompt"] if turn["role"] != "system"]
        row["prompt"] = [{"role": "system", "content": config.system}, *rest]
    if config.chat_template_kwargs or row.get("chat_template_kwargs") is not None:
        row["chat_template_kwargs"] = {**config.chat_template_kwargs, **_settings(row, where)}
    return row


def _settings(row: Row, where: str) -> dict[str, Any]:
    """Return what the row's own template settings are: an object, or its JSON text."""
    given = row.get("chat_template_kwargs")
    try:
        value = json.loads(given) if isinstance(given, str) else given
    except ValueError:
        value = given
    if not isinstance(value, Mapping | None):
        raise DataError(f"{where} has chat_template_kwargs {given!r:.60}; expected an object of settings by name")
    return {name: setting for name, setting in (value or {}).items() if setting is not None}


def _mapped(source: ColumnConfig, where: str, raw: Mapping[str, Any]) -> Any:
    """Return the value that a column of ours has; None where the row has none."""
    value: Any = raw
    for name in [source.column] if source.column in raw else source.column.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    if value is None:
        return None
    if source.pattern is not None:
        match = re.search(source.pattern, str(value))
        if match is None or match.group(1) is None:
            raise DataError(f"{where}: column {source.column!r} does not match {source.pattern!r}")
        value = match.group(1).strip()
    return source.template.replace("{}", str(value)) if source.template != "{}" else value


def _messages(value: Any, role: str, where: str) -> list[dict[str, Any]]:
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if not isinstance(value, list) or not value:
        raise DataError(f"{where} holds {value!r:.60}; expected text or a non-empty list of messages")
    for turn in value:
        is_call = isinstance(turn, dict) and turn.get("content") is None and turn.get("tool_calls")
        if not isinstance(turn, dict) or not isinstance(turn.get("role"), str):
            raise DataError(f"{where} holds {turn!r:.60}; a message has a 'role' and a text 'content'")
        if not is_call and not isinstance(turn.get("content"), str):
            raise DataError(
                f"{where} holds {turn!r:.60}; a message has a 'role' and a text 'content', which may be null next to "
                "'tool_calls' alone"
            )
        if turn.get("weight", 1) not in (0, 1):
            raise DataError(f"{where} has a turn of weight {turn['weight']!r}; 1 is learned, 0 is not")
    return [dict(turn) for turn in value]


def _check_turns(turns: Sequence[Mapping[str, Any]], author: str, where: str) -> None:
    """Refuse a prompt that nobody is left to answer, and an answer that somebody else gives or that says nothing."""
    unknown = {turn["role"] for turn in turns} - _ROLES
    if unknown:
        raise DataError(f"{where} has the role {min(unknown)!r}; roles are {', '.join(sorted(_ROLES))}")
    roles = [turn["role"] for turn in turns]
    if "system" in roles[1:]:
        raise DataError(f"{where} has a system turn at place {roles[1:].index('system') + 2}; it can only come first")
    twice = [place for place, two in enumerate(pairwise(roles), start=2) if set(two) == {"assistant"}]
    if twice:
        raise DataError(f"{where} has two turns of the assistant in a row (the second is turn {twice[0]})")
    if author == "user" and turns[-1]["role"] == "assistant":
        raise DataError(f"{where} ends with the assistant's turn; a prompt ends where the assistant is to speak")
    if author == "assistant" and {turns[0]["role"], turns[-1]["role"]} != {"assistant"}:
        raise DataError(f"{where} begins or ends with another role than the assistant's; it is what the assistant says")
    last = turns[-1]
    if not (last["content"] or "").strip() and not last.get("tool_calls") and last["role"] != "tool":
        raise DataError(f"{where} ends with a turn that says nothing")
