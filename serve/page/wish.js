// A wish: words and perhaps a picture go to the instructor, whose decision, progress and result are shown as they come.

import { events, Failure } from "./api.js";
import { find, h, icon, notice, percent, tell } from "./dom.js";
import { showFound, showMade, shown, titleOf } from "./shelf.js";
import { LENGTH, state } from "./state.js";

const IDEAS = ["Something calmer", "Something older, with a detective", "The same but as a watercolor", "Make me a poster of a quiet harbour at night"];
const NAMES = { retrieve: "Retrieve", edit: "Edit", create: "Create", clarify: "Clarify" };
const DONE = {
  retrieve: "The catalog has what you ask for, so it was searched.",
  edit: "Something on the list comes close, so it is edited for you.",
  create: "The catalog has nothing like it, so it is made for you.",
  clarify: "That can mean several things.",
};
const LONGEST_SIDE = 512;
let picture = null;
let running = null;

export function startWish({ onFault }) {
  const text = find("wish-text");
  find("wish").addEventListener("submit", (event) => {
    event.preventDefault();
    if (running) running.abort();
    else wish(text.value.trim(), onFault);
  });
  text.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!running) find("wish").requestSubmit();
  });
  find("wish-picture").addEventListener("change", (event) => attach(event.target.files[0]));
  text.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
    if (file) attach(file);
  });
  find("ideas").append(
    ...IDEAS.map((idea) =>
      h("li", {}, h("button.idea", { type: "button", on: { click: () => ((text.value = idea), text.focus()) } }, idea)),
    ),
  );
  state.addEventListener("person", () => {
    running?.abort();
    find("decision").hidden = true;
  });
}

/** A picture is made small here, before it is sent: the service needs no more of it, and its details stay at home. */
async function attach(file) {
  find("wish-picture").value = "";
  if (!file) return;
  try {
    const image = await createImageBitmap(file);
    const scale = Math.min(1, LONGEST_SIDE / Math.max(image.width, image.height));
    const canvas = h("canvas", { width: Math.max(1, Math.round(image.width * scale)), height: Math.max(1, Math.round(image.height * scale)) });
    const paint = canvas.getContext("2d");
    paint.fillStyle = "white"; // JPEG has no transparency
    paint.fillRect(0, 0, canvas.width, canvas.height);
    paint.drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `Your picture, ${file.name}`);
    picture = canvas.toDataURL("image/jpeg", 0.9).split(",")[1];
    const remove = h("button.button.quiet", { type: "button", on: { click: () => (detach(), find("wish-text").focus()) } }, "Remove the picture");
    find("attached").replaceChildren(canvas, h("span", {}, file.name), remove);
    find("attached").hidden = false;
    tell(`${file.name} is attached`);
  } catch {
    notice("This file is not a picture that can be read. Use PNG, JPEG or WebP.");
  }
}

function detach() {
  picture = null;
  find("attached").hidden = true;
  find("attached").replaceChildren();
}

async function wish(text, onFault) {
  if (!text && !picture) {
    notice("Say something first, or add a picture.");
    return find("wish-text").focus();
  }
  running = new AbortController();
  const view = new Progress(text);
  const send = find("wish-send");
  send.textContent = "Stop";
  const body = { text, k: LENGTH };
  if (picture) body.picture = picture;
  if (state.session) body.session_id = state.session;
  if (!state.empty) Object.assign(body, state.subject);
  if (shown().list_id) body.list_id = shown().list_id;
  try {
    let finished = false;
    for await (const event of events("v1/instructions", body, running.signal)) {
      if (event.name === "decision") {
        state.session = event.data.session_id ?? state.session;
        view.decided(event.data);
      }
      else if (event.name === "progress") view.progress(event.data);
      else if (event.name === "error") throw new Failure(event.data.error.code === "invalid_request" ? 422 : 500, event.data.error);
      else if (event.name === "done") finished = settle(event.data, text, view);
    }
    if (!finished) throw new Failure(0, { code: "unreachable", message: "the connection ended before the answer" });
  } catch (fault) {
    if (fault.name === "AbortError") view.end("Stopped. Nothing was made.");
    else {
      view.hide();
      if (fault.code === "not_found") fault.code = "no_content";
      onFault(fault, () => wish(text, onFault));
    }
  } finally {
    running = null;
    send.textContent = "Ask";
  }
}

function settle(reply, text, view) {
  state.session = reply.session_id ?? state.session;
  if (reply.decision) view.decided(reply.decision);
  const { action } = reply.decision ?? view.decision;
  const items = reply.items ?? [];
  const now = new Set((reply.media ?? []).map((one) => one.asset_id)); // others on the list were made before
  const made = items.filter((item) => now.has(item.item_id));
  const found = items.length - made.length;
  made.forEach((item) => showMade(item, reply));
  const searched = action === "retrieve";
  if (searched || found > 0) showFound(reply, searched || state.empty ? text || "your picture" : null, searched);
  if (action === "clarify") view.end("Waiting for your answer.");
  else if (made.length) view.end(`Made and checked: ${made.map((item) => `“${item.title}”`).join(", ")}.`);
  else if (action === "retrieve") view.end(foundWords(items));
  else if (reply.note) view.end(found ? "Nothing could be made. Here is what the catalog has." : "Nothing could be made.");
  else view.end(`The checks held this back, so it is not shown.${found ? " Here is what the catalog has." : " Say it in other words."}`);
  if (reply.note) view.add(reply.note);
  view.refused(reply.refused ?? []);
  find("wish-text").value = "";
  detach();
  if (action === "clarify") find("wish-text").focus();
  return true;
}

function foundWords(items) {
  const fitting = items.filter((item) => item.evidence?.fits_instruction).length;
  if (!items.length) return "Nothing in the catalog fits.";
  if (!fitting) return "Here is what comes nearest.";
  return fitting === items.length ? `${fitting} fit.` : `${fitting} ${fitting === 1 ? "fits" : "fit"}; then come others that may please.`;
}

/** The panel under the wish: bars of the four ways, what was understood, the reasons, and how far the work is. */
class Progress {
  constructor(text) {
    this.decision = { action: "retrieve" };
    this.told = -1;
    this.done = 0;
    this.headline = h("p.decision-headline", {}, "Reading your wish…");
    this.words = h("span.progress-words", {}, "Deciding");
    this.meter = h("progress", { max: 1, "aria-label": "Progress of your wish" });
    this.work = h("div.progress", {}, this.meter, this.words);
    this.rest = h("div.decision-rest");
    this.place = find("decision");
    this.place.replaceChildren(h("p.decision-wish", {}, text ? `“${text}”` : "Your picture"), this.headline, this.work, this.rest);
    this.place.hidden = false;
    this.place.dataset.action = "";
    find("alerts").replaceChildren();
    tell("Reading your wish");
  }

  decided(decision) {
    if (this.decision === decision || this.rest.childElementCount) return;
    this.decision = decision;
    this.place.dataset.action = decision.action;
    const question = decision.action === "clarify" && decision.question;
    this.headline.replaceChildren(h("strong", {}, question || NAMES[decision.action]), question ? "" : ` ${DONE[decision.action]}`);
    tell(`${NAMES[decision.action]}: ${question || DONE[decision.action]}`);
    this.words.textContent = decision.action === "retrieve" ? "Searching" : "Beginning";
    this.rest.replaceChildren(ways(decision), ...understood(decision.slots ?? {}), trace(decision));
  }

  progress({ share, what }) {
    this.done = Math.min(1, Math.max(this.done, share ?? 0)); // never backwards, though each part counts its own
    this.meter.value = this.done;
    this.words.textContent = `${what ? what[0].toUpperCase() + what.slice(1) : "Working"}, ${percent(this.done)}`;
    const quarter = Math.floor(this.done * 4);
    if (quarter > this.told) tell(this.words.textContent);
    this.told = Math.max(quarter, this.told);
  }

  /** A further sentence about what came of it. */
  add(text) {
    this.work.append(h("p.progress-end", {}, text));
  }

  /** Why drafts were held back: the checks that they failed. */
  refused(reports) {
    const faults = reports.flatMap((report) => report.verdicts ?? []).filter((verdict) => !verdict.passed);
    if (faults.length) this.work.append(h("ul.held-back", {}, faults.map((one) => h("li", {}, h("strong", {}, one.check), ` ${one.evidence}`))));
  }

  end(text) {
    this.work.replaceChildren(h("p.progress-end", {}, text));
    tell(text);
  }

  hide() {
    this.place.hidden = true;
  }
}

function ways(decision) {
  const rows = Object.entries(NAMES).map(([action, name]) => {
    const share = decision.probabilities?.[action] ?? 0;
    return h(
      "li",
      { "data-action": action, "data-chosen": action === decision.action },
      h("span.way-name", {}, name, action === decision.action && h("span.unseen", {}, " (chosen)")),
      h("span.bar", { "aria-hidden": "true" }, h("span.bar-fill", { "--share": share })),
      h("span.way-share", {}, percent(share)),
    );
  });
  return h("ul.ways", { "aria-label": "How likely each way is" }, rows);
}

const SLOTS = { target: "wanted", source_item: "from", operation: "change", style: "style", medium: "as", constraints: "with", negatives: "without" };

function understood(slots) {
  const chips = Object.entries(SLOTS).flatMap(([name, label]) => [slots[name] ?? []].flat().map((value) => [label, name === "source_item" ? titleOf(value) : value]));
  if (!chips.length) return [];
  return [h("ul.chips", { "aria-label": "What was understood" }, chips.map(([label, value]) => h("li", {}, h("span.chip-label", {}, `${label} `), value)))];
}

function trace(decision) {
  const sure = Number.isFinite(decision.sufficiency) ? `The catalog has something that satisfies with probability ${percent(decision.sufficiency)}.` : "";
  const reasons = [...(decision.trace ?? []), sure].filter(Boolean);
  return h("details.trace", {}, h("summary", {}, "How this was decided"), h("ol", {}, reasons.map((reason) => h("li", {}, reason))));
}
