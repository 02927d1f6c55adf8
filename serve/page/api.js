// Calls of /v1: the key, one retry where it is safe, errors with a way out, and server-sent events over fetch.

const STORED_KEY = "genrec.key";
const LONGEST_WAIT_S = 10;

/** An answer that is not the one asked for. */
export class Failure extends Error {
  constructor(status, detail, waitS = null) {
    super(detail.message);
    this.status = status;
    this.code = detail.code;
    this.field = detail.field ?? null;
    this.waitS = waitS;
  }
}

export const key = {
  get: () => sessionStorage.getItem(STORED_KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(STORED_KEY, value) : sessionStorage.removeItem(STORED_KEY)),
};

let askForKey = async () => null;
let asking = null;

/** Who is asked for a key on 401: an async function of "was one refused?" that gives the key, or null for none. */
export function onLocked(ask) {
  askForKey = ask;
}

async function send(path, options) {
  const headers = { Accept: "application/json", ...options.headers };
  if (options.body !== undefined) headers["Content-Type"] = "application/json";
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  const body = options.body === undefined ? undefined : JSON.stringify(options.body);
  try {
    return await fetch(path, { method: body === undefined ? "GET" : "POST", headers, body, signal: options.signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure(0, { code: "unreachable", message: "the service cannot be reached" });
  }
}

async function unlocked(path, options) {
  for (;;) {
    const used = key.get();
    const reply = await send(path, options);
    if (reply.status !== 401) return reply;
    if (key.get() !== used) continue; // someone else was asked meanwhile
    asking ??= askForKey(Boolean(used)).finally(() => (asking = null));
    if ((await asking) === null) throw await failure(reply);
  }
}

async function failure(reply) {
  const wait = Number.parseInt(reply.headers.get("Retry-After") ?? "", 10);
  let detail = { code: `http_${reply.status}`, message: reply.statusText || `status ${reply.status}` };
  try {
    detail = (await reply.json()).error ?? detail;
  } catch {
    // not one of our replies: a gateway's, or a connection that broke
  }
  return new Failure(reply.status, detail, Number.isFinite(wait) ? wait : null);
}

/** The reply to a request; what was refused for lack of room is sent once more after the time that the service names. */
export async function call(path, options = {}) {
  for (let attempt = 0; ; attempt += 1) {
    const reply = await unlocked(path, options);
    if (reply.ok) return reply;
    const fault = await failure(reply);
    const again = [429, 503].includes(fault.status) && fault.waitS !== null && fault.waitS <= LONGEST_WAIT_S;
    if (!again || attempt === 1) throw fault;
    await pause(fault.waitS * 1000, options.signal);
  }
}

function pause(ms, signal) {
  return new Promise((done, broken) => {
    const timer = setTimeout(done, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      broken(new DOMException("stopped", "AbortError"));
    });
  });
}

export const get = async (path, signal) => (await call(path, { signal })).json();
export const post = async (path, body, signal) => (await call(path, { body, signal })).json();

/** A made file as a URL for <img> and <video>, which cannot send a key themselves. */
export async function media(assetId) {
  const blob = await (await call(`v1/media/${encodeURIComponent(assetId)}`, {})).blob();
  return { url: URL.createObjectURL(blob), kind: blob.type };
}

/** The events of a streamed reply, as {name, data}. */
export async function* events(path, body, signal) {
  const reply = await call(path, { body, signal, headers: { Accept: "text/event-stream" } });
  if (!(reply.headers.get("Content-Type") ?? "").startsWith("text/event-stream")) {
    yield { name: "done", data: await reply.json() };
    return;
  }
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    rest += value ?? "";
    const blocks = rest.split(/\r?\n\r?\n/);
    rest = done ? "" : blocks.pop();
    for (const block of blocks) {
      const event = parse(block);
      if (event) yield event;
    }
    if (done) return;
  }
}

function parse(block) {
  let name = "message";
  const data = [];
  for (const line of block.split(/\r?\n/)) {
    if (line.startsWith("event:")) name = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
  }
  return data.length ? { name, data: JSON.parse(data.join("\n")) } : null;
}

const ADVICE = {
  unreachable: ["The service does not answer.", "Check that it is running and that you are online, then try again."],
  unauthorized: ["This service asks for a key.", "Enter one under “API key” at the top."],
  unknown_user: ["Nobody is known under that name.", "Pick another user, or build a history instead."],
  unknown_item: ["The catalog does not hold that item.", "It may have left with a newer model; choose another."],
  overloaded: ["Too many people are asking right now.", "Wait a few seconds, then try again."],
  not_ready: ["The model is still being loaded.", "This takes up to a minute; then try again."],
  unavailable: ["Part of the service is away for a moment.", "Try again; what you did before is kept."],
  timeout: ["The answer took too long and was stopped.", "Try again, or ask for something simpler."],
  too_many_requests: ["Too much of yours is being worked at.", "Wait for it to end, then try again."],
  no_content: ["Wishes are not served here.", "This service was started without its instructor; the usual list works."],
  body_too_large: ["That is too much to send at once.", "Use a smaller picture or a shorter text."],
};

/** What happened and what to do about it, in two sentences for people. */
export function advice(fault) {
  if (ADVICE[fault.code]) return ADVICE[fault.code];
  if (fault.status === 429) return ADVICE.overloaded;
  if (fault.status === 422 || fault.status === 400) return ["The service did not accept this.", `It says: ${fault.message}.`];
  if (fault.status >= 500) return ["Something broke on the service's side.", "Try again; its log has the cause."];
  return ["That did not work.", fault.message ? `It says: ${fault.message}.` : "Reload the page and try again."];
}
