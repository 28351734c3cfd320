let shown = [];
let at = 0;

function element(tag, className, text) {
  const found = document.createElement(tag);
  if (className) found.className = className;
  if (text !== undefined) found.textContent = text;
  return found;
}

function options(select, values, all) {
  const before = select.value;
  select.replaceChildren(new Option(all, ""), ...[...values].map(([value, text]) => new Option(text, value)));
  select.value = values.has(before) ? before : "";
}

const same = (values) => new Map(values.map((value) => [value, value]));
const cut = (text) => (text.length > 60 ? `${text.slice(0, 57)}...` : text);
const number = (value) => (typeof value === "number" ? String(Number(value.toFixed(3))) : value ?? "none");
const scores = (group) => group.answers.map((answer) => answer.value).filter((value) => typeof value === "number");
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const sampledOf = (answer) => answer.tokens.filter(([, logprob]) => typeof logprob === "number");
const surprise = (answer) => -mean(sampledOf(answer).map(([, logprob]) => logprob));
const textOf = (answer) => answer.tokens.map(([text]) => text).join("");

for (const group of data.groups) {
  const said = [group.id, ...group.prompt.map((turn) => turn.content), ...Object.values(group.columns)];
  group.words = [...said, ...group.answers.flatMap((each) => [textOf(each), each.cause, each.detail])].join("\n").toLowerCase();
}

const ORDERS = { // the least comes first; what has no such number, last
  low: (group) => mean(scores(group)),
  high: (group) => -mean(scores(group)),
  spread: (group) => Math.min(...scores(group)) - Math.max(...scores(group)),
  failed: (group) => scores(group).length - group.answers.length,
};
const SORTS = { value: (a) => a.value, advantage: (a) => a.advantage, sampled: (a) => a.sampled, surprise };

function sorted(items, key, sign = 1) {
  if (!key) return items;
  const rank = (item) => (Number.isFinite(key(item)) ? sign * key(item) : Infinity); // null is not finite, -null is
  return items.map((item) => [rank(item), item]).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)).map(([, item]) => item);
}

function choose() {
  const ofStage = data.groups.filter((group) => !byId("stage").value || group.stage === byId("stage").value);
  options(byId("step"), same(ofStage.map((group) => group.from)), "all");
  const ofStep = ofStage.filter((group) => !byId("step").value || group.from === byId("step").value);
  options(byId("prompt"), new Map(ofStep.map((group) => [group.id, cut(group.prompt.at(-1)?.content ?? group.id)])), "all");
  const prompt = byId("prompt").value;
  const words = byId("search").value.toLowerCase();
  const found = ofStep.filter((group) => (!prompt || group.id === prompt) && group.words.includes(words));
  shown = sorted(found, ORDERS[byId("order").value]);
  at = 0;
  show();
}

function tokens(answer) {
  const text = element("div", "text");
  for (const [piece, logprob] of answer.tokens) {
    const span = element("span", logprob === null ? "said" : "", piece);
    if (logprob === null) {
      span.title = "said by the environment";
    } else {
      const likely = typeof logprob === "number" ? Math.exp(logprob) : 0;
      span.style.backgroundColor = `rgba(var(--surprise), calc(var(--most) * ${(1 - likely).toFixed(2)}))`;
      span.title = `log-probability ${logprob}, probability ${likely.toPrecision(2)}`;
    }
    text.append(span);
  }
  return text;
}

function leastLikely(answer) {
  const found = sorted(sampledOf(answer), ([, logprob]) => logprob).slice(0, 6);
  return found.map(([text, logprob]) => `${JSON.stringify(text)} ${logprob}`).join("  ");
}

function answerCard(answer, place) {
  const card = element("article", "answer");
  const name = answer.greedy ? "greedy answer, the baseline" : `answer ${place}`;
  card.setAttribute("aria-label", name);
  const head = element("p", "marks");
  head.append(element("b", "", `score ${number(answer.value)}`));
  if (answer.advantage !== null) head.append(element("b", "", `advantage ${number(answer.advantage)}`));
  for (const [part, value] of Object.entries(answer.parts)) head.append(element("span", "", `${part} ${number(value)}`));
  for (const [reward, read] of Object.entries(answer.reads)) head.append(element("span", "", `${reward} read: ${read}`));
  const foot = element("p", "marks");
  const versions = answer.versions.length > 1 ? `versions ${answer.versions.join(", ")}` : `version ${answer.versions.join()}`;
  foot.append(`${name}; ${answer.sampled} tokens, ended by ${answer.finish}, ${versions}`);
  card.append(head, tokens(answer));
  if (answer.cause !== "ok") card.append(element("p", "cause", `${answer.cause.replace("_", " ")}: ${answer.detail}`));
  card.append(foot);
  if (sampledOf(answer).length) {
    const least = element("details", "marks");
    least.append(element("summary", "", "least likely tokens, log-probability in nats"), element("code", "", leastLikely(answer)));
    card.append(least);
  }
  return card;
}

function show() {
  const group = shown[at];
  byId("place").textContent = shown.length ? `group ${at + 1} of ${shown.length}` : "no group";
  byId("group").replaceChildren();
  if (!group) return;
  const prompt = element("div", "prompt");
  prompt.append(element("p", "marks", `${group.stage}, ${group.from}, prompt ${group.id}`));
  for (const turn of group.prompt) prompt.append(element("div", "text", `${turn.role}: ${turn.content}`));
  const columns = Object.entries(group.columns).map(([name, value]) => `${name}: ${value}`).join("; ");
  if (columns) prompt.append(element("p", "marks", columns));
  if (group.has_signal === false) prompt.append(element("p", "marks", "Without signal: its scores do not differ enough, and nothing was learned from it."));
  const answers = element("div", "answers");
  const key = SORTS[byId("sort").value];
  const numbered = sorted([...group.answers.entries()], key && (([, answer]) => key(answer)), -1);
  answers.append(...numbered.map(([place, answer]) => answerCard(answer, place + 1)));
  byId("group").append(prompt, answers);
}

function go(by) {
  at = Math.min(Math.max(at + by, 0), Math.max(shown.length - 1, 0));
  show();
  if (byId("rollouts").getBoundingClientRect().top > 0) byId("rollouts").scrollIntoView();
}

options(byId("stage"), same(data.groups.map((group) => group.stage)), "all");
byId("choose").addEventListener("submit", (event) => event.preventDefault());
for (const id of ["stage", "step", "prompt", "order"]) byId(id).addEventListener("change", choose);
byId("search").addEventListener("input", choose);
byId("search").addEventListener("keydown", (event) => { if (event.key === "Escape") event.target.blur(); });
byId("sort").addEventListener("change", show);
byId("before").addEventListener("click", () => go(-1));
byId("after").addEventListener("click", () => go(1));
document.addEventListener("keydown", (event) => {
  if (event.target.matches("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "j") go(1);
  if (event.key === "k") go(-1);
  if (event.key === "/") { event.preventDefault(); byId("search").focus(); }
});
choose();
