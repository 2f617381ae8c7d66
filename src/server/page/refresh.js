// --- staying up to date

/** Administration is offered where the server would allow it. */
async function checkAdmin() {
  let why = "";
  try {
    await ask("GET", "/v1/deltas");
    administers = true;
  } catch (error) {
    administers = false;
    why = error.message;
  }
  $("load-form").hidden = !administers;
  $("no-admin").hidden = administers;
  setText($("no-admin"), why && `Loading and unloading: ${why}.`);
}
async function refresh() {
  try {
    const models = (await askJson("GET", "/v1/models")).data;
    if (!$("dot").classList.contains("up")) await checkAdmin();  // at the start, or another process
    const base = showModels(models);
    setText($("state"), base ? `serving ${base}` : "serving");
    $("dot").className = "dot up";
  } catch (error) {
    setText($("state"), error.message);
    $("dot").className = "dot down";
    if (error.status === 401 && !key && !askedForKey) { askedForKey = true; $("key-box").open = true; $("key").focus(); }
  }
}
let askedForKey = false;
$("key-form").onsubmit = (event) => {
  event.preventDefault();
  key = $("key").value.trim();
  setText($("key-state"), key ? " (set)" : "");
  $("key-box").open = false;
  $("question").focus();
  checkAdmin().then(refresh);
};

/** Links may name models and a question: #left=NAME&right=NAME&question=TEXT. */
const wish = new URLSearchParams(location.hash.slice(1));
if (wish.has("question")) $("question").value = wish.get("question");

async function keep(action, interval) {
  for (;;) {
    if (!document.hidden) await action().catch(() => {});
    await new Promise((done) => setTimeout(done, interval()));
  }
}
$("question").focus();
keep(refresh, () => loading.size || document.querySelector("progress:not([hidden])") ? 250 : 2000);
keep(measure, () => 1000);
$("address").textContent = location.origin + "/v1";
