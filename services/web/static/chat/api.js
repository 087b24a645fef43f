// Talking to the server: every request carries the key in a header, and never anywhere else.

/** The server said no; `status` is HTTP's, `code` and `param` are the error's own. */
export class Refused extends Error {
  constructor(status, body) {
    super(body?.message || `the server answered with status ${status}`);
    this.status = status;
    this.code = body?.error?.code ?? null;
  }
}

/** There was no answer, or only the beginning of one. */
export class Unreachable extends Error {
  constructor() {
    super("The server does not answer.");
  }
}

let authorization = "";
let whenRefused = () => {};

/** Use this key from now on; `onrefused` is called once the server no longer takes it. */
export function useKey(given, onrefused = () => {}) {
  // A header is made of bytes, and the server takes them for UTF-8.
  authorization = `Bearer ${String.fromCharCode(...new TextEncoder().encode(given))}`;
  whenRefused = onrefused;
}

/** Send a request; returns the body of a good answer. Throws Refused, Unreachable, or AbortError. */
export async function call(method, path, body, options = {}) {
  const response = await send(method, path, body, options);
  try {
    return parse(await response.text());
  } catch (error) {
    throw error.name === "AbortError" ? error : new Unreachable();
  }
}

/** The body of a good answer to a GET as the text that it is. Throws as `call`. */
export async function readText(path) {
  const response = await send("GET", path, undefined, {});
  return response.text().catch(() => {
    throw new Unreachable();
  });
}

/** The events of a streamed answer, as they come: {data}, or {comment} for what says how it is going. Throws as `call`. */
export async function* events(path, body, options = {}) {
  const response = await send("POST", path, body, options);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        if (part.startsWith(": ")) yield { comment: part.slice(2) };
        else if (part === "data: [DONE]") return;
        else if (part.startsWith("data: ")) yield { data: good(parse(part.slice(6))) };
      }
    }
  } catch (error) {
    throw error instanceof Refused || error.name === "AbortError" ? error : new Unreachable();
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function send(method, path, body, { headers = {}, ...options }) {
  let response;
  try {
    const sent = typeof body === "string" || body instanceof FormData ? body : body && JSON.stringify(body);
    response = await fetch(path, { method, body: sent, headers: { Authorization: authorization, ...headers }, ...options });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Unreachable();
  }
  if (response.ok) return response;
  const refusal = new Refused(response.status, await response.json().catch(() => null));
  if (refusal.status === 401) whenRefused(refusal);
  throw refusal;
}

/** An event's data, unless it tells of an error. */
function good(data) {
  if (data.error) throw new Refused(STATUSES[data.error.type] ?? 400, data);
  return data;
}

const STATUSES = { server_error: 500 };

/** JSON, but session numbers as texts: they may be larger than JavaScript's whole numbers are exact. */
function parse(text) {
  return JSON.parse(text.replace(/"session_id":\s*(\d+)/g, '"session_id":"$1"'));
}

/** A body as JSON, with a session's number in it as it is. */
export function forSession(id, body) {
  return `${JSON.stringify(body).slice(0, -1)},"session_id":${id}}`;
}
