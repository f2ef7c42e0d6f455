// The timeline of a run. All text goes into the page as text, never as HTML.
// On <html>: data-ready is the number of bars once all is drawn, data-error what went wrong.
"use strict";
window.addEventListener("error", (event) => {
  document.documentElement.dataset.error = event.message;
});

(() => {
  const GUTTER = 84, RULER = 24, HEAD = 22, STRIP = 34, GAP = 12, LANE = 15;
  const story = JSON.parse(document.getElementById("story").textContent);
  const bars = story.bars, count = bars.begin ? bars.begin.length : 0;
  const element = (id) => document.getElementById(id);
  const canvas = element("canvas"), draw = canvas.getContext("2d");
  const view = { from: 0, to: story.wall, top: 0 };
  let width = 0, height = 0, total = 0, colours = {}, matches = null, selected = -1, due = false;

  // rows: where everything is, if nothing is scrolled

  const nodes = story.nodes.map((name, node) => ({
    name, lanes: Array.from({ length: story.lanes[node] }, () => []), bars: [], y: 0,
  }));
  for (let n = 0; n < count; n++) {
    nodes[bars.node[n]].lanes[bars.lane[n]].push(n);
    nodes[bars.node[n]].bars.push(n);
  }
  for (const node of nodes)
    for (const lane of node.lanes) lane.sort((a, b) => bars.begin[a] - bars.begin[b]);
  const arrowsOf = new Map();
  for (const arrow of story.arrows)
    for (const end of [arrow[1], arrow[2]])
      arrowsOf.set(end, (arrowsOf.get(end) || []).concat([arrow]));
  const moves = story.arrows.filter((arrow) => arrow[0] !== "parent");

  function layOut() {
    let y = RULER;
    for (const node of nodes) {
      node.y = y;
      y += HEAD + STRIP + 4 + node.lanes.length * LANE + GAP;
    }
    total = y;
    width = canvas.parentElement.clientWidth;
    height = Math.max(160, Math.min(total, Math.round(window.innerHeight * 0.72)));
    const ratio = window.devicePixelRatio || 1;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    canvas.style.height = height + "px";
    draw.setTransform(ratio, 0, 0, ratio, 0, 0);
  }

  const laneY = (node, lane) => node.y + HEAD + STRIP + 4 + lane * LANE - view.top;
  const scale = () => (width - GUTTER) / (view.to - view.from);
  const xOf = (moment) => GUTTER + (moment - view.from) * scale();
  const momentOf = (x) => view.from + (x - GUTTER) / scale();
  const endOf = (n) => bars.begin[n] + bars.dur[n];

  function firstAfter(lane, moment) { // of a lane's bars, the first that ends after it
    let low = 0, high = lane.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (endOf(lane[middle]) > moment) high = middle; else low = middle + 1;
    }
    return low;
  }

  // drawing

  function readColours() {
    const style = getComputedStyle(document.documentElement);
    const read = (name) => style.getPropertyValue("--" + name).trim();
    colours = { programs: [] };
    for (const name of ["card", "ink", "soft", "line", "grid", "bad", "accent", "other", "ghost",
      "running", "cpu"]) colours[name] = read(name);
    for (let n = 0; n < story.colours; n++) colours.programs.push(read("c" + n));
    colours.font = getComputedStyle(document.body).fontFamily;
  }

  const colourOf = (n) => {
    if (matches && !matches.has(n)) return colours.ghost;
    return colours.programs[bars.program[n]] || colours.other;
  };

  function redraw() {
    if (due) return;
    due = true;
    requestAnimationFrame(paint);
  }

  function paint() {
    due = false;
    draw.fillStyle = colours.card;
    draw.fillRect(0, 0, width, height);
    const step = tickStep();
    paintGrid(step);
    for (const node of nodes) {
      const bottom = laneY(node, node.lanes.length);
      if (bottom < RULER || node.y - view.top > height) continue;
      paintNode(node);
    }
    for (const arrow of moves) paintArrow(arrow);
    if (selected >= 0) paintSelected();
    paintRuler(step);
  }

  function tickStep() {
    const wanted = (view.to - view.from) / Math.max(2, (width - GUTTER) / 110);
    const power = 10 ** Math.floor(Math.log10(wanted));
    return Math.max(1, [1, 2, 5, 10].find((m) => m * power >= wanted) * power);
  }

  function ticks(step, visit) {
    for (let t = Math.ceil(view.from / step) * step; t <= view.to; t += step)
      visit(Math.round(xOf(t)) + 0.5, t);
  }

  function paintGrid(step) {
    draw.strokeStyle = colours.grid;
    draw.lineWidth = 1;
    draw.beginPath();
    ticks(step, (x) => { draw.moveTo(x, RULER); draw.lineTo(x, height); });
    draw.stroke();
  }

  function paintRuler(step) {
    draw.fillStyle = colours.card;
    draw.fillRect(0, 0, width, RULER);
    draw.fillStyle = colours.soft;
    draw.font = "11px " + colours.font;
    draw.textAlign = "center";
    ticks(step, (x, t) => { if (x < width - 18) draw.fillText(tickText(t, step), x, 15); });
    draw.textAlign = "left";
    draw.strokeStyle = colours.line;
    draw.beginPath();
    draw.moveTo(0, RULER - 0.5);
    draw.lineTo(width, RULER - 0.5);
    draw.stroke();
  }

  function tickText(t, step) {
    if (step < 1000) return (t / 1e3).toFixed(3) + " ms";
    if (step < 1e6) return (t / 1e6).toFixed(step < 1e4 ? 3 : step < 1e5 ? 2 : 1) + " s";
    const s = Math.round(t / 1e6), h = Math.floor(s / 3600), m = Math.floor(s / 60) % 60;
    const two = (n) => String(n).padStart(2, "0");
    return s < 60 ? s + " s" : h ? `${h}:${two(m)}:${two(s % 60)}` : `${m}:${two(s % 60)}`;
  }

  function paintNode(node) {
    const y = node.y - view.top;
    draw.fillStyle = colours.ink;
    draw.font = "600 12.5px " + colours.font;
    draw.fillText(node.name, 4, y + 15, GUTTER - 8);
    paintUse(node, y + HEAD);
    draw.font = "10px " + colours.font;
    node.lanes.forEach((lane, number) => {
      const top = laneY(node, number);
      if (top > height || top + LANE < RULER) return;
      draw.fillStyle = colours.soft;
      draw.fillText("slot " + (number + 1), 24, top + 11);
      paintLane(lane, top);
    });
  }

  function paintLane(lane, top) {
    const label = "11px " + colours.font;
    let painted = -1; // no pixel is painted twice: thousands of brief bars share one
    for (let at = firstAfter(lane, view.from); at < lane.length; at++) {
      const n = lane[at];
      if (bars.begin[n] >= view.to) break;
      const from = Math.max(GUTTER, xOf(bars.begin[n])), to = Math.min(width, xOf(endOf(n)));
      const ghost = matches && !matches.has(n);
      if (to <= painted && ghost) continue;
      const left = Math.floor(from * 2) / 2, wide = Math.max(1, to - left - (to - left > 4 ? 1 : 0));
      if (left + wide <= painted && wide <= 1 && !matches) continue;
      draw.fillStyle = colourOf(n);
      draw.fillRect(left, top, wide, LANE - 2);
      if (!ghost && (bars.status[n] || bars.end[n] === "lost")) {
        draw.fillStyle = colours.bad;
        draw.fillRect(left, top + LANE - 5, wide, 3);
      }
      painted = left + wide;
      if (wide > 34) {
        draw.save();
        draw.beginPath();
        draw.rect(left, top, wide - 3, LANE);
        draw.clip();
        draw.font = label;
        draw.fillStyle = ghost ? colours.soft : inkOn(n);
        draw.fillText(labelOf(n), left + 4, top + 10.5);
        draw.restore();
      }
    }
  }

  const inkOn = (n) => (bars.program[n] < story.colours ? "#fff" : colours.ink);

  function labelOf(n) { // a compiler and what it compiles, say
    const words = bars.argv[n].split(" ");
    const last = words.length > 1 ? words[words.length - 1].replace(/^.*\//, "") : "";
    return story.programs[bars.program[n]] + (/^\w[\w.+-]*$/.test(last) ? " " + last : "");
  }

  function paintUse(node, top) { // by pixel: programs that run, and CPUs that they use
    const pixels = Math.max(1, Math.floor(width - GUTTER)), k = scale();
    const running = new Float64Array(pixels + 1), cpu = new Float64Array(pixels + 1);
    for (const n of node.bars) {
      const a = Math.max(0, (bars.begin[n] - view.from) * k);
      const b = Math.min(pixels, (endOf(n) - view.from) * k);
      if (b <= a) continue;
      const rate = ((bars.cpu_s[n] || 0) * 1e6) / bars.dur[n];
      for (let p = Math.floor(a); p < b; p++) {
        const share = Math.min(b, p + 1) - Math.max(a, p);
        running[p] += share;
        cpu[p] += share * rate;
      }
    }
    const most = Math.max(1, node.lanes.length);
    for (const [values, colour] of [[running, colours.running], [cpu, colours.cpu]]) {
      draw.fillStyle = colour;
      draw.beginPath();
      draw.moveTo(GUTTER, top + STRIP);
      for (let p = 0; p < pixels; p++)
        draw.lineTo(GUTTER + p, top + STRIP - Math.min(1, values[p] / most) * STRIP);
      draw.lineTo(GUTTER + pixels - 1, top + STRIP);
      draw.fill();
    }
    draw.fillStyle = colours.soft;
    draw.font = "10px " + colours.font;
    draw.textAlign = "right";
    draw.fillText(String(most), GUTTER - 6, top + 9);
    draw.fillText("0", GUTTER - 6, top + STRIP);
    draw.textAlign = "left";
    draw.strokeStyle = colours.line;
    draw.beginPath();
    draw.moveTo(GUTTER, top + STRIP + 0.5);
    draw.lineTo(width, top + STRIP + 0.5);
    draw.stroke();
  }

  function paintArrow([kind, source, target]) {
    const from = kind === "parent" ? bars.begin[target] : endOf(source);
    const x0 = xOf(from), x1 = xOf(bars.begin[target]);
    const y0 = laneY(nodes[bars.node[source]], bars.lane[source]) + LANE / 2 - 1;
    const y1 = laneY(nodes[bars.node[target]], bars.lane[target]) + LANE / 2 - 1;
    if (Math.max(x0, x1) < GUTTER || Math.min(x0, x1) > width) return;
    draw.strokeStyle = draw.fillStyle = kind === "restart" ? colours.bad : colours.ink;
    draw.lineWidth = 1.3;
    draw.beginPath();
    draw.moveTo(x0, y0);
    draw.bezierCurveTo(x0 - 14, y0, x1 - 22, y1, x1 - 4, y1);
    draw.stroke();
    draw.beginPath();
    draw.moveTo(x1, y1);
    draw.lineTo(x1 - 6, y1 - 3.5);
    draw.lineTo(x1 - 6, y1 + 3.5);
    draw.fill();
    draw.lineWidth = 1;
  }

  function paintSelected() {
    const n = selected, top = laneY(nodes[bars.node[n]], bars.lane[n]);
    for (const arrow of arrowsOf.get(n) || []) paintArrow(arrow);
    draw.strokeStyle = colours.ink;
    draw.lineWidth = 2;
    const left = Math.max(GUTTER, xOf(bars.begin[n]));
    draw.strokeRect(left, top - 1, Math.max(2, Math.min(width, xOf(endOf(n))) - left), LANE);
    draw.lineWidth = 1;
  }

  // moving about

  function look(from, to) {
    const span = Math.min(story.wall, Math.max(20, to - from));
    view.from = Math.max(0, Math.min(story.wall - span, from));
    view.to = view.from + span;
    view.top = Math.max(0, Math.min(total - height, view.top));
    element("tip").hidden = true;
    redraw();
  }

  function zoom(factor, x = GUTTER + (width - GUTTER) / 2) {
    const moment = momentOf(Math.max(GUTTER, x));
    look(moment - (moment - view.from) * factor, moment + (view.to - moment) * factor);
  }

  const pan = (part) => look(view.from + (view.to - view.from) * part,
    view.to + (view.to - view.from) * part);

  function lookAt(n) {
    const margin = Math.max(bars.dur[n] * 1.5, 2000);
    view.top = nodes[bars.node[n]].y + HEAD + STRIP + bars.lane[n] * LANE - height / 2;
    select(n);
    look(bars.begin[n] - margin, endOf(n) + margin);
  }

  function barAt(x, y) {
    if (x < GUTTER || y < RULER) return -1;
    for (const node of nodes) {
      const lane = node.lanes[Math.floor((y - laneY(node, 0)) / LANE)];
      if (!lane || y < laneY(node, 0)) continue;
      const first = firstAfter(lane, momentOf(x - 2)), n = lane[first];
      return n !== undefined && bars.begin[n] <= momentOf(x + 2) ? n : -1;
    }
    return -1;
  }

  // what is known about a bar

  function seconds(value) {
    if (value < 0.9995) return (value * 1e3).toFixed(value < 0.00995 ? 1 : 0) + " ms";
    return value.toFixed(2) + " s";
  }

  function size(value) {
    for (const unit of ["B", "KiB", "MiB"]) {
      if (value < 1024) return (unit === "B" ? value : value.toFixed(1)) + " " + unit;
      value /= 1024;
    }
    return value.toFixed(1) + " GiB";
  }

  function facts(n) {
    const status = bars.status[n];
    const known = (name, text) => (bars[name][n] === null ? null : text(bars[name][n]));
    return [
      ["pid", String(bars.pid[n])],
      ["at", `${nodes[bars.node[n]].name}, slot ${bars.lane[n] + 1}`],
      ["began", seconds(bars.begin[n] / 1e6) + " after the start"],
      ["took", seconds(bars.dur[n] / 1e6)],
      ["CPU", known("cpu_s", seconds)],
      ["memory", known("maxrss_bytes", size)],
      ["got there in", known("departure_s", seconds)],
      ["round trips", known("round_trips", String)],
      ["carried", known("bytes_to_node", (v) => `${size(v)} there, ${size(bars.bytes_to_home[n])} back`)],
      ["restarts", known("restarts", (v) => (v ? String(v) : null))],
      ["frozen to move", known("frozen_ms", (v) => seconds(v / 1e3))],
      ["image", known("image_bytes", size)],
      ["end", status === null ? bars.end[n] : status < 0 ? "signal " + -status : "exit " + status],
      ["why there", story.whys[bars.why[n]]],
    ].filter((fact) => fact[1] !== null && fact[1] !== "");
  }

  function describe(target, n, most) {
    const line = document.createElement("code"), list = document.createElement("dl");
    const words = bars.argv[n];
    line.textContent = words.length > most ? words.slice(0, most) + "…" : words;
    list.className = "facts";
    for (const [name, text] of facts(n)) {
      list.append(Object.assign(document.createElement("dt"), { textContent: name }),
        Object.assign(document.createElement("dd"), { textContent: text }));
    }
    target.replaceChildren(line, list);
    target.hidden = false;
  }

  function select(n) {
    selected = n;
    if (n < 0) element("details").hidden = true; else describe(element("details"), n, 1e6);
    redraw();
  }

  // finding

  function find(text) {
    const wanted = text.trim().toLowerCase();
    matches = null;
    if (wanted) {
      matches = new Set();
      for (let n = 0; n < count; n++) {
        const name = story.programs[bars.program[n]].toLowerCase();
        if (name.includes(wanted) || bars.argv[n].toLowerCase().includes(wanted)) matches.add(n);
      }
    }
    element("found").textContent = matches ? `${matches.size} of ${count}` : "";
    for (const chip of document.querySelectorAll("button.chip"))
      chip.setAttribute("aria-pressed", String(chip.dataset.find.toLowerCase() === wanted));
    redraw();
  }

  function next() {
    const found = [...(matches || [])].sort((a, b) => bars.begin[a] - bars.begin[b]);
    if (found.length) lookAt(found[(found.indexOf(selected) + 1) % found.length]);
  }

  // events

  let dragged = null;
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY))
      pan((event.deltaX || event.deltaY) / width);
    else zoom(Math.exp(Math.max(-60, Math.min(60, event.deltaY)) * 0.004), event.offsetX);
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    dragged = { x: event.offsetX, y: event.offsetY, from: view.from, top: view.top, far: false };
    if (event.isTrusted) canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!dragged) { hover(event.offsetX, event.offsetY); return; }
    const x = event.offsetX - dragged.x, y = event.offsetY - dragged.y;
    dragged.far = dragged.far || Math.abs(x) + Math.abs(y) > 4;
    canvas.classList.toggle("dragging", dragged.far);
    if (!dragged.far) return;
    const span = view.to - view.from, from = dragged.from - x / scale();
    view.top = dragged.top - y;
    look(from, from + span);
  });
  canvas.addEventListener("pointerup", (event) => {
    if (dragged && !dragged.far) select(barAt(event.offsetX, event.offsetY));
    dragged = null;
    canvas.classList.remove("dragging");
  });
  canvas.addEventListener("pointercancel", () => { dragged = null; });
  canvas.addEventListener("pointerleave", () => { element("tip").hidden = true; });
  canvas.addEventListener("dblclick", (event) => {
    const n = barAt(event.offsetX, event.offsetY);
    if (n >= 0) lookAt(n);
  });

  function hover(x, y) {
    const tip = element("tip"), n = barAt(x, y);
    canvas.classList.toggle("over", n >= 0);
    if (n < 0) { tip.hidden = true; return; }
    describe(tip, n, 300);
    const right = x + 18 + tip.offsetWidth > width;
    tip.style.left = Math.max(0, right ? x - 14 - tip.offsetWidth : x + 16) + "px";
    tip.style.top = y + 18 + "px";
  }

  const KEYS = {
    "+": () => zoom(0.6), "=": () => zoom(0.6), w: () => zoom(0.6),
    "-": () => zoom(1 / 0.6), s: () => zoom(1 / 0.6),
    ArrowLeft: () => pan(-0.15), a: () => pan(-0.15),
    ArrowRight: () => pan(0.15), d: () => pan(0.15),
    ArrowUp: () => { view.top -= 3 * LANE; look(view.from, view.to); },
    ArrowDown: () => { view.top += 3 * LANE; look(view.from, view.to); },
    0: () => look(0, story.wall), Home: () => look(0, story.wall),
    n: next, Escape: () => select(-1), "/": () => element("find").focus(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target === element("find")) {
      if (event.key === "Enter") next();
      if (event.key === "Escape") { event.target.value = ""; find(""); canvas.focus(); }
      return;
    }
    const does = KEYS[event.key];
    // Keys that scroll a page do so unless the timeline has the focus.
    if (!does || (event.key.length > 1 && event.target !== canvas && event.key !== "Escape")) return;
    event.preventDefault();
    does();
  });
  element("find").addEventListener("input", (event) => find(event.target.value));
  element("in").addEventListener("click", () => zoom(0.6));
  element("out").addEventListener("click", () => zoom(1 / 0.6));
  element("all").addEventListener("click", () => look(0, story.wall));
  for (const chip of document.querySelectorAll("button.chip")) {
    chip.addEventListener("click", () => {
      const field = element("find");
      field.value = chip.getAttribute("aria-pressed") === "true" ? "" : chip.dataset.find;
      find(field.value);
    });
  }
  document.body.classList.add("clickable");
  document.addEventListener("click", (event) => {
    const cell = event.target.closest("td[data-bar]");
    if (!cell) return;
    lookAt(Number(cell.dataset.bar));
    element("timeline").scrollIntoView();
  });

  // begin

  element("timeline").hidden = false;
  readColours();
  layOut();
  paint();
  window.addEventListener("resize", () => { layOut(); look(view.from, view.to); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    readColours();
    redraw();
  });
  document.documentElement.dataset.ready = String(count);
})();
