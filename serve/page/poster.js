// A poster drawn from an item's semantic ID. Each code decides one trait, coarse codes the coarse traits: items that
// begin alike look alike, so a list shows at a glance how near its items are to one another.

import { s } from "./dom.js";

const GOLDEN_ANGLE = 137.508;
const PARTNERS = [28, 152, 180, 205, 328]; // second hue, degrees from the first

/** An SVG for the codes of a semantic ID; the same codes always give the same picture. */
export function poster(codes) {
  const [first = 0, second = 0, third = 0, fourth = 0] = codes ?? [];
  const hue = (first * GOLDEN_ANGLE + (second % 9) * 4 + 160) % 360;
  const partner = (hue + PARTNERS[(first + second) % PARTNERS.length]) % 360;
  const deep = first % 3 === 1;
  const rest = third * 13 + second * 5; // the last level may tell only equal items apart
  const size = 0.78 + (rest % 5) * 0.11;
  const ground = deep ? tone(0.4, 0.08, hue) : tone(first % 3 ? 0.74 : 0.86, first % 3 ? 0.1 : 0.06, hue);
  const main = deep ? tone(0.82, 0.1, partner) : tone(0.46, 0.11, hue);
  const small = deep ? tone(0.7, 0.14, (hue + 40) % 360) : tone(0.68, 0.15, partner);
  return s(
    "svg",
    { viewBox: "0 0 100 100", class: "poster-art", "aria-hidden": "true", preserveAspectRatio: "xMidYMid slice" },
    s("rect", { width: 100, height: 100, fill: ground }),
    s("g", { fill: main, stroke: main, "stroke-width": 0, transform: `${turn(second >> 3)} ${grow(size)}` }, FORMS[second % FORMS.length]()),
    detail(rest, small),
    fourth > 0 && s("circle", { cx: 90, cy: 90, r: 3 + (fourth % 3), fill: small }),
  );
}

/** The poster of what has no semantic ID. */
export function blankPoster() {
  return s("svg", { viewBox: "0 0 100 100", class: "poster-art blank", "aria-hidden": "true" }, s("rect", { width: 100, height: 100 }));
}

const tone = (light, chroma, hue) => `oklch(${light} ${chroma} ${hue.toFixed(1)})`;
const turn = (quarter) => `rotate(${(quarter % 4) * 90} 50 50)`;
const grow = (size) => `translate(50 50) scale(${size}) translate(-50 -50)`;
const many = (count, draw) => Array.from({ length: count }, (_, place) => draw(place));

const FORMS = [
  () => [s("circle", { cx: 58, cy: 56, r: 34 })],
  () => [s("path", { d: "M12 62a38 38 0 0 1 76 0z" })],
  () => [s("path", { d: "M-30 130A112 112 0 0 1 82 18V130z" })],
  () => many(4, (i) => s("rect", { x: 14 + i * 19, y: 18 + i * 8, width: 11, height: 130 })),
  () => [s("path", { d: "M-8 115L52 14 108 115z" })],
  () => many(3, (i) => s("circle", { cx: 50, cy: 100, r: 30 + i * 22, fill: "none", "stroke-width": 9 })),
  () => many(16, (i) => s("circle", { cx: 20 + (i % 4) * 20, cy: 20 + (i >> 2) * 20, r: 4 + (i % 4) + (i >> 2) })),
  () => [s("path", { d: "M24 140V50a26 26 0 0 1 52 0v90z" })],
];

function detail(code, fill) {
  const x = 22 + (code % 3) * 28;
  const y = 22 + (Math.floor(code / 3) % 3) * 28;
  const size = 8 + (Math.floor(code / 9) % 3) * 3;
  switch (Math.floor(code / 27) % 4) {
    case 0:
      return s("circle", { cx: x, cy: y, r: size, fill });
    case 1:
      return s("rect", { x: x - size, y: y - size, width: 2 * size, height: 2 * size, fill });
    case 2:
      return s("circle", { cx: x, cy: y, r: size, fill: "none", stroke: fill, "stroke-width": 5 });
    default:
      return s("path", { d: `M${x - size} ${y + size}A${2 * size} ${2 * size} 0 0 1 ${x + size} ${y - size}V${y + size}z`, fill });
  }
}
