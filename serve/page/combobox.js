// A search field with suggestions, after the ARIA combobox pattern: arrows move, Enter chooses, Escape closes.

import { h, tell } from "./dom.js";

const PAUSE_MS = 160;
let made = 0;

/**
 * @param label what the field is called
 * @param hint placeholder
 * @param search async (text, signal) => options
 * @param show option => [title, note, art]
 * @param choose called with the chosen option
 * @param empty what is said when nothing is found
 */
export function combobox({ label, hint, search, show, choose, empty, onFault }) {
  const id = `choice-${(made += 1)}`;
  const list = h("ul.options", { id: `${id}-list`, role: "listbox", "aria-label": `${label}: suggestions`, hidden: true });
  const none = h("p.options-none", { hidden: true });
  const field = h("input", {
    id,
    type: "text",
    role: "combobox",
    autocomplete: "off",
    spellcheck: "false",
    placeholder: hint,
    "aria-autocomplete": "list",
    "aria-expanded": "false",
    "aria-controls": list.id,
  });
  let options = [];
  let active = -1;
  let shown = null; // the text that the suggestions belong to
  let timer;
  let running;

  function close() {
    clearTimeout(timer);
    running?.abort();
    list.hidden = none.hidden = true;
    field.setAttribute("aria-expanded", "false");
    field.removeAttribute("aria-activedescendant");
    active = -1;
    shown = null;
  }

  function take(place) {
    const option = options[place];
    close();
    field.value = "";
    if (matchMedia("(pointer: coarse)").matches) field.blur(); // the screen keyboard goes, the list comes to sight
    choose(option);
  }

  function point(place, scroll = true) {
    active = (place + options.length) % options.length;
    [...list.children].forEach((row, i) => row.setAttribute("aria-selected", String(i === active)));
    field.setAttribute("aria-activedescendant", list.children[active].id);
    if (scroll) list.children[active].scrollIntoView({ block: "nearest" });
  }

  function open(found) {
    options = found;
    active = -1;
    list.replaceChildren(...found.map(row));
    list.hidden = !found.length;
    none.hidden = Boolean(found.length);
    none.textContent = found.length ? "" : empty(field.value.trim());
    field.setAttribute("aria-expanded", String(Boolean(found.length)));
    field.removeAttribute("aria-activedescendant");
    if (found.length && shown) point(0, false);
    tell(found.length ? `${found.length} suggestions; use the arrow keys` : none.textContent);
  }

  function row(option, place) {
    const [title, note, art] = show(option);
    return h(
      "li",
      {
        id: `${id}-${place}`,
        role: "option",
        "aria-selected": "false",
        on: { pointerdown: (event) => event.preventDefault(), click: () => take(place) },
      },
      art && h("span.thumb", {}, art),
      h("span.option-title", {}, title),
      note && h("span.option-note", {}, note),
    );
  }

  async function look() {
    running?.abort();
    running = new AbortController();
    const { signal } = running;
    const text = field.value.trim();
    try {
      const found = await search(text, signal);
      if (signal.aborted) return;
      shown = text;
      open(found);
    } catch (fault) {
      if (fault.name !== "AbortError") onFault(fault);
    }
  }

  field.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(look, PAUSE_MS);
  });
  field.addEventListener("click", () => list.hidden && look());
  field.addEventListener("blur", close);
  field.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (list.hidden) look();
      else point(event.key === "ArrowDown" ? active + 1 : active < 0 ? -1 : active - 1);
    } else if (event.key === "Enter") {
      event.preventDefault();
      clearTimeout(timer);
      if (!list.hidden && shown === field.value.trim()) take(Math.max(active, 0));
      else look(); // Enter came before the suggestions: show them first
    } else if (event.key === "Escape" && !list.hidden) {
      event.preventDefault();
      close();
    }
  });

  return { element: h("div.choice", {}, h("label", { for: id }, label), h("div.choice-field", {}, field, list, none)), field };
}
