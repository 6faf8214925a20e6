// Access: the token of this tab, and the form that asks for it.

/** Takes a token from the fragment `#token=...` once, and removes it from the address bar and the history. */
function takeTokenFromFragment() {
  const prefix = '#token=';
  if (!location.hash.startsWith(prefix)) return;
  const value = decoded(location.hash.slice(prefix.length));
  window.history.replaceState(null, '', `${location.pathname}#/`);
  if (isToken(value)) token.set(value);
}

/** Decodes a part of the address. Malformed text stays as it is, and is not a valid token. */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Whether a header can hold the token. */
const isToken = (value) => /^[\x21-\x7e]+$/.test(value);

/** Shows the form, and nothing else. `onToken` is called when a token was entered. */
function showLogin(onToken, message = null) {
  const input = h('input', {
    type: 'password',
    name: 'token',
    autocomplete: 'off',
    spellcheck: 'false',
    required: true,
    'aria-describedby': 'login-error',
  });
  const error = h('p.error', { id: 'login-error', role: 'alert' });
  const form = h(
    'form.login',
    {
      on: {
        submit: (event) => {
          event.preventDefault();
          const value = input.value.trim();
          if (isToken(value)) onToken(value);
          else setText(error, 'A token has only letters, digits and signs of ASCII, without spaces.');
        },
      },
    },
    h('h1', { tabindex: -1 }, 'Admin token'),
    h(
      'p',
      'This address needs the token of [admin] token_file, or that of read_token_file to look only. The tab keeps it until it is closed.',
    ),
    field('Token', input),
    error,
    h('div.buttons', h('button.primary', { type: 'submit' }, 'Open')),
  );
  fill(document.getElementById('main'), form);
  if (message) error.textContent = message;
  input.focus();
}

/** Shows or hides all that needs access: navigation, state of the process, token. */
function setChrome(isShown) {
  for (const id of ['nav', 'strip']) document.getElementById(id).hidden = !isShown;
  document.getElementById('access').hidden = !isShown || (canChange() && !token.get());
  document.getElementById('forget').hidden = !token.get();
  document.getElementById('rights').textContent = isShown && !canChange() ? 'Read-only token' : '';
}
