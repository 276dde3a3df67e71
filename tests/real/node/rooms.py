"""Rooms as LiveKit's server SDK for Node sees them."""

from __future__ import annotations

import asyncio
import json
import os
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("rooms.mjs")


async def rooms(
    url: str, key: str, secret: str, action: str, room: str = "", *, seconds: float = 20
) -> dict[str, Any]:
    """
    Let Node list, create or delete; its test is marked ``needs("node")``.

    Args:
        url: of a LiveKit server or of the pool; ``ws`` will do.
        key: API key.
        secret: API secret.
        action: ``list``, ``create`` or ``delete``.
        room: the room's name, for the last two.
        seconds: how long it may take.

    Returns:
        ``rooms`` with their names, ``room`` or ``deleted`` with the one's name, or ``error`` with
        the SDK's name, message, status and code.
    """
    program = await asyncio.create_subprocess_exec(
        "node",
        SCRIPT,
        url,
        action,
        room,
        env=os.environ | {"LIVEKIT_API_KEY": key, "LIVEKIT_API_SECRET": secret},
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        out, trouble = await asyncio.wait_for(program.communicate(), seconds)
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
    assert out, f"node rooms.mjs {action}: {trouble.decode()}"
    return dict(json.loads(out))
