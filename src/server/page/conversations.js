// --- two conversations side by side

/** What the field holds as a number; other text goes to the server, which says what it expects. */
function numberOr(text) {
  const trimmed = text.trim();
  return trimmed !== "" && Number.isFinite(Number(trimmed)) ? Number(trimmed) : trimmed;
}
function sampling() {
  const fields = {};
  for (const name of ["temperature", "max_tokens", "seed"])
    if ($(name).value.trim() !== "") fields[name] = numberOr($(name).value);
  return fields;
}

class Pane {
  constructor(side, index) {
    this.index = index;
    this.turns = [];  // what was said and answered, as messages
    this.running = null;
    this.templates = new Map();  // model -> has a chat template
    this.select = make("select");
    this.stopButton = make("button", {type: "button", className: "small", disabled: true,
                                      "aria-label": `Stop ${side}`}, "Stop");
    this.mode = make("p", {className: "hint mode"});
    this.log = make("div", {className: "log", tabIndex: 0, role: "log", "aria-live": "polite",
                            "aria-label": `Conversation ${side}`});
    this.element = make("section", {className: "pane", "aria-label": `The ${side} side`},
      make("div", {className: "pick"}, make("label", {}, `Model ${side}`, this.select), this.stopButton),
      this.mode, this.log);
    this.stopButton.onclick = () => this.stop();
    this.select.onchange = () => { this.chosen = true; this.clear(); this.showMode(); };
    this.clear();
  }

  clear() {
    this.stop();
    this.turns = [];
    this.log.replaceChildren(make("p", {className: "none"}, "The answer will stand here, token by token."));
  }

  stop() { if (this.running) this.running.abort(); }

  /** Keeps the choice as names come and go; a name that went stays until another is chosen. */
  offer(names, wanted) {
    const keep = this.chosen || this.turns.length || this.running ? this.select.value : wanted;
    const all = keep && !names.includes(keep) ? [...names, keep] : names;
    if ([...this.select.options].map((o) => o.value).join("\n") !== all.join("\n"))
      this.select.replaceChildren(...all.map((name) => make("option", {value: name}, name)));
    if (keep && this.select.value !== keep) this.select.value = keep;
    if (this.shown !== this.select.value) this.showMode();
  }

  /** Chats need a template: the server tells by refusing to make tokens of a message. */
  async isChat(model) {
    if ($("mode").value !== "auto") return $("mode").value === "chat";
    if (!this.templates.has(model)) {
      const probe = {model, messages: [{role: "user", content: "x"}]};
      try {
        await ask("POST", "/tokenize", probe);
        this.templates.set(model, true);
      } catch (error) {
        if (error.status !== 400) return true;  // the request itself will say what is wrong
        this.templates.set(model, false);
      }
    }
    return this.templates.get(model);
  }

  async showMode() {
    const model = this.shown = this.select.value;
    if (!model) return;
    const chat = await this.isChat(model);
    if (model !== this.select.value) return;
    setText(this.mode, chat ? "Chat, by the model's own template"
                            : "Completion of the text as it stands");
  }

  async send(text) {
    const model = this.select.value;
    const running = this.running = new AbortController();
    const turns = this.turns;  // of this conversation, also if another is begun meanwhile
    this.stopButton.disabled = false;
    this.log.setAttribute("aria-busy", "true");  // read out when it is whole
    updateStop();
    const turn = make("div", {className: "turn"});
    const note = make("p", {className: "hint number"});
    const answer = make("div", {className: "answer running"}, turn, note);
    const asked = make("div", {className: "turn asked"}, text);
    if (!this.turns.length && this.log.querySelector(".none")) this.log.replaceChildren();
    this.log.append(asked, answer);
    this.log.scrollTop = this.log.scrollHeight;
    let said = "", finish = "", usage = null, first = 0;
    const began = performance.now();
    try {
      const chat = await this.isChat(model);
      const body = {model, ...sampling(), stream: true, stream_options: {include_usage: true}};
      if (chat) {
        const system = $("system").value.trim();
        body.messages = [...(system ? [{role: "system", content: system}] : []),
                         ...($("history").checked ? turns : []), {role: "user", content: text}];
      } else {
        body.prompt = text;
        asked.classList.add("plain");
      }
      const path = chat ? "/v1/chat/completions" : "/v1/completions";
      for await (const event of events(await ask("POST", path, body, running.signal))) {
        if (event.usage) usage = event.usage;
        const choice = event.choices[0];
        if (!choice) continue;
        const piece = (chat ? choice.delta.content : choice.text) || "";
        if (piece && !first) first = performance.now();
        if (piece) {
          const follow = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 40;
          said += piece;
          turn.append(piece);
          if (follow) this.log.scrollTop = this.log.scrollHeight;
        }
        finish = choice.finish_reason || finish;
      }
    } catch (error) {
      if (error.name === "AbortError") finish = "stopped";
      else {
        answer.append(make("p", {className: "fault", role: "alert"}, error.message));
        finish = "error";
      }
    }
    if (finish !== "error") turns.push({role: "user", content: text}, {role: "assistant", content: said});
    note.textContent = describeAnswer(finish, usage, first - began, performance.now() - began);
    note.hidden = note.textContent === "";
    answer.classList.remove("running");
    turn.hidden = said === "" && finish === "error";
    this.log.scrollTop = this.log.scrollHeight;
    this.log.setAttribute("aria-busy", "false");
    if (this.running === running) this.running = null;
    this.stopButton.disabled = this.running === null;
    updateStop();
  }
}

function describeAnswer(finish, usage, untilFirst, untilLast) {
  const parts = [];
  if (usage) parts.push(`${usage.completion_tokens} tokens in ${time(untilLast / 1000)}`);
  if (usage && untilFirst > 0) parts.push(`first after ${time(untilFirst / 1000)}`);
  if (finish === "length") parts.push("cut at the limit");
  else if (finish === "stopped") parts.push("stopped");
  return parts.join(" · ");
}

const panes = [new Pane("left", 0), new Pane("right", 1)];
$("panes").append(...panes.map((pane) => pane.element));

function updateStop() {
  $("stop").disabled = panes.every((pane) => !pane.running);
}
function asked() {
  const who = document.querySelector("input[name=who]:checked").value;
  return who === "both" ? panes : [panes[Number(who)]];
}
$("composer").onsubmit = (event) => {
  event.preventDefault();
  const text = $("question").value;
  const free = asked().filter((pane) => !pane.running && pane.select.value);
  if (text.trim() === "" || free.length === 0) return $("question").focus();
  for (const pane of free) pane.send(text);
  $("question").select();
};
$("question").onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("composer").requestSubmit();
};
document.onkeydown = (event) => {
  if (event.key !== "Escape") return;
  if ($("key-box").open) { $("key-box").open = false; $("key-box").firstElementChild.focus(); return; }
  panes.forEach((pane) => pane.stop());
};
$("stop").onclick = () => { panes.forEach((pane) => pane.stop()); $("question").focus(); };
$("clear").onclick = () => { panes.forEach((pane) => pane.clear()); $("question").focus(); };
$("mode").onchange = () => panes.forEach((pane) => pane.showMode());
