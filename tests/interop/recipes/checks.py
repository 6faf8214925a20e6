"""Shared parts of the programs in this directory that run with the packages of the recipes; see `Program` in harness.py."""

import asyncio
import contextlib
import json
import sys
import traceback

CHECK_SECONDS = 20


async def facts(**own):
    """Sends the ports of the program to the suite, and returns its answer."""
    print(json.dumps(own), flush=True)
    line = await asyncio.to_thread(sys.stdin.readline)
    return json.loads(line)


@contextlib.asynccontextmanager
async def check(name, seconds=CHECK_SECONDS):
    """A check, which fails if it raises or takes longer."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    try:
        async with asyncio.timeout(seconds):
            yield
    except Exception as error:  # noqa: BLE001: a check may fail in any way, and the next one still runs
        traceback.print_exc()
        print(f"not ok {name}: {type(error).__name__} {error}".replace("\n", " | "), flush=True)
    else:
        print(f"ok {name} ({loop.time() - begun:.2f} s)", flush=True)


def equal(got, wanted):
    if got != wanted:
        raise AssertionError(f"got {got!r}, wanted {wanted!r}")
