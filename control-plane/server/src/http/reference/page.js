// The API reference: renders /openapi.json. Everything from the document becomes text nodes, never markup.
"use strict";

const METHODS = ["get", "head", "post", "put", "patch", "delete", "options"];
const byId = (id) => document.getElementById(id);

// An element with attributes and children; texts become text nodes.
function el(name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== false));
  return node;
}

// A line with `code` in backticks.
function inline(text) {
  return text.split("`").map((part, index) => (index % 2 ? el("code", {}, part) : part));
}

// Paragraphs and lists of lines that start with "- ".
function prose(text) {
  return (text ?? "").split(/\n\n+/).filter(Boolean).map((block) => {
    const lines = block.split("\n").filter(Boolean);
    const items = lines.filter((line) => line.startsWith("- "));
    if (items.length === 0) return el("p", {}, inline(lines.join(" ")));
    const before = lines.filter((line) => !line.startsWith("- "));
    return [
      before.length > 0 && el("p", {}, inline(before.join(" "))),
      el("ul", { class: "plain" }, items.map((item) => el("li", {}, inline(item.slice(2))))),
    ].filter(Boolean);
  });
}

class Reference {
  constructor(api) {
    this.api = api;
  }

  resolve(value) {
    if (!value?.$ref) return value;
    return value.$ref.split("/").slice(1).reduce((at, part) => at?.[part.replace(/~1/g, "/").replace(/~0/g, "~")], this.api);
  }

  // What a schema allows, on one line; named types are links.
  type(schema) {
    if (schema === true || schema === undefined || Object.keys(schema).length === 0) return ["anything"];
    if (schema.$ref) {
      const name = schema.$ref.split("/").pop();
      return [el("a", { href: `#type-${name}` }, name)];
    }
    if (schema.const !== undefined) return [el("code", {}, JSON.stringify(schema.const))];
    const branches = schema.anyOf ?? schema.oneOf ?? (schema.allOf?.length === 1 ? schema.allOf : undefined);
    if (branches) return branches.flatMap((branch, index) => (index ? [" or ", ...this.type(branch)] : this.type(branch)));
    if (schema.enum) return schema.enum.flatMap((value, index) => [index ? ", " : "", el("code", {}, JSON.stringify(value))]);
    const kinds = [schema.type ?? "anything"].flat();
    return kinds.flatMap((kind, index) => [index ? " or " : "", ...this.kind(kind, schema)]);
  }

  kind(kind, schema) {
    if (kind === "array") {
      if (schema.prefixItems) return ["[", ...schema.prefixItems.flatMap((item, index) => [index ? ", " : "", ...this.type(item)]), "]"];
      return ["list of ", ...this.type(schema.items)];
    }
    if (kind === "object" && schema.additionalProperties && !schema.properties) return ["map to ", ...this.type(schema.additionalProperties)];
    if (kind === "object" && schema.properties) {
      const names = Object.keys(schema.properties);
      return ["{ ", ...names.flatMap((name, index) => [index ? ", " : "", el("code", {}, name), ": ", ...this.type(schema.properties[name])]), " }"];
    }
    return [schema.format && kind === "string" ? `${kind} (${schema.format})` : kind];
  }

  bounds(schema) {
    const words = [];
    const of = (key, text) => schema[key] !== undefined && words.push(`${text} ${schema[key].toLocaleString?.("en") ?? schema[key]}`);
    of("minimum", "at least");
    of("maximum", "at most");
    of("minLength", "characters: at least");
    of("maxLength", "characters: at most");
    of("minItems", "entries: at least");
    of("maxItems", "entries: at most");
    of("maxProperties", "entries: at most");
    const lines = words.length ? [el("p", { class: "dim" }, words.join(", "))] : [];
    if (schema.pattern) lines.push(el("p", { class: "dim" }, "matches ", el("code", {}, schema.pattern)));
    if (schema.default !== undefined) lines.push(el("p", { class: "dim" }, "default ", el("code", {}, JSON.stringify(schema.default))));
    return lines;
  }

  field(name, schema, required, about) {
    return [
      el("dt", {}, el("code", {}, name), " ", this.type(schema), required ? el("span", { class: "must" }, " required") : undefined),
      el("dd", {}, prose(about ?? schema.description), this.bounds(schema)),
    ];
  }

  fields(schema) {
    const required = new Set(schema.required ?? []);
    return el("dl", {}, Object.entries(schema.properties ?? {}).map(([name, field]) => this.field(name, field, required.has(name))));
  }

  examples(media) {
    const examples = Object.entries(media?.examples ?? {});
    const messages = Object.entries(media?.["x-messages"] ?? {}).map(([name, data]) =>
      [el("dt", {}, el("code", {}, name), " ", this.type(data))]);
    return [messages.length > 0 && [el("p", {}, "Messages and their data:"), el("dl", {}, messages)], examples.map(([name, example]) => {
      const text = typeof example.value === "string" ? example.value : JSON.stringify(example.value, null, 2);
      return el("details", { open: examples.length === 1 }, el("summary", {}, `Example${name === "example" ? "" : `: ${name.replace(/_/g, " ")}`}`), el("pre", { tabindex: "0" }, text));
    })];
  }

  call(method, path, operation) {
    const quote = (text) => `'${text.replace(/'/g, `'\\''`)}'`;
    const example = (parameter) => {
      const schema = this.resolve(parameter.schema);
      return String(schema?.examples?.[0] ?? schema?.enum?.[0] ?? parameter.name.toUpperCase());
    };
    let target = path;
    const query = [];
    const words = ["curl"];
    if (method === "head") words.push("-I");
    else if (method !== "get") words.push("-X", method.toUpperCase());
    for (const scheme of Object.keys(operation.security?.[0] ?? {})) {
      const { scheme: kind, name } = this.api.components.securitySchemes[scheme];
      words.push("-H", kind === "bearer" ? `"Authorization: Bearer $GRISTMILL_TOKEN"` : quote(`${name}: …`));
    }
    for (const parameter of operation.parameters ?? []) {
      if (parameter.in === "path") target = target.replace(`{${parameter.name}}`, example(parameter).split("/").map(encodeURIComponent).join("/").replace(/%3A/g, ":"));
      else if (!parameter.required) continue;
      else if (parameter.in === "header") words.push("-H", quote(`${parameter.name}: ${example(parameter)}`));
      else query.push(`${parameter.name}=${encodeURIComponent(example(parameter))}`);
    }
    const [kind, media] = Object.entries(operation.requestBody?.content ?? {})[0] ?? [];
    if (kind) words.push("-H", quote(`Content-Type: ${kind}`));
    if (media?.examples) words.push("-d", quote(JSON.stringify(Object.values(media.examples)[0].value)));
    else if (kind) words.push("--data-binary", "@FILE");
    words.push(quote(location.origin + target + (query.length ? `?${query.join("&")}` : "")));
    return words.join(" ");
  }

  command(method, path, operation) {
    const text = this.call(method, path, operation);
    const copy = navigator.clipboard && el("button", { type: "button" }, "Copy");
    copy?.addEventListener("click", async () => {
      await navigator.clipboard.writeText(text);
      copy.textContent = "Copied";
    });
    return [el("h3", {}, "On the command line ", copy), el("pre", { class: "command", tabindex: "0" }, text)];
  }

  response(status, response) {
    const resolved = this.resolve(response);
    const content = Object.entries(resolved.content ?? {});
    const headers = Object.entries(resolved.headers ?? {}).filter(([, header]) => !header.$ref);
    return el("details", { open: status.startsWith("2") },
      el("summary", {}, el("strong", {}, status), " ", inline(resolved.description ?? "")),
      headers.length > 0 && el("dl", {}, headers.map(([name, header]) => this.field(name, header.schema ?? {}, false, header.description))),
      content.map(([kind, media]) => [el("p", {}, el("code", {}, kind), media.schema ? [" ", this.type(media.schema)] : ""), this.examples(media)]));
  }

  operation(method, path, operation) {
    const parameters = operation.parameters ?? [];
    const body = operation.requestBody;
    return el("details", { class: "entry operation", id: operation.operationId, "data-words": `${method} ${path} ${operation.operationId} ${operation.summary}`.toLowerCase() },
      el("summary", {}, el("span", { class: `method ${method}` }, method.toUpperCase()), el("code", { class: "path" }, path), el("span", { class: "about" }, operation.summary)),
      el("div", { class: "body" },
        prose(operation.description),
        parameters.length > 0 && [el("h3", {}, "Parameters"), el("dl", {}, parameters.map((parameter) =>
          this.field(parameter.name, parameter.schema ?? {}, parameter.required, `In the ${parameter.in}. ${parameter.description ?? ""}`)))],
        body && [el("h3", {}, "Body"), prose(body.description), Object.entries(body.content).map(([kind, media]) =>
          [el("p", {}, el("code", {}, kind), media.schema ? [" ", this.type(media.schema)] : ""), this.examples(media)])],
        this.command(method, path, operation),
        el("h3", {}, "Answers"),
        Object.entries(operation.responses).map(([status, response]) => this.response(status, response))));
  }

  schema(name, schema) {
    const variants = schema.oneOf ?? schema.anyOf ?? [];
    return el("details", { class: "entry", id: `type-${name}`, "data-words": name.toLowerCase() },
      el("summary", {}, el("code", { class: "path" }, name)),
      el("div", { class: "body" },
        prose(schema.description),
        schema.properties ? this.fields(schema) : variants.length === 0 && el("p", {}, this.type(schema)),
        variants.length > 0 && [el("h4", {}, "One of"), variants.map((variant) => [prose(variant.description), variant.properties ? this.fields(variant) : el("p", {}, this.type(variant))])],
        this.bounds(schema)));
  }

  section(id, title, about, entries) {
    const heading = el("section", { "aria-labelledby": id }, el("h2", { id }, title), prose(about), entries);
    const links = entries.map((entry) => el("li", { "data-for": entry.id }, el("a", { href: `#${entry.id}` }, entry.dataset.title ?? entry.id)));
    const contents = el("details", {}, el("summary", {}, title), el("ul", {}, links));
    return { heading, contents };
  }

  render() {
    const operations = Object.entries(this.api.paths).flatMap(([path, item]) =>
      METHODS.filter((method) => item[method]).map((method) => ({ method, path, operation: item[method] })));
    const sections = this.api.tags.map((tag, index) => {
      const of = operations.filter(({ operation }) => operation.tags?.includes(tag.name));
      const entries = of.map(({ method, path, operation }) => this.operation(method, path, operation));
      entries.forEach((entry, at) => { entry.dataset.title = of[at].operation.summary; });
      return this.section(`tag-${index}`, tag.name, tag.description, entries);
    });
    const types = Object.entries(this.api.components.schemas).map(([name, schema]) => this.schema(name, schema));
    types.forEach((entry) => { entry.dataset.title = entry.id.slice("type-".length); });
    sections.push(this.section("types", "types", "What bodies are made of.", types));
    byId("version").textContent = this.api.info.version;
    byId("contents").replaceChildren(...sections.map(({ contents }) => contents));
    byId("main").replaceChildren(...prose(this.api.info.description).flat(), ...sections.map(({ heading }) => heading));
  }
}

// Shows what holds all words of the filter.
function filter() {
  const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  let found = 0;
  for (const entry of document.querySelectorAll(".entry")) {
    entry.hidden = !words.every((word) => entry.dataset.words.includes(word));
    found += entry.hidden ? 0 : 1;
    const link = document.querySelector(`[data-for="${CSS.escape(entry.id)}"]`);
    if (link) link.hidden = entry.hidden;
  }
  for (const section of document.querySelectorAll("section")) section.hidden = !section.querySelector(".entry:not([hidden])");
  byId("found").textContent = words.length ? `${found} found` : "";
}

// Opens what the address names.
function open() {
  const entry = byId(decodeURIComponent(location.hash.slice(1)));
  if (!entry?.classList.contains("entry")) return;
  entry.hidden = false;
  entry.open = true;
  entry.scrollIntoView();
  entry.querySelector("summary").focus({ preventScroll: true });
}

function fail(error) {
  document.documentElement.dataset.state = "failed";
  const notice = byId("notice") ?? byId("main").appendChild(el("p", { id: "notice", role: "alert" }));
  notice.textContent = `The reference cannot be shown: ${error}. The description itself is at /openapi.json.`;
}

async function start() {
  const answer = await fetch("/openapi.json");
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  new Reference(await answer.json()).render();
  byId("filter").addEventListener("input", filter);
  addEventListener("hashchange", open);
  addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.matches("input") || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    byId("filter").focus();
  });
  document.documentElement.dataset.state = "ready";
  open();
}

addEventListener("error", (event) => fail(event.message));
start().catch(fail);
