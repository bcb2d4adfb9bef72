"use strict";
const R = JSON.parse(document.getElementById("numbers").textContent);
const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
const tip = document.getElementById("tip");

function element(name, words = "", kind = "") {
  const made = document.createElement(name);
  made.textContent = words; // text alone: a name is never read as HTML
  if (kind) made.className = kind;
  return made;
}

function className(number) {
  return number in R.classes ? R.classes[number] : String(number);
}

function photo(number, side) {
  const made = element("img");
  made.src = "data:image/jpeg;base64," + R.images[number].picture;
  made.alt = R.images[number].file;
  made.width = made.height = side;
  return made;
}

function told(number) {
  const one = R.images[number], parts = [];
  if (R.targets === "classes") parts.push("is " + className(one.target));
  else if (R.targets === "numbers") parts.push("target " + [one.target].flat().map((v) => v === null ? "?" : +v.toPrecision(4)).join(", "));
  else if (R.targets === "labels") parts.push(one.target.map((v, k) => v ? className(k) : "").filter(Boolean).join(", ") || "no label");
  if (one.predicted !== null) {
    const sure = one.confidence === null ? "" : " (" + (100 * one.confidence).toFixed(1) + " %)";
    parts.push("answered " + className(one.predicted) + sure);
  }
  return parts.join(", ");
}

// The images behind a cell of the confusion matrix
function showCell(isClass, said) {
  const numbers = R.images.map((_, k) => k).filter((k) => R.images[k].target === isClass && R.images[k].predicted === said);
  numbers.sort((a, b) => (R.images[b].confidence ?? 0) - (R.images[a].confidence ?? 0));
  const list = element("ul", "", "cards small");
  for (const k of numbers) {
    const item = element("li");
    const sure = R.images[k].confidence === null ? "" : (100 * R.images[k].confidence).toFixed(1) + " %";
    item.append(photo(k, 64), element("span", sure));
    item.title = R.images[k].file;
    list.append(item);
  }
  const many = numbers.length === 1 ? "1 image of " : numbers.length + " images of ";
  const head = element("p", many + className(isClass) + ", answered " + className(said) + ", the most confident first");
  document.getElementById("cell").replaceChildren(head, list);
  for (const button of all(".matrix button")) {
    button.setAttribute("aria-pressed", String(+button.dataset.is === isClass && +button.dataset.said === said));
  }
}
for (const button of all(".matrix button")) {
  button.addEventListener("click", () => showCell(+button.dataset.is, +button.dataset.said));
}
if (R.worst && document.getElementById("cell")) showCell(R.worst[0], R.worst[1]);

// Maps: the slider, the toggles of classes, and the image under the pointer or the arrow keys
let when = 1;
function placeOf(map, number) {
  const after = R.maps[map].after[number], before = (R.maps[map].before || R.maps[map].after)[number];
  const [width, height, scale] = R.size;
  return [0, 1].map((k) => {
    const value = before[k] + when * (after[k] - before[k]);
    return k ? height / 2 - value * scale : width / 2 + value * scale;
  });
}

function place() {
  for (const point of all(".map path")) {
    const [x, y] = placeOf(point.closest("svg").dataset.map, +point.dataset.i);
    point.setAttribute("transform", "translate(" + x.toFixed(1) + "," + y.toFixed(1) + ")");
  }
}
const slider = document.getElementById("when");
if (slider) slider.addEventListener("input", () => { when = slider.value / 100; place(); });

for (const button of all("[data-toggle]")) {
  button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(on));
    for (const point of all('.map path[data-group="' + button.dataset.toggle + '"]')) point.classList.toggle("off", !on);
  });
}

function pick(svg, number) {
  for (const point of all(".map path.picked")) point.classList.remove("picked");
  if (number === null) { tip.hidden = true; return; }
  const points = all('.map path[data-i="' + number + '"]');
  for (const point of points) point.classList.add("picked");
  const box = points.find((point) => svg.contains(point)).getBoundingClientRect();
  tip.replaceChildren(photo(number, 96), element("b", told(number)), element("span", R.images[number].file, "file"));
  tip.hidden = false;
  tip.style.left = Math.max(4, Math.min(box.right + 10, innerWidth - tip.offsetWidth - 8)) + "px";
  tip.style.top = Math.max(4, Math.min(box.top - 20, innerHeight - tip.offsetHeight - 8)) + "px";
}

for (const svg of all("svg.map")) {
  const shown = () => all("path:not(.off)", svg).map((point) => +point.dataset.i);
  let current = null;
  svg.addEventListener("pointermove", (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    let nearest = null, least = 14;
    for (const k of shown()) {
      const [x, y] = placeOf(svg.dataset.map, k), distance = Math.hypot(x - at.x, y - at.y);
      if (distance < least) [nearest, least] = [k, distance];
    }
    pick(svg, current = nearest);
  });
  svg.addEventListener("pointerleave", () => pick(svg, null));
  svg.addEventListener("blur", () => pick(svg, null));
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") pick(svg, current = null);
    if (!step) return;
    event.preventDefault();
    const order = shown().sort((a, b) => placeOf(svg.dataset.map, a)[0] - placeOf(svg.dataset.map, b)[0]);
    if (!order.length) return;
    const at = order.indexOf(current);
    pick(svg, current = order[at < 0 ? 0 : (at + step + order.length) % order.length]);
  });
}
