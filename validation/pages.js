"use strict";
// Filters, colours and keys of a page that also works without them. The address keeps what is chosen, as
// #text=...&topic=...
(() => {
  const root = document.documentElement;
  root.classList.add("js");

  // ---------------------------------------------------------------- colours: auto, light, dark
  const KEY = "refdiff-theme";
  const THEMES = ["auto", "light", "dark"];
  const kept = () => { try { return localStorage.getItem(KEY); } catch { return null; } };
  const keep = (theme) => { try { localStorage.setItem(KEY, theme); } catch { /* a page that may not store */ } };
  const wear = (theme) => {
    if (theme === "auto") delete root.dataset.theme; else root.dataset.theme = theme;
    for (const button of document.querySelectorAll("[data-theme-toggle]")) {
      button.setAttribute("aria-label", `colours: ${theme === "auto" ? "as the system has them" : theme}`);
      button.querySelector("[data-theme-name]").textContent = theme;
    }
  };
  let theme = THEMES.includes(kept()) ? kept() : "auto";
  wear(theme);

  // ---------------------------------------------------------------- filters
  const plain = (text) => text.toLowerCase().replace(/\s+/g, " ").trim();
  // what all rows of a group share may stand once, at the group
  const told = (element, field) => element.closest(`[data-${field}]`)?.dataset[field] ?? "";

  // all of it, too: a name may have a bar
  const values = (text) => [text, ...text.split("|")];

  // of a row: data-text and what is marked as searched; all of it where it has neither
  const searched = (row) => {
    const marked = [...row.querySelectorAll("[data-searched]")].map((one) => one.textContent);
    if (row.dataset.text !== undefined) marked.push(row.dataset.text);
    return marked.length ? marked.join(" ") : row.textContent;
  };

  class List {
    constructor(form) {
      this.form = form;
      this.list = document.getElementById(form.dataset.filters);
      this.none = document.getElementById(`${form.dataset.filters}-none`);
      this.fields = [...form.querySelectorAll("[data-field]")];
      this.rows = [...this.list.querySelectorAll("[data-row]")].map((element) => ({
        element,
        weight: Number(element.dataset.weight ?? 1),
        values: Object.fromEntries(this.fields.map(({ dataset: { field } }) => [
          field,
          field === "text" ? plain(searched(element)) : values(told(element, field)),
        ])),
      }));
      const known = new Map(this.rows.map((row) => [row.element, row]));
      this.groups = [...this.list.querySelectorAll("[data-group]")].map((element) => ({
        element,
        rows: [...element.querySelectorAll("[data-row]")].map((one) => known.get(one)),
        count: element.querySelector("[data-group-count]"),
        link: element.id ? document.querySelector(`[data-contents] a[href="#${CSS.escape(element.id)}"]`) : null,
        opened: false,
      }));
    }

    matches(row) {
      return this.fields.every(({ value, dataset: { field } }) => {
        if (field !== "text") return !value || row.values[field].includes(value);
        return plain(value).split(" ").every((word) => row.values.text.includes(word));
      });
    }

    get chosen() { return this.fields.some((field) => field.value !== ""); }

    apply() {
      // a row may stand for several
      const sum = (rows) => rows.reduce((total, { weight }) => total + weight, 0);
      const visible = (rows) => rows.filter((row) => !row.element.hidden);
      for (const row of this.rows) row.element.hidden = !this.matches(row);
      for (const group of this.groups) {
        const { element, rows, count, link } = group;
        const [those, total] = [sum(visible(rows)), sum(rows)];
        element.hidden = rows.length > 0 && those === 0;
        if (count) count.textContent = those === total ? `${those}` : `${those} of ${total}`;
        if (link) {
          link.parentElement.hidden = element.hidden;
          if (link.nextElementSibling) link.nextElementSibling.textContent = those;
        }
        // what a choice has opened is closed with it
        if (this.chosen && those && element.tagName === "DETAILS" && !element.open) element.open = group.opened = true;
        else if (!this.chosen && group.opened) element.open = group.opened = false;
      }
      const [shown, all] = [sum(visible(this.rows)), sum(this.rows)];
      if (this.none) this.none.hidden = shown > 0 || !this.chosen;
      const output = this.form.querySelector("[data-count]");
      output.textContent = `${shown === all && all !== 1 ? all : `${shown} of ${all}`} ${output.dataset.count}`;
      this.form.classList.toggle("chosen", this.chosen);
    }

    clear() { for (const field of this.fields) field.value = ""; }

    read(said) { for (const field of this.fields) field.value = said.get(field.name) ?? ""; }
  }

  // ---------------------------------------------------------------- formulas: is an index below its line?
  const unlowered = () => {
    const probe = document.createElement("div");
    probe.innerHTML = "<math><msub><mi>x</mi><mi>x</mi></msub></math>";
    document.body.append(probe);
    const [base, index] = [...probe.querySelectorAll("mi")].map((one) => one.getBoundingClientRect());
    probe.remove();
    return index.bottom - base.bottom < 0.2 * base.height;
  };

  // ---------------------------------------------------------------- code, coloured lightly when it is first seen
  const TOKENS = new RegExp([
    /(?<string>"""[^]*?"""|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')/,
    /(?<comment>#.*)/,
    /(?<word>\b(?:def|return|yield|from|import|for|in|if|elif|else|while|with|as|not|and|or|is|lambda|raise)\b)/,
    /(?<wrong>\bwrong\b)/,
  ].map((one) => one.source).join("|"), "g");
  const colour = (code) => {
    const text = code.textContent;
    const parts = [];
    let last = 0;
    for (const found of text.matchAll(TOKENS)) {
      const span = document.createElement("span");
      span.className = Object.entries(found.groups).find(([, value]) => value !== undefined)[0];
      span.textContent = found[0];
      parts.push(text.slice(last, found.index), span);
      last = found.index + found[0].length;
    }
    code.replaceChildren(...parts, text.slice(last));
  };
  document.addEventListener("toggle", (event) => {
    if (!event.target.open) return;
    for (const code of event.target.querySelectorAll(":scope > pre.code > code:not(:has(span))")) colour(code);
  }, true);

  // ---------------------------------------------------------------- the address
  const NARROW = 1000; // pixels: where contents stand above what they list
  let lists = [];
  const write = () => {
    const said = new URLSearchParams();
    for (const list of lists) for (const { name, value } of list.fields) if (value) said.set(name, value);
    history.replaceState(null, "", said.size ? `#${said}` : location.pathname + location.search);
  };
  const changed = () => { lists.forEach((list) => list.apply()); write(); };
  const reveal = (target) => {
    for (const list of lists.filter((one) => one.list.contains(target))) {
      const hidden = target.hidden || target.closest("[hidden]");
      if (hidden) { list.clear(); list.apply(); }
    }
    for (let one = target; one; one = one.parentElement) if (one.tagName === "DETAILS") one.open = true;
    target.scrollIntoView();
  };
  const follow = (address = location.hash) => {
    const hash = address.slice(1);
    if (hash.includes("=")) {
      const said = new URLSearchParams(hash);
      lists.forEach((list) => { list.read(said); list.apply(); });
      const first = lists.find((list) => list.chosen);
      if (first && first.list.getBoundingClientRect().top > innerHeight) first.form.scrollIntoView();
    } else if (hash) {
      const target = document.getElementById(decodeURIComponent(hash));
      if (target) reveal(target);
    }
  };

  document.addEventListener("DOMContentLoaded", () => {
    wear(theme);
    for (const button of document.querySelectorAll("[data-theme-toggle]")) {
      button.addEventListener("click", () => {
        theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
        wear(theme);
        keep(theme);
      });
    }
    lists = [...document.querySelectorAll("form[data-filters]")].map((form) => new List(form));
    root.classList.toggle("no-math-font", unlowered());
    for (const contents of document.querySelectorAll("details[data-contents]")) contents.open = innerWidth >= NARROW;
    for (const list of lists) {
      list.form.addEventListener("input", changed);
      list.form.addEventListener("submit", (event) => event.preventDefault());
      list.form.addEventListener("reset", (event) => { event.preventDefault(); list.clear(); changed(); });
      list.apply();
    }
    for (const button of document.querySelectorAll("[data-clear]")) {
      const list = lists.find((one) => one.list.id === button.dataset.clear);
      button.addEventListener("click", () => { list.clear(); changed(); });
    }
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const writing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName ?? "");
      if (event.key === "/" && !writing) {
        event.preventDefault();
        document.querySelector("[data-first]")?.focus();
      } else if (event.key === "Escape") {
        lists.forEach((list) => list.clear());
        changed();
      }
    });
    // at the click, not only when the address has changed: a link that was followed before leads to its place again
    document.addEventListener("click", (event) => {
      const link = event.target.closest("a[href^='#']");
      if (link && !(event.ctrlKey || event.metaKey || event.shiftKey || event.altKey)) follow(link.hash);
    });
    addEventListener("hashchange", () => follow());
    follow();
  });
  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details[data-print]")) details.open = true;
  });
})();
