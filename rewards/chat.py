"""Asking a chat model: an OpenAI-compatible endpoint, or a vLLM server of our own, with a cache and a meter.

    question -> cache, else its code, endpoint (retried, bounded in number and size) -> reply

For the rewards that a language model gives: `judge` and `verifier`.
"""

import asyncio
import hashlib
import hmac
import json
import os
import secrets
import sqlite3
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from rewards.control_tokens import kept_apart, of_folder
from rewards.questions import Question
from rewards.replies import EndpointError, MalformedReplyError, parsed, text_of, usage_of
from rewards.types import Cause, Mark, RewardError

if TYPE_CHECKING:
    from rewards.config import AskingConfig

TOKENS_A_PRICE = 1_000_000
"""Prices are for so many tokens."""
CODE_DIGITS = 16
"""Hexadecimal digits of a request's code."""
LEAST_SECRET, LONGEST_ERROR = 8, 500
"""Characters of a key that is hidden, and of an error that is told."""


class Meter:
    """What one group has cost."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(("requests", "cached", "prompt_tokens", "completion_tokens", "cost_usd"), 0.0)
        """Requests, those of them that the cache answered, tokens of both kinds, and dollars."""

    def add(self, **counts: float) -> None:
        """Count on."""
        for name, count in counts.items():
            self.counts[name] += count


class Chat:
    """A chat model that can be asked, by any number of coroutines at once on one event loop."""

    def __init__(self, config: "AskingConfig") -> None:
        """Connect, starting the server first where the endpoint is our own; RewardError where that cannot be."""
        import openai

        from rewards.transport import BoundedTransport

        self._config = config
        self._control = None
        place: Path | None = None
        if config.base_url is None:
            from rewards.serving import HOST, serve

            base_url = f"http://{HOST}/v1"
            place, self._api_key = serve(
                config.model,
                config.max_model_tokens,
                config.gpu_memory_utilization,
                revision=config.model_revision,
            )
            self._control = of_folder(config.model, config.model_revision)
        else:
            base_url, self._api_key = config.base_url, os.environ.get(config.api_key_variable) or "none"
        proxy = _proxy(config) if place is None else None
        transport = BoundedTransport(proxy=proxy, num_connections=config.parallel, place=place)
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=self._api_key,
            max_retries=config.max_retries,
            timeout=config.seconds,
            http_client=openai.DefaultAsyncHttpxClient(transport=transport, follow_redirects=False),
        )
        self._cache = _Cache(config.cache)
        self._seats = asyncio.Semaphore(config.parallel)
        self._under_way: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def ask(self, question: Question, meter: Meter, sample: int = 0) -> str:
        """Return the reply to one user turn; replies of different samples are drawn independently.

        What in it has the form of a control token is broken: the server would make one of it.

        Raises EndpointError once the retries are spent and for a reply that cannot be used, MalformedReplyError for one
        that was cut.
        """
        config = self._config
        request: dict[str, Any] = {
            "model": config.model,
            "max_tokens": config.max_tokens,
            "temperature": config.temperature,
        }
        if config.temperature > 0:
            request["seed"] = sample
        at = [config.model_revision] if config.model_revision else []  # another commit would reply otherwise
        whole = [config.base_url, request, config.request, asdict(question), *at]
        key = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
        meter.add(requests=1)
        async with self._under_way.setdefault(key, asyncio.Lock()):  # who asks the same meanwhile waits for the cache
            known = self._cache.get(key)
            if known is not None:
                meter.add(cached=1)
                return known
            text = kept_apart(question.text(self._cache.code(key)), self._control)
            text = text.encode(errors="replace").decode()  # half characters cannot be sent
            async with self._seats:
                body = await self._sent({**request, "messages": [{"role": "user", "content": text}]})
            told = parsed(body)
            self._count(meter, *usage_of(told))
            reply = text_of(told, body)
            self._cache.put(key, reply)
            return reply

    async def _sent(self, request: Mapping[str, Any]) -> bytes:
        """Return the body of the endpoint's answer, whatever it is."""
        import openai

        try:
            create = self._client.chat.completions.with_raw_response.create
            told = await create(**request, extra_body=self._config.request)
        except openai.OpenAIError as error:
            said = f"{type(error).__name__}: {error}"
            if len(self._api_key) >= LEAST_SECRET:  # some endpoints say it back
                said = said.replace(self._api_key, "***")
            raise EndpointError(said[:LONGEST_ERROR]) from None
        return bytes(told.http_response.content)

    @property
    def spent_usd(self) -> float:
        """Dollars since the cache was begun; without a file, since this process was."""
        return self._cache.spent_usd

    def _count(self, meter: Meter, prompt_tokens: int, completion_tokens: int) -> None:
        price = self._config.price
        cost = (prompt_tokens * price.prompt + completion_tokens * price.completion) / TOKENS_A_PRICE
        meter.add(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, cost_usd=cost)
        self._cache.spend(cost)


def _proxy(config: "AskingConfig") -> str | None:
    """Return the address of the proxy that the recipe asks for. Raises RewardError where its variable is not set."""
    if config.proxy_variable is None:
        return None
    address = os.environ.get(config.proxy_variable)
    if not address:
        raise RewardError(f"{config.proxy_variable}, the recipe's proxy_variable, is not set in the environment")
    return address


class _Cache:
    """Replies by request, dollars spent, and the secret of codes, in an SQLite file that outlives workers and runs.

    Without a file they are in memory.
    """

    def __init__(self, path: str | None) -> None:
        try:
            if path is not None:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                Path(path).touch(mode=0o600)
            self._rows = sqlite3.connect(path or ":memory:", timeout=10, isolation_level=None)
            self._rows.execute("PRAGMA journal_mode=WAL")
            self._rows.execute("CREATE TABLE IF NOT EXISTS replies (request TEXT PRIMARY KEY, reply TEXT NOT NULL)")
            self._rows.execute("CREATE TABLE IF NOT EXISTS spent (usd REAL NOT NULL)")
            self._rows.execute("CREATE TABLE IF NOT EXISTS secret (only INTEGER PRIMARY KEY, key TEXT NOT NULL)")
            self._rows.execute("INSERT OR IGNORE INTO secret VALUES (1, ?)", (secrets.token_hex(),))
            self._secret = str(self._rows.execute("SELECT key FROM secret").fetchone()[0])
        except (sqlite3.Error, OSError) as error:
            raise RewardError(f"the cache {path} cannot be used: {error}") from error

    def code(self, key: str) -> str:
        """Return a request's code: nobody can tell it beforehand, and a run that is resumed asks with the same."""
        return hmac.new(self._secret.encode(), key.encode(), "sha256").hexdigest()[:CODE_DIGITS]

    def get(self, key: str) -> str | None:
        found = self._first("SELECT reply FROM replies WHERE request = ?", key)
        return None if found is None else str(found)

    def put(self, key: str, reply: str) -> None:
        self._first("INSERT OR REPLACE INTO replies VALUES (?, ?)", key, reply)

    def spend(self, usd: float) -> None:
        if usd:
            self._first("INSERT INTO spent VALUES (?)", usd)

    @property
    def spent_usd(self) -> float:
        return self._first("SELECT COALESCE(SUM(usd), 0) FROM spent") or 0.0

    def _first(self, statement: str, *values: Any) -> Any:
        """Return the first value that the statement finds; a cache that fails is no reason to lose a reply."""
        try:
            row = self._rows.execute(statement, values).fetchone()
        except sqlite3.Error as error:
            print(f"the cache of replies failed, and is done without: {error}", flush=True)
            return None
        return None if row is None else row[0]


async def gathered(asked: Sequence[Coroutine[Any, Any, str]], seconds: float) -> list[str | Mark]:
    """Return the replies that come in time, and for the others why there is none."""
    tasks = [asyncio.create_task(one) for one in asked]
    if not tasks:
        return []
    try:
        await asyncio.wait(tasks, timeout=seconds)
    finally:
        late = [task for task in tasks if task.cancel()]  # or all of them, where this is being given up
    found: list[str | Mark] = []
    for task in tasks:
        if task in late:
            found.append(Mark(cause="timeout", detail=f"no reply within {seconds:g} s"))
        elif (failure := task.exception()) is not None:
            cause: Cause = "malformed" if isinstance(failure, MalformedReplyError) else "error"
            found.append(Mark(cause=cause, detail=f"{type(failure).__name__}: {failure}"[:LONGEST_ERROR]))
        else:
            found.append(task.result())
    return found
