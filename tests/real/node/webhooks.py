"""Webhooks as LiveKit's server SDK for Node takes them."""

from __future__ import annotations

import asyncio
import json
import os
from asyncio.subprocess import PIPE
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("webhooks.mjs")


async def verified(
    key: str, secret: str, webhooks: Iterable[tuple[str, str]], *, seconds: float = 20
) -> list[dict[str, Any]]:
    """
    Let Node verify webhooks; its test is marked ``needs("node")``.

    Args:
        key: API key.
        secret: API secret.
        webhooks: body and Authorization of each.
        seconds: how long it may take.

    Returns:
        for each the event as the SDK read it, or ``error``.
    """
    program = await asyncio.create_subprocess_exec(
        "node",
        SCRIPT,
        env=os.environ | {"LIVEKIT_API_KEY": key, "LIVEKIT_API_SECRET": secret},
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
    )
    asked = [{"body": body, "authorization": token} for body, token in webhooks]
    try:
        out, trouble = await asyncio.wait_for(
            program.communicate(json.dumps(asked).encode()), seconds
        )
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
    assert out, f"node webhooks.mjs: {trouble.decode()}"
    return list(json.loads(out))
