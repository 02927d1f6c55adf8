// What the page knows: for whom, what was liked and skipped, which dialogue. Who changes it says so by an event.

import { get } from "./api.js";

export const LENGTH = 12;

export const state = new (class extends EventTarget {
  mode = "user"; // or "history"
  user = null; // id of the known user
  history = []; // items of the built history, oldest first
  liked = new Map(); // item id -> item, this visit
  skipped = new Map();
  session = null; // of the dialogue with the instructor
  levels = null;

  /** Nothing is known of anyone yet. */
  get empty() {
    return this.mode === "user" ? this.user === null : this.history.length === 0;
  }

  /** The part of a request that says for whom. */
  get subject() {
    return this.mode === "user" ? { user_id: this.user } : { history: this.history.map((item) => item.item_id) };
  }

  /** Under which name feedback is kept; whoever is not known has none, so this tab gets one. */
  get owner() {
    if (this.mode === "user" && this.user !== null) return this.user;
    const name = sessionStorage.getItem("genrec.guest") ?? `guest-${uuid()}`;
    sessionStorage.setItem("genrec.guest", name);
    return name;
  }

  /** Say that `what` changed: "person", "feedback" or "history". */
  changed(what) {
    this.dispatchEvent(new Event(what));
  }

  /** Another user, or another way to say for whom: what was liked or skipped before is not theirs. */
  turnTo({ mode = this.mode, user = this.user, history = this.history }) {
    Object.assign(this, { mode, user, history, session: null });
    this.liked.clear();
    this.skipped.clear();
    const address = new URL(location.href);
    address.search = mode === "user" && user !== null ? `?user=${encodeURIComponent(user)}` : "";
    window.history.replaceState(null, "", address);
    this.changed("person");
  }
})();

/** A new id; crypto.randomUUID is absent on plain http beyond localhost. */
export function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

const known = new Map();

/** An item of the catalog, asked for once. */
export function lookUp(itemId) {
  if (!known.has(itemId)) {
    const found = get(`v1/items/${encodeURIComponent(itemId)}`);
    known.set(itemId, found);
    found.catch(() => known.delete(itemId));
  }
  return known.get(itemId);
}
