"use strict";
const at = (id) => document.getElementById(id);
const make = (tag, text, name) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (name) element.className = name;
  return element;
};
let columns = ["text"];

const body = () => {
  const asked = { text: at("first").value };
  if (columns.length > 1) asked.second = at("second").value;
  return asked;
};

const showCurl = () => {
  const quoted = JSON.stringify(body()).replaceAll("'", "'\\''");
  const url = new URL("predict", location.href);
  at("curl").textContent =
    `curl -s ${url} \\\n  -H 'content-type: application/json' \\\n  -d '${quoted}'`;
};

const showPrediction = (found, milliseconds) => {
  const parts = [];
  if (found.value !== undefined) {
    parts.push(make("p", found.value.toFixed(3), "label"));
  } else {
    const several = found.labels && (found.labels.join(", ") || "No label");
    parts.push(make("p", several ?? found.label ?? "No answer", "label"));
    if (found.withheld) parts.push(make("p", `Withheld: ${found.withheld}.`, "quiet"));
    const table = make("table");
    const head = make("caption", "Probability of every label", "quiet");
    table.append(head);
    const shares = Object.entries(found.probabilities).sort((a, b) => b[1] - a[1]);
    for (const [label, share] of shares) {
      const row = make("tr");
      const name = make("th", label);
      name.scope = "row";
      const cell = make("td", undefined, "share");
      const bar = make("div", undefined, "bar");
      const filled = make("div");
      filled.style.width = `${100 * share}%`;
      bar.append(filled);
      cell.append(bar);
      row.append(name, cell, make("td", `${(100 * share).toFixed(1)} %`, "number"));
      table.append(row);
    }
    parts.push(table);
  }
  parts.push(make("p", `${milliseconds.toFixed(0)} ms, the way there and back included`, "quiet"));
  at("answer").replaceChildren(...parts);
};

const showProblems = (problems) => {
  const list = make("ul");
  list.append(...problems.map((told) => make("li", told)));
  at("answer").replaceChildren(make("p", "The server refused this.", "problem"), list);
};

const ask = async () => {
  const button = at("ask");
  button.setAttribute("aria-busy", "true");
  const began = performance.now();
  try {
    const response = await fetch("predict", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body()),
    });
    const found = await response.json();
    if (response.ok) showPrediction(found.predictions[0], performance.now() - began);
    else showProblems(found.error.problems);
  } catch (error) {
    showProblems([`No answer from the server (${error.message}). Is it still running?`]);
  } finally {
    button.removeAttribute("aria-busy");
  }
};

const describe = async () => {
  try {
    const health = await (await fetch("health")).json();
    columns = health.columns.length ? health.columns : ["text"];
    if (health.task) {
      at("title").textContent = health.task;
      document.title = `${health.task}: try the model`;
    }
    const labels = health.labels.length ? `Labels: ${health.labels.join(", ")}.` : "Gives a value.";
    at("about").textContent = `${labels} Runs as ${health.variant}, served by kdlora ${health.kdlora}.`;
    at("first-label").textContent = columns[0];
    at("second-field").hidden = columns.length < 2;
    if (columns.length > 1) at("second-label").textContent = columns[1];
  } catch (error) {
    at("about").textContent = `No answer from the server (${error.message}).`;
  }
  showCurl();
};

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
at("form").addEventListener("input", showCurl);
at("form").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    at("form").requestSubmit();
  }
});
describe();
