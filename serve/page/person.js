// For whom: search a known user, or build a history out of items.

import { get } from "./api.js";
import { combobox } from "./combobox.js";
import { find, h, icon, notice } from "./dom.js";
import { blankPoster, poster } from "./poster.js";
import { lookUp, state } from "./state.js";

const SUGGESTIONS = 8;
const LONGEST_HISTORY = 50;
let about = null; // the known user: id, size of the history, newest titles

export function startPerson(onFault) {
  const users = combobox({
    label: "User",
    hint: "Search by id",
    search: searchUsers,
    show: (user) => [user.user_id, `${user.history} items`],
    choose: (user) => {
      about = user;
      state.turnTo({ mode: "user", user: user.user_id });
    },
    empty: (text) => `No user begins with “${text}”.`,
    onFault,
  });
  const items = combobox({
    label: "Add an item",
    hint: "Search by title",
    search: async (text, signal) => (await get(`v1/items?${query(text)}`, signal)).items,
    show: (item) => [item.title, item.categories.slice(0, 2).join(", ")],
    choose: addItem,
    empty: (text) => `Nothing in the catalog matches “${text}”. Try one word of a title.`,
    onFault,
  });
  find("pick-user").append(users.element);
  find("pick-items").append(items.element);
  for (const choice of document.querySelectorAll("input[name=who]")) {
    choice.addEventListener("change", () => state.turnTo({ mode: choice.value }));
  }
  state.addEventListener("person", () => {
    show();
    lookAtUser();
  });
  state.addEventListener("feedback", show);
  show();
  return { first: () => (state.mode === "user" ? users.field : items.field).focus() };
}

/** The users whose ids match, at most a few. */
export async function searchUsers(text, signal) {
  return (await get(`v1/users?${query(text)}`, signal)).users;
}

const query = (text) => new URLSearchParams({ query: text, limit: SUGGESTIONS });

async function addItem(item) {
  if (state.history.some((other) => other.item_id === item.item_id)) {
    notice(`“${item.title}” is in the history already.`);
  } else if (state.history.length >= LONGEST_HISTORY) {
    notice(`A history holds ${LONGEST_HISTORY} items at most; take one out first.`);
  } else {
    const codes = await lookUp(item.item_id).then(
      (full) => full.semantic_id,
      () => undefined, // it then stands there without its poster
    );
    changeHistory([...state.history, { ...item, semantic_id: codes }]);
    notice(`Added “${item.title}”.`);
  }
}

function changeHistory(history) {
  state.history = history;
  state.changed("person");
}

function show() {
  document.querySelector(`input[name=who][value=${state.mode}]`).checked = true;
  find("pick-user").hidden = state.mode !== "user";
  find("pick-items").hidden = state.mode !== "history";
  find("person-now").replaceChildren(...(state.mode === "user" ? aboutUser() : aboutHistory()));
}

/** What is known of the user, found by their id: an address may name one, too. */
async function lookAtUser() {
  const { user } = state;
  if (state.mode !== "user" || user === null || about?.user_id === user) return;
  try {
    about = (await searchUsers(user)).find((one) => one.user_id === user) ?? null;
    if (state.user === user) show();
  } catch {
    about = null; // the list itself tells what is wrong
  }
}

function aboutUser() {
  if (state.user === null) return [h("p.hint", {}, "Lists come from what a user took up before. Type the start of an id.")];
  const likes = [...state.liked.values()];
  const known = about?.user_id === state.user ? about : null;
  return [
    h("p.chosen", {}, h("span.chosen-label", {}, "User "), h("strong", {}, state.user)),
    known && h("p.hint", {}, `${known.history} items in the history.`),
    likes.length > 0 && h("h3", {}, "Liked just now"),
    likes.length > 0 && h("ul.trail", {}, likes.map((item) => trailRow(item))),
    known?.latest.length > 0 && lately(known.latest, likes.length ? "Before that" : "Lately"),
  ].filter(Boolean);
}

/** The newest titles; closed where the screen is narrow and the list should not be pushed away. */
function lately(titles, heading) {
  const open = matchMedia("(min-width: 60rem)").matches;
  return h("details.lately", { open }, h("summary", {}, heading), h("ul", {}, titles.map((title) => h("li", {}, title))));
}

function aboutHistory() {
  if (!state.history.length) return [h("p.hint", {}, "Add a few things that you enjoyed, oldest first. Three are enough to begin with.")];
  const rows = state.history.map((item) =>
    trailRow(item, () => {
      changeHistory(state.history.filter((other) => other !== item));
      notice(`Took out “${item.title}”.`);
      document.querySelector("#pick-items input").focus();
    }),
  );
  return [h("h3", {}, "History, newest last"), h("ol.trail", {}, rows)];
}

function trailRow(item, remove) {
  return h(
    "li",
    {},
    h("span.thumb", {}, item.semantic_id ? poster(item.semantic_id) : blankPoster()),
    h("span.trail-title", {}, item.title),
    remove && h("button.round.small", { type: "button", "aria-label": `Take out ${item.title}`, on: { click: remove } }, icon("cross")),
  );
}
