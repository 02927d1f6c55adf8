// The list: asked for whenever the person or their feedback changes; what is liked or skipped leaves it at once.

import { post } from "./api.js";
import { card } from "./card.js";
import { calm, find, h, notice, tell } from "./dom.js";
import { sendFeedback } from "./feedback.js";
import { poster } from "./poster.js";
import { LENGTH, state } from "./state.js";

const SKIPPED_AT_MOST = 100;
let now = null; // the list that is shown, as the service sent it
let running = null;
let fault = () => {};
let pickSomeone = () => {};

export function startShelf({ onFault, onPick }) {
  fault = onFault;
  pickSomeone = onPick;
  state.addEventListener("person", () => {
    find("made").hidden = true;
    find("made-cards").replaceChildren();
    refresh();
  });
  find("shelf-back").addEventListener("click", () => {
    find("shelf-heading").focus();
    refresh();
  });
  find("shelf-heading").tabIndex = -1;
  find("narrow-form").addEventListener("submit", (event) => {
    event.preventDefault();
    find("narrow").open = false;
    find("narrow").querySelector("summary").focus();
    refresh();
  });
  find("narrow").addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    find("narrow").open = false;
    find("narrow").querySelector("summary").focus();
  });
  showEmpty();
}

/** Ask for the usual list anew. */
export async function refresh() {
  running?.abort();
  showSkipped();
  if (state.empty) return showEmpty();
  running = new AbortController();
  const { signal } = running;
  find("shelf").setAttribute("aria-busy", "true");
  if (!now) showWaiting();
  try {
    const reply = await post("v1/recommendations", asked(), signal);
    showList(reply, null);
    tell(`${reply.items.length} recommendations`);
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!now) showEmpty();
    fault(error, refresh);
  } finally {
    if (!signal.aborted) find("shelf").setAttribute("aria-busy", "false");
  }
}

function asked() {
  const body = { ...state.subject, k: LENGTH, exclude: [...state.skipped.keys()] };
  if (state.session) body.session_id = state.session;
  const variety = Number(find("variety").value);
  const title = find("title-words").value.trim();
  if (variety > 0) body.diversity = variety;
  if (title) body.filters = { title };
  return body;
}

/**
 * Show the list that came with a wish in place of the usual one.
 * @param wish its words; null: it is the usual list, beside something that was made
 * @param searched false: nothing was searched, these items are the nearest that there are
 */
export function showFound(reply, wish, searched) {
  running?.abort();
  find("shelf").setAttribute("aria-busy", "false");
  showList(reply, wish, searched);
}

/** Put what was made on a shelf of its own, newest first. */
export function showMade(item, reply) {
  find("made").hidden = false;
  const act = (kind) => (one) => react(one, kind, { list: reply, made: true });
  find("made-cards").prepend(card(item, null, 0, { like: act("like"), skip: act("skip") }));
}

/** The title of something on the page; its id where it is not there. */
export const titleOf = (itemId) => cardOf(itemId)?.querySelector("h3").textContent ?? itemId;

const cardOf = (itemId) => document.querySelector(`[data-item="${CSS.escape(itemId)}"]`);

/** Items on the list before the user, best first, and the list's id. */
export const shown = () => ({ list_id: now?.list_id, items: now?.items ?? [] });

const onMadeShelf = (itemId) => Boolean(find("made-cards").querySelector(`[data-item="${CSS.escape(itemId)}"]`));

function showList(reply, wish, searched = true) {
  const before = places();
  const refocus = focusKept();
  now = reply;
  const items = reply.items.filter((item) => !onMadeShelf(item.item_id)); // what was made for this visit is there
  // What fits a wish is ranked among its like: its probability is not to be compared with that of the rest.
  const fits = (item) => Boolean(item.evidence?.fits_instruction);
  const best = (item) => Math.max(...items.filter((other) => fits(other) === fits(item)).map((other) => other.score));
  const act = (kind) => (item) => react(item, kind, { list: reply, wish });
  find("shelf-empty").replaceChildren(...(items.length ? [] : [nothingLeft(wish)]));
  find("cards").replaceChildren(...items.map((item, i) => card(item, i + 1, best(item), { like: act("like"), skip: act("skip") })));
  const heading = searched ? "Found for your wish" : "The nearest in the catalog";
  find("shelf-heading").textContent = wish ? heading : "Recommendations";
  find("shelf-note").textContent = wish ? `“${wish}”` : subjectName();
  find("shelf-back").hidden = !wish;
  find("narrow").hidden = Boolean(wish);
  refocus();
  glide(before);
}

/** A function that puts the keyboard back after the cards are drawn anew: on the same item, else on its place. */
function focusKept() {
  const held = document.activeElement;
  const place = [...find("cards").children].findIndex((one) => one.contains(held));
  if (place < 0) return () => {};
  const { item } = find("cards").children[place].dataset;
  const act = ["like", "skip", "why"].find((name) => held.classList.contains(name)) ?? "act";
  return () => {
    const cards = [...find("cards").children];
    const next = cards.find((one) => one.dataset.item === item) ?? cards[Math.min(place, cards.length - 1)];
    (next?.querySelector(`.${act}`) ?? find("shelf-heading")).focus({ preventScroll: true });
  };
}

function subjectName() {
  return state.mode === "user" ? `for user ${state.user}` : `for a history of ${state.history.length}`;
}

async function react(item, kind, { list, wish, made }) {
  const kept = { item_id: item.item_id, title: item.title, semantic_id: item.evidence?.semantic_id };
  (kind === "like" ? state.liked : state.skipped).set(item.item_id, kept);
  while (state.skipped.size > SKIPPED_AT_MOST) state.skipped.delete(state.skipped.keys().next().value);
  leave(item.item_id, made && kind === "like");
  try {
    await sendFeedback(item.item_id, kind, list);
  } catch (error) {
    (kind === "like" ? state.liked : state.skipped).delete(item.item_id);
    fault(error, () => react(item, kind, { list, wish, made }));
    return refresh();
  }
  notice(kind === "like" ? `Liked “${item.title}”. The list follows.` : `Skipped “${item.title}”.`);
  if (kind === "like" && !made && state.mode === "history") state.history = [...state.history, kept];
  state.changed("feedback");
  if (wish || made) showSkipped();
  else await refresh();
}

/** Take a card off at once, and keep the keyboard where it was. */
function leave(itemId, stays) {
  const gone = cardOf(itemId);
  if (!gone) return;
  if (stays) {
    for (const act of gone.querySelectorAll(".like, .skip")) act.remove();
    gone.querySelector(".origin").focus();
    return;
  }
  const before = places();
  const next = gone.nextElementSibling ?? gone.previousElementSibling;
  const had = gone.contains(document.activeElement);
  gone.remove();
  glide(before);
  if (had) (next?.querySelector("button.act") ?? find("shelf-heading")).focus();
}

function showSkipped() {
  const place = find("skipped");
  place.hidden = state.skipped.size === 0;
  place.querySelector("summary").textContent = `Skipped this visit (${state.skipped.size})`;
  const back = (item) => () => {
    state.skipped.delete(item.item_id);
    place.querySelector("summary").focus();
    refresh();
  };
  const rows = [...state.skipped.values()].map((item) =>
    h("li", {}, h("span.thumb", {}, poster(item.semantic_id)), item.title, h("button.button.quiet", { type: "button", "aria-label": `Allow ${item.title} again`, on: { click: back(item) } }, "Allow again")),
  );
  place.querySelector("ul").replaceChildren(...rows);
}

function showEmpty() {
  now = null;
  find("shelf").setAttribute("aria-busy", "false");
  find("cards").replaceChildren();
  find("shelf-heading").textContent = "Recommendations";
  find("shelf-note").textContent = "";
  find("shelf-back").hidden = find("narrow").hidden = true;
  const history = state.mode === "history";
  const art = [[7, 3, 40], [2, 1, 90], [4, 12, 61], [9, 5, 17], [12, 15, 4]];
  find("shelf-empty").replaceChildren(
    h(
      "div.empty",
      {},
      h("div.empty-art", {}, art.map((codes) => poster(codes))),
      h("h3", {}, history ? "Build a history first" : "Nobody is chosen yet"),
      h("p", {}, "Every item has a semantic ID, a few codes that say what it is like. Its poster is drawn from them: what looks alike is alike."),
      h("button.button.strong", { type: "button", id: "pick-someone", on: { click: () => pickSomeone() } }, history ? "Search an item" : "Start with any user"),
    ),
  );
}

function showWaiting() {
  find("shelf-empty").replaceChildren();
  const ghost = () => h("li.card.ghost", { "aria-hidden": "true" }, h("div.poster"), h("div.card-body", {}, h("span.line"), h("span.line.short")));
  find("cards").replaceChildren(...Array.from({ length: 6 }, ghost));
}

function nothingLeft(wish) {
  const text = wish ? "Nothing in the catalog fits this wish. Say it in other words, or ask to have it made." : "No item is left to recommend. Allow a skipped one again, or change what the title must hold.";
  return h("p.hint", {}, text);
}

/** Where each card stands, so that those that stay can glide to their new places. */
function places() {
  return new Map([...find("cards").children].map((one) => [one.dataset.item, one.getBoundingClientRect()]));
}

function glide(before) {
  if (calm()) return;
  for (const one of find("cards").children) {
    const old = before.get(one.dataset.item);
    const place = one.getBoundingClientRect();
    const easing = "cubic-bezier(.2, .7, .2, 1)";
    if (old) one.animate([{ transform: `translate(${old.x - place.x}px, ${old.y - place.y}px)` }, { transform: "none" }], { duration: 320, easing });
    else one.animate([{ opacity: 0, transform: "translateY(10px)" }, { opacity: 1, transform: "none" }], { duration: 260, easing });
  }
}
