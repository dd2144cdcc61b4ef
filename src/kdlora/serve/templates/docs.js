"use strict";
const make = (tag, text, name) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (name) element.className = name;
  return element;
};

/* A schema in a few words: "list of text or [text, text]". */
const words = (schema, all) => {
  if (!schema || !Object.keys(schema).length) return "anything";
  if (schema.$ref) return words(all[schema.$ref.split("/").pop()], all);
  if (schema.anyOf) {
    return schema.anyOf.filter((s) => s.type !== "null").map((s) => words(s, all)).join(" or ");
  }
  if (schema.prefixItems) return `[${schema.prefixItems.map((s) => words(s, all)).join(", ")}]`;
  if (schema.type === "array") return `list of ${words(schema.items, all)}`;
  if (schema.properties) return "an object";
  if (schema.type === "object") return `${words(schema.additionalProperties, all)} by name`;
  return { string: "text", integer: "whole number", number: "number" }[schema.type] || schema.type;
};

const fields = (schema, all) => {
  if (schema.$ref) return fields(all[schema.$ref.split("/").pop()], all);
  if (schema.anyOf && schema.anyOf.some((s) => s.properties || s.$ref)) {
    return schema.anyOf.flatMap((s, i) => (i ? [make("p", "or", "quiet")] : []).concat(fields(s, all)));
  }
  if (schema.type === "array") return schema.items ? fields(schema.items, all) : [];
  if (!schema.properties) return [];
  const table = make("table");
  const nested = [];
  for (const [key, value] of Object.entries(schema.properties)) {
    if (value.type === "null") continue;
    const row = make("tr");
    const name = make("th");
    name.scope = "row";
    name.append(make("code", key));
    const needed = (schema.required || []).includes(key) ? "required" : "";
    row.append(name, make("td", words(value, all)), make("td", value.description || needed, "quiet"));
    table.append(row);
    const inner = fields(value, all);
    if (inner.length) nested.push(make("h3", `Each of ${key}`), ...inner);
  }
  return [table, ...nested];
};

const describe = (path, method, operation, all) => {
  const card = make("section", undefined, "card");
  const title = make("h2");
  title.append(make("span", method.toUpperCase(), "method"), make("code", path));
  card.append(title, make("p", operation.summary));
  const asked = operation.requestBody?.content?.["application/json"]?.schema;
  if (asked) card.append(make("h3", "Request, application/json"), ...fields(asked, all));
  const answered = operation.responses?.["200"]?.content?.["application/json"]?.schema;
  const told = answered ? fields(answered, all) : [];
  if (told.length) card.append(make("h3", "Answer"), ...told);
  const errors = Object.entries(operation.responses || {}).filter(([code]) => code >= "400");
  if (errors.length) {
    const table = make("table");
    for (const [code, error] of errors) {
      const row = make("tr");
      const name = make("th", code);
      name.scope = "row";
      row.append(name, make("td", error.description));
      table.append(row);
    }
    const shape = make("p", "Each as ", "quiet");
    shape.append(make("code", '{"error": {"kind": "...", "problems": ["..."]}}'));
    card.append(make("h3", "Errors"), table, shape);
  }
  return card;
};

const read = async () => {
  const about = document.getElementById("about");
  try {
    const api = await (await fetch("openapi.json")).json();
    document.getElementById("title").textContent = api.info.title;
    about.textContent = api.info.description;
    const all = api.components?.schemas || {};
    const cards = Object.entries(api.paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, operation]) => describe(path, method, operation, all)));
    document.getElementById("paths").replaceChildren(...cards);
  } catch (error) {
    about.textContent = `No answer from the server (${error.message}).`;
  }
};
read();
