// What the service answered, for people: a card an answer, side by side where two models are compared.

import { copy } from "./fields.js";

const SHOWN = 10; // labels, the likeliest first

/** A prediction in a few words: what two models are compared by. */
export function said(prediction) {
  if (prediction.label !== undefined) return prediction.label;
  if (prediction.labels !== undefined) return prediction.labels.join(", ") || "no label";
  return prediction.value.toPrecision(4);
}

/** A sentence for those who hear the page. */
export function spoken(answers, truth) {
  const sentences = answers.map(
    ({ prediction, variant, version }) => `Prediction: ${said(prediction)}, by ${variant} of version ${version}.`,
  );
  if (answers.length > 1) sentences.push(disagree(answers) ? "The models disagree." : "The models agree.");
  if (truth) sentences.push(`True label: ${truth}.`);
  return sentences.join(" ");
}

export const disagree = (answers) => new Set(answers.map(({ prediction }) => said(prediction))).size > 1;

/** The card of an answer `{prediction, version, variant, latency_ms}`; `truth` is the sample's label, if it is one. */
export function resultCard({ prediction, version, variant, latency_ms }, truth, differs) {
  const card = copy("result-template");
  const heading = card.querySelector("h3");
  heading.textContent = said(prediction);
  if (differs) {
    card.classList.add("differs");
    heading.append(badge("differs", "warn"));
  }
  if (truth) showTruth(card.querySelector(".truth"), prediction, truth);
  const facts = [["Version", `v${version}`], ["Variant", variant], ["Latency", `${Math.round(latency_ms)} ms`]];
  card.querySelector("dl").append(...facts.map(([name, value]) => fact(name, value)));
  if (prediction.scores) showScores(card.querySelector("table"), prediction, truth);
  return card;
}

function showTruth(line, prediction, truth) {
  line.hidden = false;
  line.textContent = `True label: ${truth}`;
  if (prediction.label === undefined) return;
  line.append(prediction.label === truth ? badge("correct", "good") : badge("wrong", "bad"));
}

function showScores(table, { label, labels, scores }, truth) {
  const ranked = Object.entries(scores).sort(([, one], [, other]) => other - one);
  const predicted = new Set(labels ?? [label]);
  table.hidden = false;
  table.caption.textContent = ranked.length > SHOWN ? `The ${SHOWN} highest of ${ranked.length} scores` : "Scores";
  table.caption.classList.toggle("unseen", ranked.length <= SHOWN);
  for (const [name, score] of ranked.slice(0, SHOWN)) {
    const row = copy("score-template");
    row.classList.toggle("predicted", predicted.has(name));
    row.querySelector("th").textContent = name;
    if (name === truth) row.querySelector("th").append(badge("true", "good"));
    row.querySelector(".bar span").style.width = `${100 * score}%`;
    row.querySelector(".score").textContent = `${(100 * score).toFixed(1)} %`;
    table.tBodies[0].append(row);
  }
}

function fact(name, value) {
  const pair = document.createElement("div");
  pair.append(document.createElement("dt"), document.createElement("dd"));
  [pair.firstChild.textContent, pair.lastChild.textContent] = [name, value];
  return pair;
}

/** A word set apart; `kind` is good, bad, warn or soft. */
export function badge(text, kind) {
  const element = document.createElement("span");
  element.className = `badge ${kind}`;
  element.textContent = text;
  return element;
}
