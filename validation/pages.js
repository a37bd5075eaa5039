"use strict";
// Filters, colours and keys of a page that also works without them. The address keeps what is chosen: #text=...&topic=...
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

  class List {
    constructor(form) {
      this.form = form;
      this.list = document.getElementById(form.dataset.filters);
      this.none = document.getElementById(`${form.dataset.filters}-none`);
      this.fields = [...form.querySelectorAll("[data-field]")];
      this.rows = [...this.list.querySelectorAll("[data-row]")].map((element) => ({
        element,
        values: Object.fromEntries(this.fields.map(({ dataset: { field } }) => [
          field,
          field === "text" ? plain(element.dataset.text ?? element.textContent) : (element.dataset[field] ?? "").split("|"),
        ])),
      }));
      this.groups = [...this.list.querySelectorAll("[data-group]")].map((element) => ({
        element,
        rows: [...element.querySelectorAll("[data-row]")],
        count: element.querySelector("[data-group-count]"),
        link: document.querySelector(`[data-contents] a[href="#${CSS.escape(element.id)}"]`),
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
      let shown = 0;
      for (const row of this.rows) {
        const visible = this.matches(row);
        row.element.hidden = !visible;
        shown += visible;
      }
      for (const { element, rows, count, link } of this.groups) {
        const those = rows.filter((one) => !one.hidden).length;
        element.hidden = rows.length > 0 && those === 0;
        if (count) count.textContent = those === rows.length ? `${those}` : `${those} of ${rows.length}`;
        if (link) link.parentElement.hidden = element.hidden;
        if (this.chosen && those && element.tagName === "DETAILS") element.open = true;
      }
      if (this.none) this.none.hidden = shown > 0;
      const output = this.form.querySelector("[data-count]");
      const all = this.rows.length;
      output.textContent = shown === all ? `${all} ${output.dataset.count}` : `${shown} of ${all} ${output.dataset.count}`;
      this.form.classList.toggle("chosen", this.chosen);
    }

    clear() { for (const field of this.fields) field.value = ""; }

    read(said) { for (const field of this.fields) field.value = said.get(field.name) ?? ""; }
  }

  // ---------------------------------------------------------------- the address
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
  const follow = () => {
    const hash = location.hash.slice(1);
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
    addEventListener("hashchange", follow);
    follow();
  });
  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details[data-print]")) details.open = true;
  });
})();
