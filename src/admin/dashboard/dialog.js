// Dialogs that ask before a change, and the notice of its result.

const NOTICE_MS = 10_000;
let noticeTimer = null;

/** Shows the result of a change, and reads it to screen readers. */
function notify(text, isBad = false) {
  const notice = document.getElementById('notice');
  notice.classList.toggle('bad', isBad);
  notice.textContent = text;
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => {
    notice.textContent = '';
  }, NOTICE_MS);
}

/** Takes the notice away, so that it is not read as the result of a later change. */
function clearNotice() {
  clearTimeout(noticeTimer);
  document.getElementById('notice').textContent = '';
}

/**
 * Opens a dialog over the page. `run()` makes the change when it is confirmed and returns the text of the notice; if it
 * throws, the dialog stays open and shows the error. Escape and "Cancel" close it. `onError(error)` may return nodes to
 * show with an error.
 */
function ask({ title, body, confirm, isDanger = false, run, onError = () => null }) {
  const error = h('div.error', { role: 'alert' });
  const titleId = uniqueId('dialog');
  const submit = h(isDanger ? 'button.danger' : 'button.primary', { type: 'submit' }, confirm);
  const form = h(
    'form',
    { on: { submit: onSubmit } },
    h('h2', { id: titleId }, title),
    body,
    error,
    h('div.buttons', submit, h('button', { type: 'button', on: { click: () => dialog.close() } }, 'Cancel')),
  );
  const dialog = h('dialog', { 'aria-labelledby': titleId, on: { close: () => dialog.remove() } }, form);

  async function onSubmit(event) {
    event.preventDefault();
    if (submit.disabled) return;
    submit.disabled = true;
    fill(error);
    clearNotice();
    try {
      const text = await run();
      dialog.close();
      if (text) notify(text);
    } catch (failure) {
      if (!(failure instanceof ApiError)) throw failure;
      fill(error, h('p', capital(failure.message)), onError(failure));
    } finally {
      submit.disabled = false;
    }
  }

  clearNotice();
  document.body.append(dialog);
  dialog.showModal();
  const first = dialog.querySelector('input, select, textarea');
  (first ?? dialog.querySelector('.buttons button:last-child')).focus();
  return {
    dialog,
    setConfirm: (text) => setText(submit, text),
    setEnabled: (isOn) => {
      submit.disabled = !isOn;
    },
  };
}

/** A problem as a visible block. */
function problemBlock(error) {
  return h(
    'div.error',
    { role: 'alert' },
    h('p', capital(error.message)),
    error.problem?.report && h('pre', { tabindex: 0, 'aria-label': 'Report' }, error.problem.report),
  );
}

/** The note that replaces the controls for a token that may only read. */
function readOnlyNote(what) {
  return h('p.readonly', `Read-only token: ${what} needs the admin token.`);
}
