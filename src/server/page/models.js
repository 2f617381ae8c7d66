// --- models

const kColumns = ["Name", "State", "Archive", "In memory", "Bits per weight", "Method", "KL to fine-tune", "Top-1 agreement", "Requests", ""];
const kRight = new Set([2, 3, 4, 6, 7, 8]);
$("columns").append(...kColumns.map((name, i) => make("th",
  {scope: "col", role: "columnheader", className: kRight.has(i) ? "right" : ""},
  name || make("span", {className: "unseen"}, "Actions"))));

function size(bytes) {
  if (!Number.isFinite(bytes)) return "";
  const unit = bytes < 1 ? 0 : Math.min(4, Math.floor(Math.log10(bytes) / 3));
  const value = bytes / 1000 ** unit;
  return `${value.toFixed(unit === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2)} ${["B", "kB", "MB", "GB", "TB"][unit]}`;
}
function time(seconds) {
  if (seconds < 1) return `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
  return `${seconds.toFixed(seconds < 10 ? 2 : 0)} s`;
}
const percent = (share, digits = 1) => `${(share * 100).toFixed(digits)} %`;

let administers = false;
const rows = new Map();     // name -> Row
const loading = new Map();  // name -> what this page has asked to load and has no answer for

class Row {
  constructor(name) {
    this.name = name;
    const head = make("th", {scope: "row", role: "rowheader"}, name);
    this.cells = kColumns.slice(1).map((label, i) => make("td",
      {role: "cell", "data-label": label, className: kRight.has(i + 1) ? "right" : ""}));
    this.element = make("tr", {role: "row"}, head, ...this.cells);
    this.state = make("span");
    this.bar = make("progress", {"aria-label": `Loading ${name}`});
    this.bar.hidden = true;
    this.error = make("p", {className: "fault", hidden: true});
    this.cells[0].append(make("div", {}, this.state, this.bar, this.error));
  }

  /** Text, and a quieter line below it. */
  set(column, text, more = "") {
    const cell = this.cells[column - 1];
    if (cell.dataset.shown === text + "\n" + more) return;
    cell.dataset.shown = text + "\n" + more;
    cell.replaceChildren(...(text ? [make("div", {}, text, ...(more ? [make("small", {}, more)] : []))] : []));
  }

  show(delta) {
    const about = delta.about || {};
    const state = {on_disk: "on disk", loading: "loading", ready: "ready", draining: "unloading"}[delta.state];
    const progress = delta.progress;
    const known = progress && progress.total_bytes > 0;
    setText(this.state, state + (delta.pinned ? ", pinned" : "") +
      (known ? ` ${percent(progress.loaded_bytes / progress.total_bytes, 0)}` : ""));
    this.bar.hidden = delta.state !== "loading";
    if (known) this.bar.value = progress.loaded_bytes / progress.total_bytes;
    else this.bar.removeAttribute("value");
    this.error.hidden = !delta.last_error;
    setText(this.error, delta.last_error || "");
    this.set(2, size(about.archive_bytes), about.ratio ? `${percent(about.ratio)} of the fine-tune` : "");
    this.set(3, delta.bytes > 0 ? size(delta.bytes) : "");
    this.set(4, about.bits_per_weight == null ? "" : about.bits_per_weight.toFixed(3));
    this.set(5, about.method || "", (about.codecs || []).join(", "));
    this.set(6, about.kl == null ? "" : about.kl.toPrecision(2));
    this.set(7, about.top1 == null ? "" : percent(about.top1));
    this.set(8, delta.requests === undefined ? "" : String(delta.requests));
    this.showActions(delta);
  }

  showActions(delta) {
    if (!this.unload) {
      this.pin = make("button", {type: "button", className: "small"});
      this.unload = make("button", {type: "button", className: "small", "aria-label": `Unload ${this.name}`}, "Unload");
      this.pin.onclick = () => setPinned(this.name, !this.pinned);
      this.unload.onclick = () => unload(this.name, this.path);
      this.buttons = make("div", {className: "actions"}, this.pin, this.unload);
      this.cells[8].append(this.buttons);
    }
    this.pinned = delta.pinned;
    this.path = delta.path;
    setText(this.pin, delta.pinned ? "Unpin" : "Pin");
    this.pin.setAttribute("aria-label", `${delta.pinned ? "Unpin" : "Pin"} ${this.name}`);
    this.buttons.hidden = !administers || loading.has(this.name);
    this.unload.disabled = delta.state === "draining";
  }
}

function showModels(models) {
  const base = models.find((model) => model.parent === null);
  const deltas = models.filter((model) => model.delta).map((model) => model.delta);
  for (const [name, path] of loading)
    if (!deltas.some((delta) => delta.name === name)) deltas.push({name, path, state: "loading"});
  const names = new Set(deltas.map((delta) => delta.name));
  for (const [name, row] of rows) {
    if (names.has(name) || row.isBase) continue;
    if (row.element.contains(document.activeElement)) $("variants-title").focus();
    row.element.remove();
    rows.delete(name);
  }
  if (base && !rows.has(base.id)) {
    const row = new Row(base.id);
    row.isBase = true;
    rows.set(base.id, row);
    $("rows").prepend(row.element);
    setText(row.state, "base");
  }
  for (const delta of deltas) {
    if (!rows.has(delta.name)) {
      rows.set(delta.name, new Row(delta.name));
      $("rows").append(rows.get(delta.name).element);
    }
    rows.get(delta.name).show(delta);
  }
  const offered = [...(base ? [base.id] : []), ...deltas.map((delta) => delta.name)];
  const variant = deltas.find((delta) => delta.state === "ready") || deltas[0];
  panes[0].offer(offered, wish.get("left") || offered[0]);
  panes[1].offer(offered, wish.get("right") || (variant ? variant.name : offered[0]));
  setText($("totals"), deltas.length === 1 ? "1 variant" : `${deltas.length} variants`);
  return base ? base.id : "";
}

function say(text) { setText($("said"), text); $("fault").hidden = true; }
function complain(error) {
  setText($("said"), "");
  $("fault").hidden = false;
  setText($("fault"), error.message);
}

async function change(what, action) {
  say(`${what} …`);
  try {
    await action();
    say(`${what}: done.`);
  } catch (error) {
    complain(error);
  }
  return refresh();
}
const deltaPath = (name) => `/v1/deltas/${encodeURIComponent(name)}`;
function setPinned(name, pinned) {
  return change(`${pinned ? "Pin" : "Unpin"} ${name}`, () => ask("PATCH", deltaPath(name), {pinned}));
}
function unload(name, path) {
  $("load-name").value = name;  // so that it can be loaded again
  $("load-path").value = path;
  return change(`Unload ${name}`, () => ask("DELETE", deltaPath(name)));
}
$("load-form").onsubmit = (event) => {
  event.preventDefault();
  const name = $("load-name").value.trim(), path = $("load-path").value.trim();
  const body = {name, path, pinned: $("load-pin").checked, replace: $("load-replace").checked};
  change(`Load ${name}`, async () => {
    if (name) loading.set(name, path);
    refresh();
    try { await ask("POST", "/v1/deltas", body); } finally { loading.delete(name); }
    panes.forEach((pane) => pane.templates.clear());  // another archive may bear the name now
  });
};
