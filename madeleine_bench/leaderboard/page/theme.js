(function () {
  "use strict";
  // Light or dark: the system's choice until the reader makes one. Storage may be refused on file://.
  const KEY = "mbench-theme";
  const root = document.documentElement;

  function stored() {
    try { return window.localStorage.getItem(KEY); } catch (refused) { return null; }
  }
  function store(theme) {
    try { window.localStorage.setItem(KEY, theme); } catch (refused) { /* kept for this page only */ }
  }
  function current() {
    const dark = window.matchMedia("(prefers-color-scheme: dark)").matches;
    return root.dataset.theme || (dark ? "dark" : "light");
  }
  function name(button) {
    button.textContent = current() === "dark" ? "Light colours" : "Dark colours";
  }
  function start() {
    const button = document.getElementById("theme");
    button.hidden = false;
    name(button);
    button.addEventListener("click", function () {
      root.dataset.theme = current() === "dark" ? "light" : "dark";
      store(root.dataset.theme);
      name(button);
    });
  }

  const kept = stored();
  if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  document.addEventListener("DOMContentLoaded", start);
})();
