// The page: choose a task, fill in its form, see what the models say.
//
//   v1/tasks --> task --> fields, samples, variants, versions --> :predict, once a model --> results
//
// What the service says is only ever shown as text. An answer to what is no longer asked (another task was chosen,
// Predict was pressed again) is dropped.

import { Refusal, call, hasKey, taskPath, useKey } from "./client.js";
import { accept, copy, inputField, picture, refuse, title } from "./fields.js";
import { badge, disagree, resultCard, said, spoken } from "./results.js";
import { plot } from "./series.js";

const find = (selector, root = document) => root.querySelector(selector);
const form = find("#form");
const keyForm = find("#key-form");
const READY_SHOWN = 8; // versions, the newest
const choices = [...document.querySelectorAll(".choice")];

let task; // as in /v1/tasks
let listed; // when the task's variants are, a promise
let fields = new Map(); // input's name -> field
let truth = ""; // label of the sample in the form; none once it is edited
let question = 0; // counts predictions asked for
let afterKey; // what a missing key kept from being done

// ---- start

async function start() {
  const loading = find("#loading");
  accept(loading);
  loading.hidden = false;
  find(".hint", loading).hidden = false;
  find("#reload").hidden = true;
  try {
    const { tasks } = await call("v1/tasks");
    if (!tasks.length) throw new Refusal(0, "no task is served yet: the run has published no version");
    showTasks(tasks);
    loading.hidden = true;
    form.hidden = false;
  } catch (refusal) {
    if (refusal.status === 401) {
      loading.hidden = true;
      askForKey(refusal, start);
      return;
    }
    find(".hint", loading).hidden = true;
    find("#reload").hidden = false;
    refuse(loading, refusal.message);
  }
  showVersions();
}

function showTasks(tasks) {
  const cards = tasks.map((each) => {
    const card = copy("task-template");
    const radio = find("input", card);
    find("strong", card).textContent = title(each.name);
    find(".soft", card).textContent = `${each.inputs.map(({ name }) => name).join(" + ")} → ${outcome(each)}`;
    radio.value = each.name;
    radio.addEventListener("change", () => showTask(each));
    return card;
  });
  find("#tasks").append(...cards);
  find("input", cards[0]).checked = true;
  showTask(tasks[0]);
}

function outcome({ head, labels }) {
  if (head === "regression") return "a number";
  return head === "multilabel" ? `any of ${labels.length} labels` : `one of ${labels.length} labels`;
}

// ---- a task's form

function showTask(chosen) {
  task = chosen;
  question++;
  accept(form);
  edited();
  const metrics = Object.entries(task.metrics).map(
    ([name, value]) => `${name.replaceAll("_", " ")} ${value.toFixed(3)}`,
  );
  find("#about").textContent = [`v${task.version}`, ...metrics].join(" · ");
  fields = new Map(task.inputs.map((input) => [input.name, inputField(input, edited)]));
  find("#fields").replaceChildren(...[...fields.values()].map(({ element }) => element));
  const versions = task.versions.toSorted((one, other) => other - one);
  for (const choice of choices) {
    const options = versions.map((version) => new Option(`v${version}`, version));
    find("select", choice).replaceChildren(new Option(`served now (v${task.version})`, ""), ...options);
    find("input", choice).value = "";
  }
  showNothing();
  showSamples();
  listed = showVariants();
}

/** The form no longer holds a sample as it was. */
function edited() {
  truth = "";
  for (const pressed of document.querySelectorAll(".sample[aria-pressed=true]")) pressed.ariaPressed = "false";
}

async function showSamples() {
  const asked = task;
  const group = find("#samples");
  group.hidden = true;
  const { samples } = await call(`${taskPath(task.name)}/samples`).catch(() => ({ samples: [] }));
  if (asked !== task) return;
  for (const old of group.querySelectorAll(".sample")) old.remove();
  group.append(...samples.map(sampleButton));
  group.hidden = !samples.length;
}

function sampleButton({ inputs, label }, index) {
  const button = copy("sample-template");
  const text = task.inputs.find(({ kind }) => kind === "text");
  button.setAttribute("aria-label", `Sample ${index + 1}${text ? `: ${inputs[text.name].slice(0, 80)}` : ""}`);
  for (const { name, kind } of task.inputs.toSorted((one, other) => (one.kind > other.kind ? 1 : -1))) {
    const value = inputs[name];
    if (kind === "text") {
      const words = document.createElement("span");
      words.textContent = value.slice(0, 120);
      button.append(words);
    } else {
      button.append(kind === "image" ? picture(`data:image/png;base64,${value}`) : plot(value));
    }
  }
  button.addEventListener("click", () => {
    accept(form);
    for (const [name, field] of fields) field.fill(inputs[name]);
    edited();
    truth = label;
    button.ariaPressed = "true";
  });
  return button;
}

async function showVariants(contains = "") {
  const asked = task;
  const query = new URLSearchParams({ contains, limit: 100 });
  const nothing = { variants: [], total: 0 };
  const { variants, total } = await call(`${taskPath(task.name)}/variants?${query}`).catch(() => nothing);
  if (asked !== task) return;
  find("#variants").replaceChildren(...variants.map((variant) => new Option(variant, variant)));
  if (contains) return;
  task.variant = variants[0] ?? "global";
  for (const choice of choices) find("input", choice).placeholder = task.variant;
  find("#variants-hint").textContent = `${total} ${total === 1 ? "variant" : "variants; type to find one"}`;
}

// ---- predict

async function predict() {
  const mine = ++question;
  accept(form);
  find("#results").setAttribute("aria-busy", "true");
  try {
    const inputs = await readInputs();
    await listed; // which variant is asked unless another is named
    if (mine !== question) return;
    const answers = [];
    for (const choice of choices.filter(({ hidden }) => !hidden)) { // one after the other: each latency is its own
      const answer = await ask(inputs, choice);
      if (mine !== question) return;
      answers.push(answer);
    }
    showResults(answers);
  } catch (refusal) {
    if (mine !== question) return;
    showNothing();
    if (refusal.status === 401) askForKey(refusal, predict);
    else refuse(refusal.place ?? find("[data-field=form]"), refusal.message);
  } finally {
    if (mine === question) find("#results").removeAttribute("aria-busy");
  }
}

async function readInputs() {
  const inputs = {};
  for (const [name, field] of fields) {
    const value = await field.value().catch((error) => {
      throw Object.assign(error, { place: field.element });
    });
    if (value !== null) inputs[name] = value;
  }
  if (Object.keys(inputs).length) return inputs;
  const [first] = fields.values();
  const names = [...fields.keys()].join(" or ");
  throw Object.assign(new Refusal(0, `give ${names}`), { place: first.element });
}

async function ask(inputs, choice) {
  const query = new URLSearchParams({ variant: find("input", choice).value.trim() || task.variant || "global" });
  const version = find("select", choice).value;
  if (version) query.set("version", version);
  const begun = performance.now();
  try {
    const { predictions, ...answer } = await call(`${taskPath(task.name)}:predict?${query}`, { inputs: [inputs] });
    return { ...answer, prediction: predictions[0], latency_ms: performance.now() - begun };
  } catch (refusal) {
    throw Object.assign(refusal, { place: placeOf(refusal.field, choice) });
  }
}

/** Where a field of the request is on the page: `inputs.0.image`, `variant`, `version`. */
function placeOf(field, choice) {
  const [root, , name] = field.split(".");
  if (root === "inputs") return fields.get(name)?.element ?? fields.values().next().value.element;
  return root === "variant" || root === "version" ? find(`[data-field=${root}]`, choice) : null;
}

function showResults(answers) {
  const differ = disagree(answers);
  const verdict = find("#verdict");
  verdict.hidden = answers.length < 2;
  verdict.classList.toggle("differ", differ);
  verdict.textContent = differ
    ? `The models disagree: ${answers.map(({ prediction }) => said(prediction)).join(" or ")}`
    : "The models agree";
  find("#results").replaceChildren(...answers.map((answer) => resultCard(answer, truth, differ)));
  find("#spoken").textContent = spoken(answers, truth);
  find("#result-title").scrollIntoView({ block: "nearest" });
  if (answers.some(({ version }) => !task.versions.includes(version))) showVersions();
}

function showNothing() {
  find("#verdict").hidden = true;
  find("#spoken").textContent = "";
  const empty = document.createElement("p");
  empty.className = "empty";
  empty.textContent = "Choose a sample or fill in the form, then predict.";
  find("#results").replaceChildren(empty);
}

// ---- API key

function askForKey(refusal, again) {
  afterKey = again;
  keyForm.hidden = false;
  accept(keyForm);
  if (hasKey()) refuse(keyForm, refusal.message);
  find("#key").focus();
}

keyForm.addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(find("#key").value.trim());
  keyForm.hidden = true;
  afterKey();
});

// ---- versions

async function showVersions() {
  const { versions, rollout } = await call("v1/versions").catch(() => ({ versions: [], rollout: {} }));
  const kinds = { stable: "good", canary: "warn", ready: "soft", refused: "bad" };
  const ready = versions.filter(({ state }) => state === "ready").slice(-READY_SHOWN);
  const shown = ["stable", "canary"].flatMap((kind) => versions.filter(({ state }) => state === kind));
  const refused = versions.filter(({ state }) => state === "refused");
  const items = [...shown, ...ready.toReversed(), ...refused.toReversed()].map(({ version, state, reason }) => {
    const item = document.createElement("li");
    const share = state === "canary" && rollout.canary ? ` ${rollout.canary.percent} %` : "";
    item.append(`v${version} `, badge(state + share, kinds[state]));
    if (reason) item.append(` ${reason}`);
    item.className = state;
    return item;
  });
  find("footer").hidden = !items.length;
  find("#versions").replaceChildren(...items);
  find("#published").textContent = `${versions.length} published`;
}

// ---- events

form.addEventListener("submit", (event) => {
  event.preventDefault();
  predict();
});
form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
find("#compare").addEventListener("change", ({ target }) => {
  choices[1].hidden = !target.checked;
});
for (const choice of choices) {
  let waiting;
  find("input", choice).addEventListener("input", ({ target }) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => showVariants(target.value.trim()), 200);
  });
}
find("#reload").addEventListener("click", start);
for (const event of ["dragover", "drop"]) { // a file dropped beside its field must not replace the page
  window.addEventListener(event, (dropped) => dropped.target.type === "file" || dropped.preventDefault());
}

start();
