// --- the server

let key = "";  // in memory only

class ServerError extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

/** The response of a request that succeeded; otherwise an error in the server's words. */
async function ask(method, path, body, signal) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (key) headers.Authorization = "Bearer " + key;
  let response;
  try {
    response = await fetch(path, {method, headers, signal, cache: "no-store", credentials: "omit",
                                  body: body === undefined ? undefined : JSON.stringify(body)});
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, "the server does not answer");
  }
  if (response.ok) return response;
  const text = await response.text();
  let message = text || `HTTP status ${response.status}`;
  try { message = JSON.parse(text).error.message; } catch { /* not JSON: the text itself */ }
  throw new ServerError(response.status, message);
}
const askJson = async (...request) => (await ask(...request)).json();

/** The objects of an event stream, as they arrive. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const {value, done} = await reader.read();
    if (done) throw new ServerError(0, "the stream ended before its answer did");
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (!part.startsWith("data: ")) continue;
      if (part === "data: [DONE]") return;
      const event = JSON.parse(part.slice(6));
      if (event.error) throw new ServerError(event.error.code, event.error.message);
      yield event;
    }
  }
}
