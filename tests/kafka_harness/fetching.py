"""One HTTP request to a control or admin endpoint of a process under test."""

from __future__ import annotations

import aiohttp


async def fetch(
    url: str, *, method: str = "GET", body: bytes | None = None, timeout: float = 10.0
) -> tuple[int, bytes]:
    """Status and body. Raises aiohttp.ClientError or TimeoutError when there is no answer."""
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout)) as session,
        session.request(method, url, data=body) as response,
    ):
        return response.status, await response.read()


async def answers(url: str) -> bool:
    """Whether the URL answers 200 now."""
    try:
        status, _body = await fetch(url, timeout=2.0)
    except (aiohttp.ClientError, TimeoutError):
        return False
    return status == 200
