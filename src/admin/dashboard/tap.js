// The tap of a session: a live list of its last frames.

const FRAMES_MAX = 500;
const TAP_REFRESH_MS = 250;
const HEX_BYTES = 32;

const FRAME_COLUMNS = [
  { label: 'Since start', kind: 'value', text: ({ at_seconds: at }) => (at === undefined ? '' : `${at.toFixed(3)} s`) },
  { label: 'Direction', text: ({ direction: way }) => (way === 'in' ? '→ in' : way === 'out' ? '← out' : '') },
  {
    label: 'Frame',
    text: (frame) =>
      frame.missed ? `${plural(frame.missed, 'frame')} not shown: this page read too slowly` : frame.opcode,
  },
  {
    label: 'Size',
    kind: 'value',
    text: ({ length }) => (length === undefined ? '' : bytes(length)),
    value: ({ length }) => length,
  },
  {
    label: 'Flags',
    text: ({ fin, compressed, missed }) =>
      missed ? '' : [fin ? 'fin' : 'more follows', compressed && 'compressed'].filter(Boolean).join(', '),
  },
];
const PAYLOAD_COLUMN = { label: 'Payload', kind: 'payload', text: ({ text, payload }) => text ?? hex(payload) };

/** The first bytes of a payload as hexadecimal digits. */
function hex(payload) {
  if (!payload) return '';
  const binary = atob(payload);
  const shown = Array.from(binary.slice(0, HEX_BYTES), (character) =>
    character.charCodeAt(0).toString(16).padStart(2, '0'),
  );
  return shown.join(' ') + (binary.length > HEX_BYTES ? ' …' : '');
}

function createTap(id) {
  let frames = []; // the newest is first
  let received = 0;
  let missed = 0;
  let controller = null;
  let isPaused = false;
  let timer = null;
  let table = null;

  const status = h(
    'p.quiet',
    { role: 'status' },
    'Shows each frame that passes. A tap costs the session one copy of each header.',
  );
  const counts = h('p.total');
  const error = h('div');
  const holder = h('div.scroll.frames', { tabindex: 0, role: 'region', 'aria-label': 'Frames, newest first' });
  const payload = h('input', { type: 'checkbox', id: 'tap-payload' });
  const canPayload = canChange() && state.info.payload;
  const start = h('button.primary', { type: 'button', id: 'tap-start', on: { click: toggle } }, 'Start the tap');
  const pause = h('button', { type: 'button', disabled: true, on: { click: togglePause } }, 'Pause');
  const clear = h(
    'button',
    {
      type: 'button',
      on: {
        click: () => {
          frames = [];
          received = missed = 0;
          render();
        },
      },
    },
    'Clear',
  );

  const controls = h(
    'div.buttons',
    start,
    pause,
    clear,
    canPayload
      ? h('label.check', payload, ' with payloads, up to 4 KiB of each frame')
      : h('span.quiet', payloadNote()),
  );

  function render() {
    timer = null;
    if (!table || isPaused) return;
    table.update(frames);
    setText(
      counts,
      `${plural(received, 'frame')}${missed ? `, ${count(missed)} missed` : ''}; the last ${count(FRAMES_MAX)} are kept`,
    );
  }
  function add(entry) {
    frames.unshift({ ...entry, sequence: received + missed });
    if (frames.length > FRAMES_MAX) frames.length = FRAMES_MAX;
    timer ??= setTimeout(render, TAP_REFRESH_MS);
  }
  function onEvent(name, data) {
    if (name === 'frame') {
      received += 1;
      add(data);
    } else if (name === 'missed') {
      missed += data.count;
      add({ missed: data.count });
    }
  }
  function togglePause() {
    isPaused = !isPaused;
    setText(pause, isPaused ? 'Go on' : 'Pause');
    render();
  }
  async function toggle() {
    if (controller) {
      controller.abort();
      return;
    }
    const own = (controller = new AbortController());
    const isWithPayload = canPayload && payload.checked;
    frames = [];
    received = missed = 0;
    table = createTable({
      caption: 'Frames, newest first',
      columns: isWithPayload ? [...FRAME_COLUMNS, PAYLOAD_COLUMN] : FRAME_COLUMNS,
      keyOf: ({ sequence }) => sequence,
      empty: 'No frame yet.',
    });
    fill(holder, table.element);
    fill(error);
    setText(start, 'Stop the tap');
    pause.disabled = false;
    payload.disabled = true;
    render();
    setText(status, 'The tap runs.');
    try {
      await stream(`/v1/sessions/${id}/frames`, isWithPayload ? { payload: true } : {}, own.signal, onEvent);
      setText(status, 'The tap ended with the session.');
    } catch (failure) {
      if (own.signal.aborted) setText(status, 'The tap is stopped.');
      else if (failure instanceof ApiError) {
        setText(status, 'The tap is not running.');
        fill(error, problemBlock(failure));
      } else throw failure;
    } finally {
      controller = null;
      isPaused = false;
      setText(pause, 'Pause');
      pause.disabled = true;
      payload.disabled = false;
      setText(start, 'Start the tap');
      render();
    }
  }

  return {
    element: h('div.tap', controls, status, error, counts, holder),
    stop() {
      controller?.abort();
      clearTimeout(timer);
    },
    /** Removes the controls, because the session has ended. Returns whether frames remain to be read. */
    end() {
      controls.remove();
      setText(status, 'The session has ended.');
      return frames.length > 0;
    },
  };
}

function payloadNote() {
  return state.info.payload ? 'Payloads need the admin token.' : 'Payloads are not shown: [admin] payload is false.';
}
