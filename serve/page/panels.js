// What stands behind a list: why an item is on it, where a made one comes from, what the model is.

import { advice, get, post } from "./api.js";
import { find, h, icon, notice, percent } from "./dom.js";
import { sendFeedback } from "./feedback.js";
import { lookUp, state } from "./state.js";

const LEANS_SHOWN = 8;
const PARTS = {
  generator: "The model itself",
  text: "People whose histories read alike",
  collaborative: "People with similar tastes",
  neighbours: "People with similar histories",
  "item-knn": "Items taken together",
  "content-knn": "Items described alike",
  linear: "What usually follows such a history",
  sasrec: "The order in which things are taken",
};

export function startPanels() {
  const panel = find("panel");
  find("panel-close").append(icon("cross"));
  find("panel-close").addEventListener("click", () => panel.close());
  panel.addEventListener("click", (event) => event.target === panel && panel.close());
  find("open-model").addEventListener("click", showModel);
}

async function open(title, fill) {
  const body = find("panel-body");
  find("panel-title").textContent = title;
  body.replaceChildren(h("p.hint", { role: "status" }, "One moment…"));
  if (!find("panel").open) find("panel").showModal();
  try {
    body.replaceChildren(...(await fill()).flat().filter(Boolean));
  } catch (fault) {
    const [what, todo] = advice(fault);
    body.replaceChildren(
      h("p", { role: "alert" }, h("strong", {}, what), " ", todo),
      h("button.button.quiet", { type: "button", on: { click: () => open(title, fill) } }, "Try again"),
    );
  }
}

/** Which items of the history an item leans on, and who voted for it. */
export function explainItem(item) {
  return open(`Why “${item.title}”?`, async () => explanation(item, await post("v1/explanations", { ...state.subject, item_id: item.item_id })));
}

function explanation(item, reply) {
  const leans = (reply.history ?? []).filter((one) => one.influence > 0).slice(0, LEANS_SHOWN);
  const against = (reply.history ?? []).filter((one) => one.influence < 0).slice(-1);
  const most = Math.max(...leans.map((one) => one.influence), 1e-9);
  const parts = Object.entries(reply.sources ?? {}).sort(([, one], [, other]) => other - one);
  const people = (reply.retrieved_users ?? []).filter((one) => one.vote > 0);
  return [
    h("p.lead", {}, `${item.evidence?.reason ?? "What the model expects next"}. The numbers below are measured.`),
    leans.length > 0 && h("h3", {}, "It leans on"),
    leans.length > 0 && h("p.hint", {}, "How many times as likely it is with each of these in the history as without."),
    leans.length > 0 && h("ul.weights", {}, leans.map((one) => weightRow(one.title, times(one.influence), one.influence / most))),
    against.length > 0 && h("p.hint", {}, `“${against[0].title}” speaks against it (${times(against[0].influence)}).`),
    parts.length > 1 && h("h3", {}, "Who speaks for it"),
    parts.length > 1 && h("ul.weights", {}, parts.map(([name, share]) => weightRow(PARTS[name] ?? name, percent(share), share))),
    people.length > 0 && h("p.hint", {}, `People like this who have it: ${people.map((one) => one.user_id).join(", ")}.`),
    h("p.hint", {}, `Its probability of coming next is ${percent(Math.exp(reply.score ?? item.score))} (logarithm ${(reply.score ?? item.score).toFixed(2)}).`),
    codes(item.evidence?.semantic_id),
  ];
}

/** An influence is a difference of logarithms: told as a factor. */
const times = (influence) => `× ${Math.exp(influence).toFixed(2)}`;

function weightRow(label, number, share) {
  return h(
    "li",
    {},
    h("span.weight-label", {}, label),
    h("span.weight-number", {}, number),
    h("span.bar", { "aria-hidden": "true" }, h("span.bar-fill", { "--share": share })),
  );
}

function codes(semanticId) {
  return semanticId && h("p.codes", {}, "Semantic ID ", semanticId.map((code) => h("code", {}, code)));
}

/** How a made thing came to be, and what the checks found. */
export function showProvenance(item) {
  return open(`Where “${item.title}” comes from`, async () => {
    const told = await get(`v1/media/${encodeURIComponent(item.item_id)}/provenance`);
    const { fidelity: checks = item.fidelity, manifest, ...facts } = told;
    if (facts.source_item) facts.source_item = await lookUp(facts.source_item).then((source) => source.title, () => facts.source_item);
    return [
      h("p.lead", {}, item.source === "edited" ? "A changed version of something that exists." : "Made by a model; nothing in it was photographed or drawn by a person."),
      h("h3", {}, "Checks"),
      verdicts(checks?.verdicts ?? []),
      checks?.policy && h("p.hint", {}, `Policy ${checks.policy}`),
      h("h3", {}, "Origin"),
      manifest && h(`p.seal${manifest.valid ? ".good" : ".poor"}`, {}, icon(manifest.valid ? "seal" : "cross"), sealWords(manifest)),
      factList(facts),
      reportButton(item),
    ];
  });
}

function sealWords(manifest) {
  if (manifest.valid) return "The file carries a signed statement that a machine made it, and no byte was changed since.";
  return `The file's signed statement does not hold (${[manifest.state, ...(manifest.problems ?? [])].join(", ")}).`;
}

/** What should not be shown can be reported; whoever runs the service sees it in the feedback. */
function reportButton(item) {
  const report = async () => {
    try {
      await sendFeedback(item.item_id, "report");
      button.replaceWith(h("p", { role: "status" }, "Reported. Thank you."));
    } catch (fault) {
      notice(advice(fault).join(" "));
    }
  };
  const button = h("button.button.quiet", { type: "button", on: { click: report } }, "Report this");
  return h("div.report", {}, button);
}

function verdicts(all) {
  if (!all.length) return h("p", {}, "No verdicts came with it.");
  return h(
    "ul.verdicts",
    {},
    all.map((one) =>
      h(`li.${one.passed ? "good" : "poor"}`, {}, icon(one.passed ? "check" : "cross"), h("strong", {}, one.check), h("span.unseen", {}, one.passed ? "passed: " : "failed: "), h("span", {}, one.evidence)),
    ),
  );
}

/** Whatever there is to tell, as terms and descriptions; nested parts stand under their own terms. */
function factList(facts) {
  const rows = Object.entries(facts).filter(([, value]) => value !== null && value !== undefined && value !== "" && value.length !== 0);
  return h("dl.facts", {}, rows.map(([term, value]) => [h("dt", {}, term.replaceAll("_", " ")), h("dd", {}, factValue(term, value))]));
}

function factValue(term, value) {
  if (Array.isArray(value)) return value.every((one) => typeof one !== "object") ? value.flatMap((one, i) => [i ? ", " : "", factValue(term, one)]) : h("ul.plain-list", {}, value.map((one) => h("li", {}, factValue(term, one))));
  if (typeof value === "object") return factList(value);
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (/^(time|created|made)$/.test(term) && typeof value === "number") return new Date(value * 1000).toLocaleString();
  if (typeof value === "string" && /^[0-9a-f]{32,}$/.test(value)) return h("code", { title: value }, `${value.slice(0, 16)}…`);
  return String(value);
}

function showModel() {
  return open("Model card", async () => {
    const model = await get("v1/model");
    const { metrics = [], use, ...rest } = model.card;
    for (const name of ["items", "levels", "sid_version"]) delete rest[name];
    return [
      use && h("p.lead", {}, use),
      h("dl.facts", {}, [
        ["Items in the catalog", model.items.toLocaleString()],
        ["Users known", model.users.toLocaleString()],
        ["Codes of a semantic ID", model.levels.join(" × ")],
        ["Newest items it sees", model.max_history],
        ["Bundle", h("code", {}, model.bundle_version.slice(0, 16))],
        ["Semantic IDs", h("code", {}, model.sid_version.slice(0, 16))],
      ].map(([term, value]) => [h("dt", {}, term), h("dd", {}, value)])),
      metrics.length > 0 && h("h3", {}, "Measured on held-out steps"),
      metrics.length > 0 && metricsTable(metrics),
      Object.keys(rest).length > 0 && h("h3", {}, "More"),
      Object.keys(rest).length > 0 && factList(rest),
    ];
  });
}

const COLUMNS = [["all", "hit@10"], ["all", "ndcg@10"], ["head", "ndcg@10"], ["tail", "ndcg@10"]];

/** One row a model; the whole report has more. */
function metricsTable(rows) {
  const values = new Map(rows.map((row) => [`${row.model} ${row.segment} ${row.metric}`, row.value]));
  const models = [...new Set(rows.map((row) => row.model))];
  const columns = COLUMNS.filter(([segment, metric]) => models.some((model) => values.has(`${model} ${segment} ${metric}`)));
  const cell = (model, [segment, metric]) => {
    const value = values.get(`${model} ${segment} ${metric}`);
    return h("td.number", {}, value === undefined ? "–" : value.toFixed(3));
  };
  return h(
    "table",
    {},
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Model"), columns.map(([segment, metric]) => h("th.number", { scope: "col" }, segment === "all" ? metric : `${metric}, ${segment}`)))),
    h("tbody", {}, models.map((model) => h("tr", {}, h("th", { scope: "row" }, model), columns.map((column) => cell(model, column))))),
  );
}
