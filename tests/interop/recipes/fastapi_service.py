"""A service made with FastAPI, run by uvicorn as `uvicorn fastapi_service:app`."""

import asyncio
import hashlib

import fastapi
import fastapi.responses
import pydantic

app = fastapi.FastAPI()
waiting = {}
gone = set()


class Item(pydantic.BaseModel):
    name: str
    price: float


@app.post("/items/{number}")
async def item(number: int, item: Item):
    return {"number": number, "name": item.name, "price": item.price}


@app.get("/whoami")
async def whoami(request: fastapi.Request):
    return {"client": request.client.host, "url": str(request.url), "for": request.headers.get("X-Forwarded-For"),
            "user": request.headers.get("X-Auth-Request-User")}


@app.post("/upload")
async def upload(file: fastapi.UploadFile):
    content = await file.read()
    return {"size": len(content), "digest": hashlib.sha256(content).hexdigest(), "name": file.filename}


@app.get("/download/{size}")
async def download(size: int):
    async def parts():
        for _ in range(size // 65536):
            yield b"x" * 65536

    return fastapi.responses.StreamingResponse(parts(), media_type="application/octet-stream")


@app.get("/events/{name}")
async def events(name: str):
    """Server-sent events: each waits until a client asks for it by `/next`."""
    steps = waiting[name] = asyncio.Queue()

    async def lines():
        yield "data: ready\n\n"
        for number in range(3):
            await steps.get()
            yield f"data: {number}\n\n"

    return fastapi.responses.StreamingResponse(lines(), media_type="text/event-stream")


@app.post("/next/{name}")
async def step(name: str):
    await waiting[name].put(None)


@app.websocket("/ws/{room}")
async def echo(websocket: fastapi.WebSocket, room: str):
    await websocket.accept()
    await websocket.send_json({"room": room, "client": websocket.client.host, "scheme": websocket.url.scheme,
                               "user": websocket.headers.get("X-Auth-Request-User")})
    try:
        async for text in websocket.iter_text():
            await websocket.send_text(f"{room}: {text}")
    except fastapi.WebSocketDisconnect:
        pass


@app.get("/forever/{name}")
async def forever(name: str):
    """Server-sent events without an end."""
    async def lines():
        try:
            while True:
                yield "data: tick\n\n"
                await asyncio.sleep(0.1)
        finally:
            gone.add(name)

    return fastapi.responses.StreamingResponse(lines(), media_type="text/event-stream")


@app.get("/gone/{name}")
async def is_gone(name: str):
    """Whether the client of `/forever/{name}` is gone."""
    return name in gone
