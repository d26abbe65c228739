// The card of a feature, as describe_feature gives it.
const APP = { name: "saescope-feature", tool: "describe_feature" };

function hear(given) {
  byId("where").textContent = visible(given.sae ?? "");
}

function section(title, ...children) {
  return element("section", "", element("h2", "", title), ...children);
}

function score(label) {
  const said = label.score;
  if (!said) return element("span", "badge none", "not tested");
  const text = `balanced accuracy ${said.balanced_accuracy.toFixed(2)} (${said.low.toFixed(2)} to ${said.high.toFixed(2)}, ${said.n} items)`;
  return element("span", said.low > 0.5 ? "badge good" : "badge poor", text);
}

function fact(name, value) {
  return element("div", "", element("dt", "", name), element("dd", "", value));
}

function tokens(rows) {
  const text = (row) => (typeof row === "string" ? row : row.token);
  if (!rows || !rows.length) return element("p", "quiet", "None.");
  return element("p", "tokens", ...rows.flatMap((row) => [element("code", "", visible(text(row)).replaceAll(" ", "\u2423")), "  "]));
}

// The server puts the token that an example was taken for between these two.
function marked(example) {
  const [, before, token, after] = /^([^]*?)\u27e6([^]*?)\u27e7([^]*)$/.exec(example.text) ?? [null, example.text, "", ""];
  return element("p", "text", visible(before), token ? element("mark", "a6", visible(token)) : null, visible(after));
}

function example(row) {
  return element("li", "", element("span", "n strength", number(row.activation)), marked(row));
}

function show(card) {
  const label = card.label ?? (card.labels ?? [])[0];
  byId("title").textContent = card.feature === undefined ? "Feature" : `Feature ${card.feature}`;
  byId("status").textContent = visible(card.summary ?? "");
  const named = label
    ? [element("p", "label", element("bdi", "", visible(label.text))), element("p", "", score(label), element("span", "quiet", ` from ${visible(label.source)}`))]
    : [element("p", "quiet", "Nobody has named this feature yet.")];
  const density = typeof card.density === "number" ? `${number(100 * card.density)} % of tokens` : "unknown";
  byId("main").replaceChildren(
    section("Label", ...named, card.url ? link(card.url) : null),
    section("How often and how strongly it fires", element("dl", "", fact("fires on", density), fact("maximum", number(card.max_activation)))),
    section("Where it fires", element("ol", "examples", ...(card.examples ?? []).map(example))),
    section("What it writes", element("h3", "", "Promotes"), tokens(card.promotes), element("h3", "", "Suppresses"), tokens(card.suppresses)),
  );
}

function link(url) {
  const made = element("a", "", "Its page on Neuronpedia");
  if (/^https:\/\//.test(url)) made.href = url;
  return element("p", "", made);
}

function pageOf(result) {
  const links = (result.content ?? []).filter((block) => block.type === "resource_link" && /^text\/html/.test(block.mimeType ?? ""));
  return result.structuredContent.page || links[0]?.uri;
}

// Of a page that this server has sent: its main part, without anything that could act.
function inert(html) {
  const main = new DOMParser().parseFromString(html, "text/html").querySelector("main");
  if (!main) throw new Error("no page");
  main.querySelectorAll("script, style, link, iframe, object, embed, form, img, base, meta").forEach((node) => node.remove());
  for (const node of main.querySelectorAll("*"))
    for (const { name, value } of [...node.attributes])
      if (/^on|^style$|^srcdoc$/i.test(name) || (/href$|^src$/i.test(name) && !/^https:\/\//.test(value))) node.removeAttribute(name);
  return document.importNode(main, true);
}

async function whole(uri) {
  byId("status").textContent = "Reading the page.";
  try {
    const read = await ask("resources/read", { uri });
    byId("main").replaceWith(inert(read.contents[0].text));
    byId("whole").hidden = true;
    byId("status").textContent = "";
    byId("main").focus();
  } catch {
    byId("status").textContent = "The whole page cannot be read through this program.";
  }
}

function receive(result) {
  if (result.isError || !result.structuredContent) {
    byId("status").textContent = visible((result.content ?? []).map((block) => block.text ?? "").join(" ") || "No result.");
    return;
  }
  show(result.structuredContent);
  const uri = pageOf(result);
  byId("whole").hidden = !(uri && canRead);
  byId("whole").onclick = () => whole(uri);
}
