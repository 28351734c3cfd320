"""HTTP to an endpoint that may do anything: no redirect is followed, no cookie kept, and no reply read without end.

`rewards.chat` asks through it. How long a reply may take is the asker's to say; the connections are httpx2's.
"""

from pathlib import Path

import httpx2

from rewards.replies import EndpointError

MAX_REPLY_BYTES = 2 << 20
"""Of a reply, decompressed: half a million tokens of text."""
_KEPT = ("content-type", "retry-after", "retry-after-ms", "x-should-retry", "x-request-id")
"""Headers that are passed on."""


class BoundedTransport(httpx2.AsyncBaseTransport):
    """Sends one request to where it is addressed and nowhere else, and reads no more than a bounded reply."""

    def __init__(self, *, proxy: str | None, num_connections: int, place: Path | None = None) -> None:
        """Take the address of a proxy; the environment's are not used unless the recipe names one.

        ``place`` is the Unix socket at which the endpoint listens; None: at its address.
        """
        limits = httpx2.Limits(max_connections=num_connections, max_keepalive_connections=num_connections)
        self._below = httpx2.AsyncHTTPTransport(proxy=proxy, limits=limits, uds=str(place) if place else None)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send; raises EndpointError for a redirect and for a reply that is too long, httpx2's errors for others."""
        response = await self._below.handle_async_request(request)
        try:
            if 300 <= response.status_code < 400:
                to = response.headers.get("location", "nowhere").partition("?")[0]
                raise EndpointError(
                    f"the endpoint answered with a redirect ({response.status_code}) to {to[:200]!r}, and none is "
                    "followed; if that is the right address, name it as base_url"
                )
            body = await _bounded(response)
        finally:
            await response.aclose()
        headers = {name: response.headers[name] for name in _KEPT if name in response.headers}
        return httpx2.Response(response.status_code, headers=headers, content=body)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._below.aclose()


async def _bounded(response: httpx2.Response) -> bytes:
    """Read the body, counting what it is decompressed to piece by piece."""
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > MAX_REPLY_BYTES:
            raise EndpointError(f"the endpoint's reply is longer than {MAX_REPLY_BYTES} bytes, and was not read on")
    return bytes(body)
