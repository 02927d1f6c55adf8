// Elements without markup in strings: text always arrives as text, so nothing that the service says can become code.

const SVG = "http://www.w3.org/2000/svg";

/** An element: h("button.quiet", {type: "button", on: {click}}, "Like"). Falsy children are left out. */
export function h(name, properties = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  return fill(element, properties, children);
}

/** The same for SVG. */
export function s(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

function fill(element, properties, children) {
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "on") for (const [event, act] of Object.entries(value)) element.addEventListener(event, act);
    else if (key.startsWith("--")) element.style.setProperty(key, value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child || child === 0));
  return element;
}

export const find = (id) => document.getElementById(id);

const ICONS = {
  heart: "M12 20s-7.5-4.6-7.5-10A4.3 4.3 0 0 1 12 7.2 4.3 4.3 0 0 1 19.5 10c0 5.4-7.5 10-7.5 10z",
  cross: "M6 6l12 12M18 6L6 18",
  check: "M5 12.5l4.5 4.5L19 7.5",
  back: "M9 7l-5 5 5 5M4 12h11a5 5 0 0 1 0 10h-2",
  why: "M9.2 9.2a2.9 2.9 0 1 1 4.1 2.7c-.9.4-1.3 1-1.3 2M12 17.6v.01",
  seal: "M12 3l7 3v5.5c0 4.3-2.9 7.6-7 9.5-4.1-1.9-7-5.2-7-9.5V6zM8.8 12l2.3 2.3 4.2-4.4",
};

/** A line drawing, for those who see; its button says the same in words. */
export function icon(name) {
  return s("svg", { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" }, s("path", { d: ICONS[name] }));
}

/** What screen readers are told, without a change on the screen. */
export function tell(text) {
  find("told").textContent = text;
}

let noticeTimer;

/** A short notice at the foot of the window, read out too; it goes by itself. */
export function notice(text) {
  const place = find("notice");
  place.textContent = text;
  place.classList.add("there");
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => place.classList.remove("there"), 6000);
}

export const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** 0.1234 -> "12%", with a place after the point where it would else be 0. */
export function percent(share) {
  const value = share * 100;
  return `${value > 0 && value < 1 ? value.toFixed(1) : Math.round(value)}%`;
}
