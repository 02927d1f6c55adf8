// One recommended item: picture or poster, title, reason, score, and what can be done with it.

import { media } from "./api.js";
import { h, icon, percent } from "./dom.js";
import { explainItem, showProvenance } from "./panels.js";
import { blankPoster, poster } from "./poster.js";

const SOURCES = { retrieved: "Found in the catalog for your wish", edited: "Edited for your wish", created: "Created for your wish" };

export const isMade = (item) => item.source === "edited" || item.source === "created";

/**
 * @param item entry of a reply
 * @param rank 1 for the first; null for made things
 * @param best highest score of the list, a log-probability
 * @param acts {like, skip}
 */
export function card(item, rank, best, acts) {
  const name = `item-${item.item_id}`;
  return h(
    "li.card",
    { "data-item": item.item_id, "data-source": item.source },
    h("div.poster", {}, isMade(item) ? madeArt(item) : poster(item.evidence?.semantic_id), rank !== null && h("span.rank", { "aria-hidden": "true" }, rank)),
    h(
      "div.card-body",
      {},
      h("h3", { id: name }, item.title),
      h("p.reason", {}, reason(item)),
      isMade(item) ? badge(item) : meter(item, best),
      h(
        "div.acts",
        { role: "group", "aria-labelledby": name },
        acts.like && h("button.act.like", { type: "button", "aria-label": `Like ${item.title}`, on: { click: () => acts.like(item) } }, icon("heart"), h("span", {}, "Like")),
        acts.skip && h("button.act.skip", { type: "button", "aria-label": `Skip ${item.title}`, on: { click: () => acts.skip(item) } }, icon("cross"), h("span", {}, "Skip")),
        isMade(item)
          ? h("button.act.origin", { type: "button", "aria-label": `Origin of ${item.title}`, on: { click: () => showProvenance(item) } }, icon("seal"), h("span", {}, "Origin"))
          : h("button.act.why", { type: "button", "aria-label": `Why ${item.title}?`, on: { click: () => explainItem(item) } }, icon("why"), h("span", {}, "Why")),
      ),
    ),
  );
}

/** 12.3 -> "12.30", with a minus sign that is as wide as a digit. */
const number = (value) => value.toFixed(2).replace("-", "\u2212");

function reason(item) {
  const reason = item.evidence?.reason;
  if (item.evidence?.fits_instruction) return `Fits your wish.${reason ? ` ${reason}` : ""}`;
  if (item.evidence?.on_trial) return `New, made by a machine.${reason ? ` ${reason}` : ""}`;
  return reason ?? SOURCES[item.source] ?? "What the model expects next";
}

function meter(item, best) {
  const share = Math.exp(item.score - best);
  const words = share >= 0.995 ? "the likeliest" : `${percent(share)} as likely as the likeliest`;
  return h(
    "p.score",
    { title: `log-probability ${item.score.toFixed(3)}` },
    h("span.bar", { "aria-hidden": "true" }, h("span.bar-fill", { "--share": Math.max(share, 0.02) })),
    h("span.score-number", {}, `${number(item.score)} `, h("span.unseen", {}, `log-probability, ${words}`)),
  );
}

function badge(item) {
  const verdicts = item.fidelity?.verdicts ?? [];
  const passed = verdicts.filter((verdict) => verdict.passed).length;
  const good = verdicts.length > 0 && passed === verdicts.length;
  const text = verdicts.length ? `${passed} of ${verdicts.length} checks passed` : "Checks are not told";
  return h(`button.badge${good ? ".good" : ".poor"}`, { type: "button", on: { click: () => showProvenance(item) } }, icon(good ? "check" : "why"), text);
}

function madeArt(item) {
  const frame = h("div.made-art", {}, blankPoster());
  media(item.item_id)
    .then(({ url, kind }) => frame.replaceChildren(kind.startsWith("video/") ? film(url, item) : picture(url, item)))
    .catch(() => frame.replaceChildren(blankPoster(), h("p.made-fault", {}, "The picture could not be loaded.")));
  return frame;
}

const picture = (url, item) => h("img", { src: url, alt: item.evidence?.prompt ?? item.title });
const film = (url, item) => h("video", { src: url, controls: true, loop: true, playsinline: true, "aria-label": item.title });
