"""An echo server that negotiates permessage-deflate, for admin.py."""

import asyncio, sys

import websockets


async def echo(connection):
    async for message in connection:
        await connection.send(message)


async def main():
    async with websockets.serve(echo, "127.0.0.1", int(sys.argv[1]), ping_interval=None, backlog=4096):
        await asyncio.Future()


asyncio.run(main())
