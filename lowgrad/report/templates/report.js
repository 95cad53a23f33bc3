"use strict";
const $ = (selector, from = document) => from.querySelector(selector);
const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];

// --- Light and dark: the system's choice, until the button is used ---
const root = document.documentElement;
const system = matchMedia("(prefers-color-scheme: dark)");
const show = () => { root.dataset.theme = root.dataset.chosen || (system.matches ? "dark" : "light"); };
system.addEventListener("change", show);
$("#theme").addEventListener("click", () => {
  root.dataset.chosen = root.dataset.theme === "dark" ? "light" : "dark";
  show();
});
show();

// --- A link to a kernel opens it ---
const reveal = () => {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target && target.tagName === "DETAILS") { target.open = true; target.scrollIntoView(); }
};
addEventListener("hashchange", reveal);
reveal();

// --- The drawer: what is in a box of the graph ---
const drawer = $("#drawer"), content = $("#drawer-content");
function open(box) {
  content.replaceChildren();
  const numbers = box.dataset.kernels.split(" ").filter(Boolean);
  if (!numbers.length) content.textContent = "Nothing runs here: the result is its operand's memory.";
  for (const number of numbers) {
    const copy = document.getElementById(`kernel-${number}`).cloneNode(true);
    copy.removeAttribute("id");
    copy.open = true;
    content.append(copy);
  }
  drawer.hidden = false;
  $("#close").focus();
}
const close = () => { drawer.hidden = true; };
$("#close").addEventListener("click", close);
addEventListener("keydown", (event) => { if (event.key === "Escape") close(); });

// --- The graph: click, hover, drag, zoom ---
const canvas = $("#canvas"), drawing = $("svg", canvas);
let scale = Math.min(1, canvas.clientWidth / drawing.clientWidth || 1);
scale = Math.max(scale, 0.35);
let left = (canvas.clientWidth - drawing.clientWidth * scale) / 2, top_ = 0, start = null, moved = false;
const draw = () => { drawing.style.transform = `translate(${left}px, ${top_}px) scale(${scale})`; };
draw();
function zoom(factor, x, y) {
  const next = Math.min(3, Math.max(0.05, scale * factor));
  left = x - (x - left) * next / scale;
  top_ = y - (y - top_) * next / scale;
  scale = next;
  draw();
}
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  if (event.ctrlKey || event.metaKey) zoom(Math.exp(-event.deltaY / 300), event.offsetX, event.offsetY);
  else { left -= event.deltaX; top_ -= event.deltaY; draw(); }
}, { passive: false });
canvas.addEventListener("pointerdown", (event) => { start = [event.clientX - left, event.clientY - top_]; moved = false; });
addEventListener("pointermove", (event) => {
  if (!start) return;
  const x = event.clientX - start[0], y = event.clientY - start[1];
  if (Math.abs(x - left) + Math.abs(y - top_) > 3) { moved = true; canvas.classList.add("moving"); }
  if (moved) { left = x; top_ = y; draw(); }
});
addEventListener("pointerup", () => { start = null; canvas.classList.remove("moving"); });
canvas.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] }[event.key];
  if (step) { left += step[0]; top_ += step[1]; draw(); event.preventDefault(); }
  if (event.key === "+" || event.key === "-") zoom(event.key === "+" ? 1.2 : 1 / 1.2, canvas.clientWidth / 2, 300);
});
for (const box of $$(".box")) {
  const node = box.dataset.node;
  const light = (on) => $$(`[data-from="${node}"], [data-to="${node}"]`, drawing).forEach((e) => e.classList.toggle("lit", on));
  box.addEventListener("click", () => { if (!moved) open(box); });
  box.addEventListener("keydown", (event) => { if (event.key === "Enter") open(box); });
  for (const [name, on] of [["mouseenter", true], ["mouseleave", false], ["focus", true], ["blur", false]])
    box.addEventListener(name, () => light(on));
}

// --- Tables: sort by a column, filter the kernels ---
const value = (row, column) => {
  const cell = row.cells[column], text = cell.dataset.value ?? cell.textContent.trim();
  const number = parseFloat(text);
  return Number.isNaN(number) ? text : number;
};
for (const table of $$("table.sortable")) {
  $$("th", table).forEach((head, column) => {
    head.tabIndex = 0;
    let down = false;
    const sort = () => {
      down = !down;
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => {
        const x = value(a, column), y = value(b, column);
        const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
        return down ? -order : order;
      });
      table.tBodies[0].append(...rows);
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  });
}
$("#kernel-filter").addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase();
  for (const row of $$("#kernel-table tbody tr")) {
    row.hidden = !row.textContent.toLowerCase().includes(wanted);
    document.getElementById(`kernel-${row.dataset.kernel}`).hidden = row.hidden;
  }
});

// --- Hints over the memory's timeline ---
const tip = $("#tip");
for (const rect of $$(".timeline rect")) {
  rect.addEventListener("mousemove", (event) => {
    tip.textContent = rect.dataset.tip;
    tip.hidden = false;
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 10)}px`;
    tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 10)}px`;
  });
  rect.addEventListener("mouseleave", () => { tip.hidden = true; });
}
