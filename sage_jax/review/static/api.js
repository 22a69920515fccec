// Requests to the service. A wrong or missing key opens the form for it, and the request is sent again.
const login = document.getElementById("login");
let signingIn = null;

export class Fault extends Error {}

async function once(path, options) {
  let answer;
  try {
    answer = await fetch("/review" + path, {credentials: "same-origin", ...options});
  } catch {
    throw new Fault("The service does not answer. Is it running?");
  }
  if (answer.status === 401 && path !== "/session") return null;
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Fault(content.error?.message ?? `The service answers with status ${answer.status}.`);
  return content;
}

export async function ask(path, options) {
  for (;;) {
    const content = await once(path, options);
    if (content !== null) return content;
    await signIn();
  }
}

export function send(path, body, method = "POST") {
  const json = {method, headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)};
  return ask(path, json);
}

export function signOut() {
  return once("/session", {method: "DELETE"});
}

function signIn() {
  signingIn ??= new Promise(resolve => {
    const form = document.getElementById("login-form"), key = document.getElementById("login-key"), fault = document.getElementById("login-fault");
    login.addEventListener("cancel", event => event.preventDefault());
    form.onsubmit = async event => {
      event.preventDefault();
      fault.hidden = true;
      try {
        await send("/session", {key: key.value});
      } catch (error) {
        fault.textContent = error.message;
        fault.hidden = false;
        key.select();
        return;
      }
      key.value = "";
      login.close();
      signingIn = null;
      resolve();
    };
    login.showModal();
  });
  return signingIn;
}
