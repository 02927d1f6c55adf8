// The page's wiring: what starts what, where errors are told, and the key.

import { advice, get, key, onLocked } from "./api.js";
import { find, h, icon, notice } from "./dom.js";
import { startPanels } from "./panels.js";
import { searchUsers, startPerson } from "./person.js";
import { startShelf } from "./shelf.js";
import { state } from "./state.js";
import { startWish } from "./wish.js";

const HEALTH_EVERY_MS = 4000;

/** An error where people look, with what to do and a button that does it again. */
function onFault(fault, again = null) {
  const [what, todo] = advice(fault);
  const close = () => find("alerts").replaceChildren();
  const retry = () => (close(), again());
  find("alerts").replaceChildren(
    h(
      "div.alert",
      {},
      h("p", {}, h("strong", {}, what), " ", todo),
      h(
        "div.alert-acts",
        {},
        again && h("button.button.strong", { type: "button", on: { click: retry } }, "Try again"),
        h("button.round", { type: "button", "aria-label": "Dismiss", on: { click: close } }, icon("cross")),
      ),
    ),
  );
}

/** Ask for a key by a dialog; null if none is given. */
function askForKey(refused) {
  const panel = find("key-panel");
  const field = find("key-field");
  find("key-fault").textContent = refused ? "The service does not know this key. Check it and enter it again." : "";
  field.setAttribute("aria-invalid", String(refused));
  field.value = "";
  panel.showModal();
  field.focus();
  return new Promise((done) => {
    panel.addEventListener(
      "close",
      () => {
        const given = panel.returnValue === "use" ? field.value.trim() : "";
        field.value = "";
        if (given) key.set(given);
        done(given || null);
      },
      { once: true },
    );
  });
}

function startKey() {
  onLocked(askForKey);
  find("key-cancel").addEventListener("click", () => find("key-panel").close(""));
  find("key-panel").addEventListener("cancel", () => (find("key-panel").returnValue = ""));
  find("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    find("key-panel").close("use");
  });
  find("open-key").addEventListener("click", async () => {
    if ((await askForKey(false)) === null) return;
    notice("The key is used from now on.");
    state.changed("person");
  });
}

/** Ready, warming up, or away; asked again until it is ready. */
async function watchHealth() {
  const place = find("health");
  try {
    const health = await get("v1/health");
    place.dataset.state = "ready";
    find("health-text").textContent = health.status === "busy" ? "Busy" : "Ready";
    place.title = `Bundle ${health.bundle_version}`;
    find("foot").replaceChildren(
      "Bundle ", h("code", {}, health.bundle_version.slice(0, 12)), ", semantic IDs ", h("code", {}, health.sid_version.slice(0, 12)),
      ". A bar compares an item with the likeliest, its number is the log-probability. What you like or skip is stored with the list it was on.",
    );
    return;
  } catch (fault) {
    place.dataset.state = fault.code === "not_ready" ? "warming" : "away";
    find("health-text").textContent = fault.code === "not_ready" ? "Warming up" : "Away";
  }
  setTimeout(watchHealth, HEALTH_EVERY_MS);
}

async function pickSomeone(person) {
  if (state.mode === "history") return person.first();
  try {
    const [first] = await searchUsers("");
    if (first) state.turnTo({ mode: "user", user: first.user_id });
    else person.first();
  } catch (fault) {
    onFault(fault, () => pickSomeone(person));
  }
}

startKey();
startPanels();
const person = startPerson(onFault);
startShelf({ onFault, onPick: () => pickSomeone(person) });
startWish({ onFault });
watchHealth();
const asked = new URLSearchParams(location.search).get("user");
if (asked) state.turnTo({ mode: "user", user: asked });
