"use strict";
// Loaded before the first paint, so that a remembered theme never flashes and what needs a script shows only with one.
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  try {
    const theme = localStorage.getItem("telemetry-theme");
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  } catch {
    // storage is switched off: the system's theme it is
  }
})();
