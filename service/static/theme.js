// Runs before the first paint, so that a remembered theme doesn't flash. The admin pages remember it under the same name.
"use strict";
(() => {
  let theme = null;
  try { theme = localStorage.getItem("telemetry-theme"); } catch { /* storage may be off */ }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  document.documentElement.dataset.script = "on";
})();
