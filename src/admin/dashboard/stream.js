// Server-sent events, read by fetch because EventSource sends no token.

const EVENT_MAX_CHARACTERS = 256 * 1024;

/** Calls `onEvent(name, data)` for each event until the stream ends or `signal` aborts. */
async function stream(path, query, signal, onEvent) {
  const { response } = await send('GET', url(path, query), { signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const blocks = (rest + value.replaceAll('\r', '')).split('\n\n');
      rest = blocks.pop();
      if (rest.length > EVENT_MAX_CHARACTERS) throw new ApiError(0, { detail: 'An event of the stream is too large.' });
      for (const block of blocks) dispatchBlock(block, onEvent);
    }
  } catch (error) {
    if (signal.aborted || error instanceof ApiError) throw error;
    throw new ApiError(0, { detail: 'The connection of the tap broke.' });
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Reads the fields of an event; a block of comments only is not one. */
function dispatchBlock(block, onEvent) {
  let name = 'message';
  const data = [];
  for (const line of block.split('\n')) {
    const colon = line.indexOf(':');
    if (colon <= 0) continue;
    const value = line.slice(colon + 1).replace(/^ /, '');
    if (line.startsWith('event:')) name = value;
    else if (line.startsWith('data:')) data.push(value);
  }
  if (data.length) onEvent(name, JSON.parse(data.join('\n')));
}
