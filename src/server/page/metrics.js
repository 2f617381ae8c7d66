// --- metrics

/** Name -> list of [labels, value]. */
function parseMetrics(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (!match) continue;
    if (!found.has(match[1])) found.set(match[1], []);
    found.get(match[1]).push([match[2] || "", Number(match[3])]);
  }
  return found;
}
/** Upper bounds and cumulative counts. */
function buckets(found, name) {
  return (found.get(name + "_bucket") || []).map(([labels, count]) =>
    [Number(/le="([^"]*)"/.exec(labels)[1].replace("+Inf", "Infinity")), count]);
}
/** Interpolated within its bucket, as Prometheus does; null without observations. */
function quantile(q, now, before) {
  const counts = now.map(([bound, count], i) => [bound, count - (before[i] ? before[i][1] : 0)]);
  const total = counts.length ? counts.at(-1)[1] : 0;
  if (total <= 0) return null;
  let lower = 0, below = 0;
  for (const [bound, count] of counts) {
    if (count >= q * total) {
      if (bound === Infinity) return lower;
      return lower + (bound - lower) * (q * total - below) / (count - below || 1);
    }
    [lower, below] = [bound, count];
  }
  return lower;
}

const kSamples = 61;  // a minute
class Gauge {
  constructor(label, print, top) {
    this.label = label;
    this.print = print;
    this.top = top;  // of the drawing; without it the largest value is
    this.values = [];
    this.number = make("dd", {className: "number"}, "–");
    const ns = "http://www.w3.org/2000/svg";
    this.drawing = document.createElementNS(ns, "svg");
    for (const [name, value] of [["viewBox", "0 0 60 30"], ["preserveAspectRatio", "none"], ["aria-hidden", "true"]])
      this.drawing.setAttribute(name, value);
    [this.fill, this.stroke] = ["fill", "stroke"].map((kind) => {
      const path = document.createElementNS(ns, "path");
      path.setAttribute("class", kind);
      this.drawing.append(path);
      return path;
    });
    this.element = make("div", {className: "gauge"}, make("dt", {}, label), this.number, this.drawing);
  }
  add(value) {
    this.values = [...this.values, value].slice(-kSamples);
    setText(this.number, value === null ? "–" : this.print(value));
    const top = this.top || Math.max(...this.values, 1e-9);
    let line = "", area = "", open = null;
    this.values.forEach((v, i) => {
      if (v === null) { open = null; return; }
      const x = 60 - (this.values.length - 1 - i), y = (28 - 26 * Math.min(1, v / top)).toFixed(2);
      line += `${open === null ? "M" : "L"}${x} ${y}`;
      if (open !== null) area += `M${x - 1} 29L${x - 1} ${open}L${x} ${y}L${x} 29Z`;
      open = y;
    });
    this.stroke.setAttribute("d", line);
    this.fill.setAttribute("d", area);
  }
}
const whole = (value) => value.toFixed(0);
const gauges = {
  rate: new Gauge("Tokens/s", (value) => value.toFixed(value < 10 ? 1 : 0)),
  running: new Gauge("Running", whole),
  waiting: new Gauge("Waiting", whole),
  cache: new Gauge("KV cache", (value) => percent(value), 1),
  p50: new Gauge("First token p50", time),
  p99: new Gauge("First token p99", time),
};
$("gauges").append(...Object.values(gauges).map((gauge) => gauge.element));

const history = [];  // {time, tokens, first} of the last minute
async function measure() {
  const found = parseMetrics(await (await ask("GET", "/metrics")).text());
  const value = (name) => found.has(name) ? found.get(name)[0][1] : 0;
  const now = {time: performance.now(), tokens: value("vllm:generation_tokens_total"),
               first: buckets(found, "vllm:time_to_first_token_seconds")};
  const last = history.at(-1);
  if (last && now.tokens < last.tokens) history.length = 0;  // another process answers now
  while (history.length > 1 && history[0].time < now.time - 60000) history.shift();
  const before = history.length ? history[0] : null;
  gauges.rate.add(last ? Math.max(0, now.tokens - last.tokens) * 1000 / (now.time - last.time) : 0);
  gauges.running.add(value("vllm:num_requests_running"));
  gauges.waiting.add(value("vllm:num_requests_waiting"));
  gauges.cache.add(value("vllm:kv_cache_usage_perc"));
  gauges.p50.add(quantile(0.5, now.first, before ? before.first : now.first));
  gauges.p99.add(quantile(0.99, now.first, before ? before.first : now.first));
  history.push(now);
  for (const row of rows.values()) if (row.isBase) row.set(3, size(value("deltacome:base_bytes")));
}
